"""CLIP's tokenizer: prompts to the ids that a CLIP model reads.

Holds `CLIPTokenizer` and knows where CLIP's files keep their vocabulary; `scorer` is its public
home. Rules and layout of the vocabulary are those of https://github.com/openai/CLIP.
"""

from __future__ import annotations

import dataclasses
import gzip
import html
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from .. import hub
from .._version import __version__
from ..config import LARGEST_SIZE, Config, read_json
from ..errors import (
    CheckpointError,
    ConfigError,
    DalleMiniWarning,
    InputError,
    InputTypeError,
    MissingFileError,
)
from ..files import write_text
from ..foreign import check_file, show
from ..models.pretrained import Loadable
from .backend import (
    MAX_LENGTH,
    read_backend,
    read_merges,
    read_text,
    refusing,
    try_backend,
    write_backend,
)

# Inside the functions that need it, because importing this library must be quick.
if TYPE_CHECKING:
    import tokenizers

START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
_OPENAI_MERGES, _NUM_OPENAI_MERGES = "bpe_simple_vocab_16e6.txt.gz", 48894
_LARGEST_TEXT = 8 << 20  # OpenAI's has 3.2 MB
_WORD_END = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTokenizerConfig(Config):
    """Settings that the vocabulary file does not hold; the defaults are Hugging Face's.

    `pad_token_id` None pads with the end token. `clean_text` repairs broken characters and HTML
    entities first, `split_special_tokens` reads a start or end token inside a prompt as plain
    text: OpenAI's code does the former, open_clip both.

    Raises:
        ConfigError: there is no room for a start, an end and one more token, or too much.
    """

    context_length: int = 77
    pad_token_id: int | None = None
    clean_text: bool = False
    split_special_tokens: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        if not 3 <= self.context_length <= MAX_LENGTH:
            raise ConfigError(
                f"context_length must be from 3 to {MAX_LENGTH:,}, not {show(self.context_length)}."
            )
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < LARGEST_SIZE:
            raise ConfigError(
                f"pad_token_id must be from 0 to {LARGEST_SIZE - 1:,}, not "
                f"{show(self.pad_token_id)}."
            )


class CLIPTokenizer(Loadable):
    """Prompts to the ids that a CLIP model reads: lower case, byte-level BPE, start and end token.

    Args:
        backend: a `tokenizers` vocabulary that holds `<|startoftext|>` and `<|endoftext|>`.
        config: what the vocabulary file does not say.

    Raises:
        CheckpointError: the vocabulary has no start or end token, or cannot encode a few strings
            that are tried.

    Example:
        >>> from dallemini.scorer import CLIPTokenizer
        >>> tokenizer = CLIPTokenizer.train(["a red apple"] * 9, vocab_size=600, context_length=8)
        >>> tokenizer("A red  APPLE").shape
        torch.Size([1, 8])
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: CLIPTokenizerConfig | None = None
    ) -> None:
        ids = [backend.token_to_id(token) for token in (START_TOKEN, END_TOKEN)]
        if ids[0] is None or ids[1] is None:
            raise CheckpointError(
                f"A CLIP vocabulary needs the tokens {START_TOKEN} and {END_TOKEN}; "
                "this tokenizer.json belongs to another model."
            )
        self.config: CLIPTokenizerConfig = config or CLIPTokenizerConfig()
        self.backend = backend
        backend.no_padding()
        backend.no_truncation()
        try_backend(backend)
        self.start_token_id: int = ids[0]
        self.end_token_id: int = ids[1]

    @classmethod
    def train(
        cls, texts: Iterable[str], *, vocab_size: int, context_length: int = 77
    ) -> CLIPTokenizer:
        """Learn a vocabulary from texts.

        It is laid out as CLIP's: 512 bytes (inside and at the end of a word), merges, start, end;
        so any text can be read, and the end token has the highest id.

        Args:
            texts: sentences like those that will be read.
            vocab_size: number of ids, fewer if the texts hold fewer repeated pieces.
            context_length: number of ids a sentence is padded or cut to.

        Raises:
            InputError: `vocab_size` has no room for the bytes and the two special tokens.
        """
        from tokenizers import trainers

        if vocab_size < 514:
            raise InputError(f"vocab_size must be at least 514 (bytes), not {vocab_size}.")
        backend = _backend([])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=_byte_alphabet(),
            # Named first, these get fixed ids; else ties between merges would fall at random.
            special_tokens=[byte + _WORD_END for byte in _byte_alphabet()],
            end_of_word_suffix=_WORD_END,
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer=trainer)
        merges = json.loads(backend.to_str())["model"]["merges"]
        config = CLIPTokenizerConfig(context_length=context_length, split_special_tokens=True)
        return cls(_backend([tuple(merge) for merge in merges[: vocab_size - 514]]), config)

    @property
    def vocab_size(self) -> int:
        """Number of ids: the highest one, plus 1."""
        return max(self.backend.get_vocab().values()) + 1

    def __call__(self, prompts: str | Sequence[str]) -> Tensor:
        """Read prompts.

        Args:
            prompts: one or more sentences; beyond `context_length` they are cut, with a warning.

        Returns:
            i64[B,T] with T = `context_length`: start token, ids, end token, padding.

        Raises:
            InputTypeError: a prompt is not a string.
            InputError: there is no prompt.
            CheckpointError: the vocabulary cannot encode a prompt.
        """
        texts = check_prompts([prompts] if isinstance(prompts, str) else prompts)
        if self.config.clean_text:
            texts = [_clean(text) for text in texts]
        length, pad = self.config.context_length, self.config.pad_token_id
        pad = self.end_token_id if pad is None else pad
        input_ids = torch.full((len(texts), length), pad, dtype=torch.int64, device="cpu")
        self.backend.encode_special_tokens = self.config.split_special_tokens
        with refusing("The CLIP vocabulary cannot encode a prompt"):
            encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            if len(encoding.ids) > length - 2:
                warnings.warn(
                    f"CLIP reads only {length - 2} tokens of a prompt; prompt {row} has "
                    f"{len(encoding.ids)} and was cut.",
                    DalleMiniWarning,
                    stacklevel=2,
                )
            ids = [self.start_token_id, *encoding.ids[: length - 2], self.end_token_id]
            input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64, device="cpu")
        return input_ids

    @classmethod
    def _load(cls, source: hub.Source) -> Self:
        names = set(source.files())
        return cls(_read_backend(source, names), _read_settings(source, names))

    def _save(self, directory: Path) -> None:
        mark = {"component": "clip_tokenizer", "version": __version__}
        settings = json.dumps({"dallemini": mark, **self.config.to_dict()}, indent=2)
        write_text(directory / _SETTINGS, settings + "\n")
        write_backend(self.backend, directory / _VOCABULARY)


def _read_backend(source: hub.Source, names: set[str]) -> tokenizers.Tokenizer:
    """Read a vocabulary: tokenizer.json, else vocab.json + merges.txt, else OpenAI's merges."""
    import tokenizers

    with refusing(f"The CLIP vocabulary of {source.name} cannot be read; download it again"):
        if _VOCABULARY in names:
            path = source.fetch([_VOCABULARY])[_VOCABULARY]
            return read_backend(path)
        if {"vocab.json", "merges.txt"} <= names:
            paths = source.fetch(["vocab.json", "merges.txt"])
            vocab = read_json(paths["vocab.json"])
            merges = read_merges(read_text(paths["merges.txt"]))
            return _with_rules(tokenizers.models.BPE(vocab, merges, end_of_word_suffix=_WORD_END))
        if _OPENAI_MERGES in names:
            path = source.fetch([_OPENAI_MERGES])[_OPENAI_MERGES]
            return _backend(read_merges(_gunzip(path), most=_NUM_OPENAI_MERGES))
    raise MissingFileError(
        f"{source.name} has no CLIP vocabulary (tokenizer.json, or vocab.json and merges.txt). "
        "Put tokenizer.json of openai/clip-vit-base-patch32 beside the weights, or pass "
        "tokenizer=CLIPTokenizer.from_pretrained('openai/clip-vit-base-patch32')."
    )


