"""Prompts to token ids: byte-level BPE with BART's special tokens, clean-up included.

Holds `Tokenizer` and its result `TextTokens`. Knows nothing about what a model does with the ids.
The scheme is that of BART, https://arxiv.org/abs/1910.13461, which took it from GPT-2. `tokenizers`
is imported inside the functions that need it, because importing this library must be quick.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from ..config import Config, plain_number
from ..errors import CheckpointError, ConfigError, DalleMiniWarning, InputError, InputTypeError
from ..files import write_text
from ..foreign import show
from ..hub.source import Source
from ..models.pretrained import Loadable, write_config
from .backend import (
    END,
    MAX_LENGTH,
    SPECIAL_TOKENS,
    START,
    byte_level,
    read_vocabulary,
    refusing,
    special_ids,
    special_token,
    surround,
    try_backend,
    write_backend,
)
from .knowledge import KNOWLEDGE_FILE, Knowledge
from .normalizer import TextNormalizer
from .vocabulary import TOKENIZER_FILE, WORDS_FILE, find_files, read_text_settings

if TYPE_CHECKING:
    import tokenizers


@dataclasses.dataclass(frozen=True, eq=False)
class TextTokens:
    """Token ids of some prompts, padded to one length.

    Attributes:
        input_ids: int64 [B, T], ids of the tokens; padding at the end of each row.
        attention_mask: bool [B, T], True for tokens and False for padding.

    Raises:
        InputTypeError: one of them is not a tensor of that type.
        InputError: they are not matrices of one shape.
    """

    input_ids: Tensor
    attention_mask: Tensor

    def __post_init__(self) -> None:
        _check_tensor("input_ids", self.input_ids, torch.int64)
        _check_tensor("attention_mask", self.attention_mask, torch.bool)
        if self.input_ids.shape != self.attention_mask.shape:
            raise InputError(
                f"input_ids {tuple(self.input_ids.shape)} and attention_mask "
                f"{tuple(self.attention_mask.shape)} must have the same shape."
            )

    def trim(self) -> TextTokens:
        """Cut the last columns, those that are padding in every row; one column always stays."""
        used = self.attention_mask.any(dim=0).nonzero()
        length = int(used.max()) + 1 if len(used) else 1
        return TextTokens(self.input_ids[:, :length], self.attention_mask[:, :length])

    def to(self, device: str | torch.device) -> TextTokens:
        """Return the same tokens on another device."""
        return TextTokens(self.input_ids.to(device), self.attention_mask.to(device))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Config):
    """What the vocabulary itself does not say.

    Attributes:
        max_length: tokens of a prompt, `<s>` and `</s>` included; the T of `TextTokens`.
        normalize_text: clean prompts with `TextNormalizer` first.

    Raises:
        ConfigError: `max_length` leaves no room for `<s>` and `</s>`, or is above 65,536.
    """

    max_length: int = 64
    normalize_text: bool = True

    def __post_init__(self) -> None:
        self.check_types()
        if not 2 <= self.max_length <= MAX_LENGTH:
            raise ConfigError(
                f"max_length must be from 2 to {MAX_LENGTH:,}, not {show(self.max_length)}."
            )


class Tokenizer(Loadable):
    """Turn prompts into the ids that a model was trained on.

    Args:
        backend: byte-level BPE that puts `<s>` and `</s>` around a text. Its own truncation and
            padding are switched off.
        config: length and clean-up.
        word_frequencies: for hashtags, see `TextNormalizer`.
        knowledge: what the model was taught; a prompt of strange words alone is then warned about.

    Raises:
        CheckpointError: `backend` lacks `<s>`, `<pad>` or `</s>`, does not add them, or cannot
            encode a few strings that are tried.

    Example:
        >>> from dallemini import Tokenizer
        >>> tokenizer = Tokenizer.train(["a red apple", "a red bird"], vocab_size=270)
        >>> tokens = tokenizer("A red apple!")
        >>> tokens.input_ids.shape
        torch.Size([1, 64])
        >>> tokens.trim().input_ids.shape
        torch.Size([1, 9])
    """

    _optional_files: ClassVar[tuple[str, ...]] = (WORDS_FILE, KNOWLEDGE_FILE)
    config: TokenizerConfig
    normalizer: TextNormalizer
    bos_token_id: int
    pad_token_id: int
    eos_token_id: int

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        config: TokenizerConfig | None = None,
        word_frequencies: Mapping[str, int] | str | os.PathLike[str] | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.config = TokenizerConfig() if config is None else config
        self.normalizer = TextNormalizer(word_frequencies)
        self.knowledge = knowledge
        self.bos_token_id, self.pad_token_id, self.eos_token_id = special_ids(backend)
        try_backend(backend)
        empty, expected = self._encode(""), [self.bos_token_id, self.eos_token_id]
        if empty != expected:
            raise CheckpointError(
                f"The vocabulary encodes an empty text as {empty}, not as {START} {END} "
                f"({expected}); it is not one of a DALL-E Mini model."
            )

    @property
    def max_length(self) -> int:
        """Tokens of every prompt after padding (T)."""
        return self.config.max_length

    @property
    def vocab_size(self) -> int:
        """Rows that a text embedding needs: the largest id + 1."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self):,} ids, up to {self.max_length} a prompt>"

    def __call__(
        self, prompts: str | Sequence[str], *, names: Sequence[str] | None = None
    ) -> TextTokens:
        """Return the ids of one or more prompts, padded to `max_length`.

        A prompt that is too long loses its last tokens, but not its `</s>`; a `DalleMiniWarning`
        names it. Others name a prompt of which the clean-up leaves nothing, and one without a word
        that the model knows, as far as `knowledge` says what it knows.

        Args:
            prompts: one, or B of them.
            names: what messages call each; None for `prompts[0]` and so on.

        Raises:
            InputTypeError: `prompts` is neither a string nor a sequence of strings.
            InputError: there is no prompt, one is not valid Unicode, or there is not one name for
                each.
            CheckpointError: the vocabulary cannot encode a prompt.
        """
        asked = _check_prompts(prompts)
        called = [f"prompts[{n}]" for n in range(len(asked))] if names is None else names
        if len(called) != len(asked):
            raise InputError(f"{len(asked)} prompts need as many names, not {len(called)}.")
        rows: list[list[int]] = []  # and no comprehension: warnings tell the caller's line
        for prompt, name in zip(asked, called, strict=True):
            rows.append(self._encode_prompt(prompt, name=name))
        return self._pad(rows)

    def tokenize(self, prompt: str) -> list[str]:
        """Return the pieces of a prompt that the model reads: after the clean-up, never cut.

        A piece that begins a word begins with a space. Many short ones mean a word that was rare in
        training.

        Raises:
            InputTypeError: `prompt` is not a string.
            InputError: it is not valid Unicode.

        Example:
            >>> from dallemini.testing import tiny_tokenizer
            >>> tiny_tokenizer().tokenize("A red apple!")
            [' a', ' red', ' apple']
        """
        (checked,) = _check_prompts([prompt])
        text = self.normalizer(checked) if self.config.normalize_text else checked
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{reprlib.repr(prompt)} is not valid Unicode: decode it again.")
        return [str(self.backend.decode([token])) for token in self._encode(text)[1:-1]]

    def decode(self, input_ids: Tensor | Sequence[int]) -> str:
        """Return the text of the ids of one prompt, without `<s>`, `</s>` and padding.

        The clean-up puts a space in front of every prompt, which is left out.

        Args:
            input_ids: i64[T] or i64[1,T], or a list of whole numbers.

        Raises:
            InputTypeError: they are not whole numbers.
            InputError: several rows, or an id that the vocabulary does not have.

        Example:
            >>> from dallemini.testing import tiny_tokenizer
            >>> tokenizer = tiny_tokenizer()
            >>> tokenizer.decode(tokenizer("a red apple").input_ids[0])
            'a red apple'
        """
        ids = [plain_number(one) for one in _one_row(input_ids)]
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
            raise InputTypeError(f"Ids are whole numbers, not {reprlib.repr(input_ids)}.")
        for one in ids:
            if not 0 <= one < self.vocab_size:
                raise InputError(f"There is no id {one}; they go from 0 to {self.vocab_size - 1}.")
        return str(self.backend.decode(ids, skip_special_tokens=True)).removeprefix(" ")

    def unconditional(self, batch: int = 1) -> TextTokens:
        """Return the tokens of "no prompt", which guidance compares with, `batch` times.

        They are those of the empty string as it is. The prompt "" is cleaned first, which makes
        it a space, as in training.

        Raises:
            InputError: `batch` is less than 1.
        """
        if batch < 1:
            raise InputError(f"batch must be 1 or more, not {batch}.")
        return self._pad([self._encode("")] * batch)

    def _encode_prompt(self, prompt: str, *, name: str) -> list[int]:
        text = self.normalizer(prompt) if self.config.normalize_text else prompt
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(
                f"{name} is not valid Unicode: {reprlib.repr(prompt)} has half of a "
                "surrogate pair. Decode the text it came from again."
            )
        if prompt and not prompt.isspace() and not text.strip(" ,"):
            warnings.warn(
                f"{name} ({reprlib.repr(prompt)}) has no word in it: nothing is left "
                "after the clean-up, so the model is asked for nothing. Write it in words.",
                DalleMiniWarning,
                stacklevel=3,
            )
        elif text.strip(" ,") and self.knowledge is not None and not self.knowledge.knows(text):
            near = ", ".join(map(repr, self.knowledge.near(text)))
            warnings.warn(
                f"{name} ({reprlib.repr(prompt)}) has no word that this model was "
                f"taught{f'; near ones are {near}' if near else ''}. See what it knows with "
                "`dallemini info --words`.",
                DalleMiniWarning,
                stacklevel=3,
            )
        ids = self._encode(text)
        dropped = len(ids) - self.max_length
        if dropped <= 0:
            return ids
        warnings.warn(
            f"{name} ({reprlib.repr(prompt)}) has {len(ids)} tokens, but the model "
            f"reads {self.max_length}: the last {dropped} before </s> were dropped. Shorten it.",
            DalleMiniWarning,
            stacklevel=3,
        )
        return [*ids[: self.max_length - 1], self.eos_token_id]

    def _encode(self, text: str) -> list[int]:
        # One at a time: encode_batch starts threads, which then complain in forked data loaders.
        with refusing("The vocabulary cannot encode a prompt"):
            return list(self.backend.encode(text).ids)

    def _pad(self, rows: list[list[int]]) -> TextTokens:
        input_ids = torch.full(
            (len(rows), self.max_length), self.pad_token_id, dtype=torch.int64, device="cpu"
        )
        attention_mask = torch.zeros(input_ids.shape, dtype=torch.bool, device="cpu")
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64, device="cpu")
            attention_mask[row, : len(ids)] = True
        return TextTokens(input_ids, attention_mask)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        max_length: int = 64,
        normalize_text: bool = True,
    ) -> Self:
        """Learn a vocabulary from texts; the same texts always give the same one.

        Args:
            texts: captions to learn from.
            vocab_size: the most entries: 5 special tokens, 256 bytes, the rest learned. Fewer come
                out where no pair of tokens is left that occurs twice.
            max_length: tokens of a prompt, `<s>` and `</s>` included.
            normalize_text: clean the texts, and later the prompts, with `TextNormalizer`.

        Raises:
            InputError: `vocab_size` is too small, or there are no texts.
            InputTypeError: `texts` is not an iterable of strings.
            ConfigError: `max_length` is too small.
        """
        from tokenizers import models, pre_tokenizers, trainers

        config = TokenizerConfig(max_length=max_length, normalize_text=normalize_text)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        least = len(SPECIAL_TOKENS) + len(alphabet)
        if vocab_size < least:
            raise InputError(f"vocab_size must be {least} or more, not {vocab_size}.")
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[special_token(token) for token in SPECIAL_TOKENS],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        backend = byte_level(models.BPE())
        backend.train_from_iterator(_check_texts(texts, normalize=normalize_text), trainer=trainer)
        return cls(surround(backend), config=config)

    @classmethod
    def _load(cls, source: Source) -> Self:
        names = find_files(source)
        paths = source.fetch(names.all())
        config = TokenizerConfig()
        if names.config is not None:
            path = paths[names.config]
            try:
                config = TokenizerConfig.from_dict(read_text_settings(path))
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
        backend = read_vocabulary([paths[name] for name in names.vocabulary])
        words = None if names.words is None else paths[names.words]
        known = None if names.knowledge is None else Knowledge.read(paths[names.knowledge])
        return cls(backend, config=config, word_frequencies=words, knowledge=known)

    def _save(self, directory: Path) -> None:
        write_config(directory, self.config, component="tokenizer")
        write_backend(self.backend, directory / TOKENIZER_FILE, pretty=True)
        if self.knowledge is not None:
            self.knowledge.save(directory / KNOWLEDGE_FILE)
        words = self.normalizer.word_frequencies
        target = directory / WORDS_FILE
        if isinstance(words, Mapping):
            ordered = sorted(words.items(), key=lambda item: item[1], reverse=True)
            lines = (f"{word} {count}\n" for word, count in ordered)
            write_text(target, "".join(lines))
        elif words is not None:
            shutil.copyfile(words, target)


