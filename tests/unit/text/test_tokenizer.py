"""Tokenizer, TextTokens and TokenizerConfig: encoding, training, saving, and bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini.errors import (
    ConfigError,
    DalleMiniWarning,
    InputError,
    InputTypeError,
    StorageError,
)
from dallemini.text.backend import SPECIAL_TOKENS
from dallemini.text.tokenizer import TextTokens, Tokenizer, TokenizerConfig

CAPTIONS = ["a red apple", "a red bird", "a green apple on a red table", "the bird and the apple"]
WORDS = {"red": 20, "apple": 10}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CAPTIONS * 4, vocab_size=300, max_length=16)


# Encoding


def test_tokens_are_padded_to_max_length(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["a red apple", "a red apple and a green bird"])
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (2, 16)
    assert tokens.input_ids.dtype == torch.int64
    assert tokens.attention_mask.dtype == torch.bool
    padding = ~tokens.attention_mask
    assert padding[0].any()
    assert (tokens.input_ids[padding] == tokenizer.pad_token_id).all()
    assert (tokens.input_ids[~padding] != tokenizer.pad_token_id).all()


def test_prompt_begins_and_ends_with_its_marks(tokenizer: Tokenizer) -> None:
    row = tokenizer("a red apple").trim().input_ids[0].tolist()
    assert (row[0], row[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_one_string_is_one_prompt(tokenizer: Tokenizer) -> None:
    assert torch.equal(tokenizer("a bird").input_ids, tokenizer(["a bird"]).input_ids)


def test_batch_equals_single(tokenizer: Tokenizer) -> None:
    batch = tokenizer(CAPTIONS).input_ids
    single = torch.cat([tokenizer(caption).input_ids for caption in CAPTIONS])
    assert torch.equal(batch, single)


def test_prompts_are_cleaned_if_the_model_was_trained_so(tokenizer: Tokenizer) -> None:
    assert torch.equal(tokenizer("A RED apple!!").input_ids, tokenizer("a red apple").input_ids)
    raw = Tokenizer(tokenizer.backend, config=TokenizerConfig(normalize_text=False))
    assert not torch.equal(raw("A RED apple!!").input_ids, raw("a red apple").input_ids)


def test_hashtags_use_word_frequencies(tokenizer: Tokenizer) -> None:
    split = Tokenizer(tokenizer.backend, word_frequencies=WORDS)
    assert torch.equal(split("#RedApple").input_ids, split("red apple").input_ids)


def test_truncation_keeps_the_end_mark_and_warns(tokenizer: Tokenizer) -> None:
    long = "red " * 20
    message = r"prompts\[1\] \('red red.*has 22 tokens.*reads 16: the last 6 before </s> were"
    with pytest.warns(DalleMiniWarning, match=message) as record:
        tokens = tokenizer(["a bird", long])
    assert record[0].filename == __file__
    row = tokens.input_ids[1].tolist()
    assert row[-1] == tokenizer.eos_token_id
    assert row[:-1] == tokenizer("red " * 14).input_ids[0, :-1].tolist()
    assert tokens.attention_mask[1].all()


def test_prompt_that_just_fits_is_not_touched(tokenizer: Tokenizer) -> None:
    assert tokenizer("red " * 14).attention_mask.all()


def test_unconditional_is_the_empty_text_and_not_the_empty_prompt(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.unconditional(3)
    assert tokens.input_ids.shape == (3, 16)
    expected = [tokenizer.bos_token_id, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * 14]
    assert tokens.input_ids.tolist() == [expected] * 3
    assert tokens.attention_mask.sum(dim=1).tolist() == [2, 2, 2]
    assert not torch.equal(tokenizer("").input_ids, tokenizer.unconditional().input_ids)


def test_unconditional_rejects_an_empty_batch(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="batch must be 1 or more, not 0"):
        tokenizer.unconditional(0)


def test_no_prompts_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="There are no prompts"):
        tokenizer([])


@pytest.mark.parametrize("prompts", [None, 3, b"cat", {"a": 1}, {"cat"}, iter(["cat"])])
def test_prompts_of_another_type_are_refused(tokenizer: Tokenizer, prompts: Any) -> None:
    name = type(prompts).__name__
    with pytest.raises(InputTypeError, match=f"a str or a sequence of str, not {name}"):
        tokenizer(prompts)


@pytest.mark.parametrize("wrong", [None, 3, b"cat", ["cat"]])
def test_wrong_prompt_is_named_by_position(tokenizer: Tokenizer, wrong: Any) -> None:
    with pytest.raises(InputTypeError, match=rf"prompts\[1\] must be a str, not {_name(wrong)}"):
        tokenizer(["a cat", wrong])


def test_lone_surrogate_is_refused(tokenizer: Tokenizer) -> None:
    raw = Tokenizer(tokenizer.backend, config=TokenizerConfig(normalize_text=False))
    with pytest.raises(InputError, match=r"prompts\[0\] is not valid Unicode.*surrogate"):
        raw("cat \ud83d")


def test_messages_call_prompts_as_they_are_named(tokenizer: Tokenizer) -> None:
    with pytest.warns(DalleMiniWarning, match=r"^negative_prompt \(.* nothing is left"):
        tokenizer(["a cat", "!!!"], names=["prompts[7]", "negative_prompt"])
    with pytest.raises(InputError, match="2 prompts need as many names, not 1"):
        tokenizer(["a cat", "a dog"], names=["one"])


def _name(value: object) -> str:
    return type(value).__name__


# TextTokens


def test_trim_cuts_columns_that_no_row_uses(tokenizer: Tokenizer) -> None:
    tokens = tokenizer(["a bird", "a red apple"])
    trimmed = tokens.trim()
    length = int(tokens.attention_mask.sum(dim=1).max())
    assert trimmed.input_ids.shape == (2, length)
    assert torch.equal(trimmed.input_ids, tokens.input_ids[:, :length])
    assert torch.equal(trimmed.attention_mask, tokens.attention_mask[:, :length])


def test_trim_keeps_padding_on_the_left() -> None:
    mask = torch.tensor([[False, True, False]])
    assert TextTokens(torch.ones(1, 3, dtype=torch.int64), mask).trim().input_ids.shape == (1, 2)


def test_trim_keeps_one_column_of_padding() -> None:
    empty = TextTokens(torch.ones(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool))
    assert empty.trim().input_ids.shape == (2, 1)


def test_to_moves_both_tensors(tokenizer: Tokenizer) -> None:
    moved = tokenizer("a bird").to("meta")
    assert moved.input_ids.device.type == moved.attention_mask.device.type == "meta"


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[1, 2]], torch.ones(1, 2, dtype=torch.bool), "input_ids must be a tensor .* not list"),
        (torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), r"of torch\.int64, not torch\.fl"),
        (torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2), "attention_mask must be a tensor"),
    ],
)
def test_tokens_of_another_type_are_refused(ids: Any, mask: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        TextTokens(ids, mask)


@pytest.mark.parametrize(
    ("ids_shape", "mask_shape", "message"),
    [
        ((4,), (4,), r"input_ids must have the shape \[B, T\], not \[4\]"),
        ((1, 4), (1, 1, 4), r"attention_mask must have the shape"),
        ((1, 4), (1, 5), r"\(1, 4\) and attention_mask \(1, 5\) must have the same shape"),
    ],
)
def test_tokens_of_another_shape_are_refused(
    ids_shape: tuple[int, ...], mask_shape: tuple[int, ...], message: str
) -> None:
    ids = torch.ones(ids_shape, dtype=torch.int64)
    with pytest.raises(InputError, match=message):
        TextTokens(ids, torch.ones(mask_shape, dtype=torch.bool))


def test_config_rejects_a_length_without_room() -> None:
    for length in (1, 10**9, 10**400):
        with pytest.raises(ConfigError, match=r"max_length must be from 2 to 65,536, not (1|a n)"):
            TokenizerConfig(max_length=length)


@pytest.mark.parametrize("prompt", ["!?", "...", "<p>", "\u200d"])
def test_prompt_of_which_nothing_is_left_is_warned_about(tokenizer: Tokenizer, prompt: str) -> None:
    with pytest.warns(DalleMiniWarning, match=r"prompts\[1\] .* nothing is left"):
        tokens = tokenizer(["a bird", prompt])
    assert tokens.input_ids[1].tolist() == tokenizer("").input_ids[0].tolist()


def test_emoji_are_read_by_their_names(tokenizer: Tokenizer) -> None:
    assert torch.equal(tokenizer("\N{RED APPLE}").input_ids, tokenizer("red apple").input_ids)


# Training


def test_training_gives_special_tokens_the_first_ids(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.backend.token_to_id(token) for token in SPECIAL_TOKENS]
    assert ids == [0, 1, 2, 3, 4]
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_training_is_deterministic() -> None:
    first, second = (Tokenizer.train(CAPTIONS * 3, vocab_size=290) for _ in range(2))
    assert first.backend.to_str() == second.backend.to_str()


def test_training_learns_at_most_the_vocabulary_asked_for() -> None:
    assert Tokenizer.train(CAPTIONS, vocab_size=270).vocab_size == 270
    assert Tokenizer.train(["ab"], vocab_size=300).vocab_size == 261


def test_trained_vocabulary_spells_anything(tokenizer: Tokenizer) -> None:
    raw = Tokenizer(tokenizer.backend, config=TokenizerConfig(normalize_text=False))
    text = "Ünïcode 北京 😀\n\t!"
    ids = raw(text).trim().input_ids[0].tolist()
    assert raw.backend.decode(ids) == text


def test_training_reads_an_iterator_once() -> None:
    trained = Tokenizer.train(iter(CAPTIONS), vocab_size=270, max_length=12, normalize_text=False)
    assert trained.vocab_size == 270
    assert trained.config == TokenizerConfig(max_length=12, normalize_text=False)


def test_training_without_texts_is_refused() -> None:
    with pytest.raises(InputError, match="no texts to learn from"):
        Tokenizer.train([], vocab_size=280)


def test_training_rejects_a_vocabulary_below_the_bytes() -> None:
    with pytest.raises(InputError, match="vocab_size must be 261 or more, not 260"):
        Tokenizer.train(CAPTIONS, vocab_size=260)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("a cat", "texts must be an iterable of str, not str"),
        (3, "texts must be an iterable of str, not int"),
        (["a cat", None], r"texts\[1\] must be a str, not NoneType"),
    ],
)
def test_training_on_other_types_is_refused(texts: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        Tokenizer.train(texts, vocab_size=280)


# Saving and loading


def test_saving_and_loading_is_identity(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "new" / "tokenizer")
    loaded = Tokenizer.from_pretrained(tmp_path / "new" / "tokenizer")
    assert loaded.config == tokenizer.config
    assert loaded.backend.to_str() == tokenizer.backend.to_str()
    files = sorted(path.name for path in (tmp_path / "new" / "tokenizer").iterdir())
    assert files == ["README.md", "config.json", "tokenizer.json"]


def test_word_frequencies_are_saved_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    words = {"apple": 10, "red": 20}
    Tokenizer(tokenizer.backend, word_frequencies=words).save_pretrained(tmp_path / "a")
    assert (tmp_path / "a" / "word_frequencies.txt").read_text("utf-8") == "red 20\napple 10\n"
    loaded = Tokenizer.from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b")
    again = Tokenizer.from_pretrained(tmp_path / "b")
    assert torch.equal(again("#redapple").input_ids, again("red apple").input_ids)


def test_saving_onto_a_file_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="Could not make"):
        tokenizer.save_pretrained(tmp_path / "taken")


def test_tokenizer_can_be_copied(tokenizer: Tokenizer) -> None:
    twin = copy.deepcopy(tokenizer)
    assert torch.equal(twin("a red apple").input_ids, tokenizer("a red apple").input_ids)