def _gunzip(path: Path) -> str:
    """Read a compressed text of a size that OpenAI's file could have."""
    check_file(path, largest=_LARGEST_TEXT, packed=True)
    with gzip.open(path) as file:
        content = file.read(_LARGEST_TEXT + 1)
    if len(content) > _LARGEST_TEXT:
        raise CheckpointError(f"{path} holds more than {_LARGEST_TEXT} bytes of merges.")
    return content.decode("utf-8")


def _read_settings(source: hub.Source, names: set[str]) -> CLIPTokenizerConfig:
    """Return the saved settings, else those of the code base that the files belong to."""
    saved: dict[str, Any] = {}
    if _SETTINGS in names:
        saved = read_json(source.fetch([_SETTINGS])[_SETTINGS])
        if saved.pop("dallemini", None):
            return CLIPTokenizerConfig.from_dict(saved)
    length = saved.get("model_max_length")
    length = length if isinstance(length, int) and 3 <= length < 10_000 else 77  # or unlimited
    open_clip = "open_clip_config.json" in names
    openai = any(name.endswith(".pt") for name in names) and "config.json" not in names
    if open_clip or openai or _OPENAI_MERGES in names:
        return CLIPTokenizerConfig(
            context_length=length,
            pad_token_id=0,
            clean_text=True,
            split_special_tokens=open_clip,
        )
    return CLIPTokenizerConfig(context_length=length)


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the prompts as a list, refusing what is no sequence of strings, or empty."""
    if not isinstance(prompts, Sequence):
        raise InputTypeError(f"Prompts must be a sequence of str, not {type(prompts).__name__}.")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise InputTypeError(f"A prompt must be a str, not {type(prompt).__name__}.")
    if not prompts:
        raise InputError("There is no prompt; pass at least one.")
    return list(prompts)


def _clean(text: str) -> str:
    """Repair text as OpenAI's tokenizer does before lower-casing."""
    import ftfy  # here, because importing this library must be quick

    return html.unescape(html.unescape(ftfy.fix_text(text))).strip().lower()


def _backend(merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """A vocabulary in CLIP's layout is nothing but its list of merges."""
    from tokenizers import models

    alphabet = _byte_alphabet()
    pieces = [*alphabet, *(byte + _WORD_END for byte in alphabet)]
    pieces += ["".join(merge) for merge in merges]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return _with_rules(models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=_WORD_END))


def _with_rules(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    import tokenizers
    from tokenizers import Regex, normalizers, pre_tokenizers

    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False) for token in (START_TOKEN, END_TOKEN)]
    )
    return backend


def _byte_alphabet() -> list[str]:
    """Return the 256 printable stand-ins of the bytes, in the order of OpenAI's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