def _one_row(input_ids: Tensor | Sequence[int]) -> list[Any]:
    rows: Any = input_ids.tolist() if isinstance(input_ids, Tensor) else input_ids
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        raise InputTypeError(f"Ids are a tensor or a list of whole numbers, not {rows!r:.80}.")
    if rows and isinstance(rows[0], list):
        if len(rows) > 1:
            raise InputError(f"decode takes one row of ids, not {len(rows)}; decode each of them.")
        rows = rows[0]
    return list(rows)


def _check_tensor(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != dtype:
        found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputTypeError(f"{name} must be a tensor of {dtype}, not {found}.")
    if tensor.dim() != 2:
        raise InputError(f"{name} must have the shape [B, T], not {list(tensor.shape)}.")


def _check_prompts(prompts: str | Sequence[str]) -> Sequence[str]:
    if isinstance(prompts, str):
        prompts = [prompts]
    elif isinstance(prompts, bytes | bytearray) or not isinstance(prompts, Sequence):
        raise InputTypeError(
            f"prompts must be a str or a sequence of str, not {type(prompts).__name__}."
        )
    if not prompts:
        raise InputError("There are no prompts; give at least one.")
    for position, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise InputTypeError(
                f"prompts[{position}] must be a str, not {type(prompt).__name__} ({prompt!r})."
            )
    return prompts


def _check_texts(texts: Iterable[str], *, normalize: bool) -> Iterator[str]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputTypeError(f"texts must be an iterable of str, not {type(texts).__name__}.")
    clean = TextNormalizer() if normalize else str
    position = -1
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"texts[{position}] must be a str, not {type(text).__name__}.")
        yield clean(text)
    if position < 0:
        raise InputError("There are no texts to learn from; give at least one.")
