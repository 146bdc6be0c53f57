"""The files of a tokenizer: released layouts, their settings, and what is missing or wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from dallemini.errors import (
    CheckpointError,
    ConfigError,
    MissingFileError,
    UnsupportedModelError,
)
from dallemini.text.tokenizer import Tokenizer, TokenizerConfig


@pytest.fixture
def released(fixtures: Path, tmp_path: Path) -> Path:
    """A writable copy of a released model's folder, weights left out."""
    return Path(shutil.copytree(fixtures / "e2e-tiny" / "model", tmp_path / "model"))


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A folder in the native layout."""
    Tokenizer.train(["a red apple"], vocab_size=261, max_length=12).save_pretrained(tmp_path)
    return tmp_path


def _edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


def test_released_folder_says_how_text_is_treated(released: Path) -> None:
    assert Tokenizer.from_pretrained(released).config == TokenizerConfig()
    change = {"max_text_length": 20, "normalize_text": False}
    _edit_json(released / "config.json", lambda values: values.update(change))
    expected = TokenizerConfig(max_length=20, normalize_text=False)
    assert Tokenizer.from_pretrained(released).config == expected


def test_released_config_without_normalize_text_means_no(released: Path) -> None:
    _edit_json(released / "config.json", lambda values: values.pop("normalize_text"))
    assert not Tokenizer.from_pretrained(released).config.normalize_text


def test_released_word_frequencies_are_used(released: Path) -> None:
    (released / "enwiki-words-frequency.txt").write_text("a 3\nred 2\napple 1\n", "utf-8")
    tokenizer = Tokenizer.from_pretrained(released)
    assert torch.equal(tokenizer("#redapple").input_ids, tokenizer("red apple").input_ids)


def test_vocabulary_pair_equals_the_single_file(released: Path) -> None:
    single = Tokenizer.from_pretrained(released)
    (released / "tokenizer.json").unlink()
    pair = Tokenizer.from_pretrained(released)
    prompts = ["a red apple", "", "Crème brûlée, 12/25 & #tags!", "a <mask> <s>"]
    assert torch.equal(pair(prompts).input_ids, single(prompts).input_ids)
    assert pair.vocab_size == single.vocab_size == 1000


def test_own_truncation_and_padding_of_a_file_are_switched_off(released: Path) -> None:
    expected = Tokenizer.from_pretrained(released)("a red apple").input_ids
    backend = tokenizers.Tokenizer.from_file(str(released / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(length=5, pad_id=7)
    backend.save(str(released / "tokenizer.json"))
    assert torch.equal(Tokenizer.from_pretrained(released)("a red apple").input_ids, expected)


@pytest.mark.parametrize(
    ("weights", "selected", "entries"),
    [
        (["encoder.pt", "encoder_mini.pt"], "", 1000),
        (["encoder.pt", "encoder_mini.pt"], "encoder_mini.pt", 999),
        (["encoder.pt", "encoder_mini.pt"], "encoder.pt", 1000),
        (["encoder_mini.pt", "decoder_mini.pt"], "", 999),
    ],
)
def test_min_dalle_folder_has_two_vocabularies(
    fixtures: Path, tmp_path: Path, weights: list[str], selected: str, entries: int
) -> None:
    _make_min_dalle(fixtures / "tokenizer", tmp_path, weights)
    tokenizer = Tokenizer.from_pretrained(tmp_path / selected)
    assert tokenizer.vocab_size == entries
    assert tokenizer.config == TokenizerConfig(max_length=64, normalize_text=True)


def test_min_dalle_config_of_the_same_size_is_read(fixtures: Path, tmp_path: Path) -> None:
    _make_min_dalle(fixtures / "tokenizer", tmp_path, ["encoder_mini.pt"])
    (tmp_path / "config.json").write_text('{"max_text_length": 32}')
    (tmp_path / "config_mini.json").write_text('{"max_text_length": 16}')
    assert Tokenizer.from_pretrained(tmp_path).max_length == 16


def _make_min_dalle(vocabulary: Path, folder: Path, weights: list[str]) -> None:
    """Lay out two vocabularies as min-dalle does; the smaller one lacks the last merge."""
    for name in weights:
        (folder / name).write_bytes(b"")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(vocabulary / name, folder / name)
    merges = (folder / "merges.txt").read_text("utf-8").splitlines()
    (folder / "merges_mini.txt").write_text("\n".join(merges[:-1]) + "\n", "utf-8")
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    vocab.pop(merges[-1].replace(" ", ""))
    (folder / "vocab_mini.json").write_text(json.dumps(vocab), "utf-8")


def test_special_tokens_are_found_by_name_not_by_id(fixtures: Path, tmp_path: Path) -> None:
    _make_min_dalle(fixtures / "tokenizer", tmp_path, [])

    def move_to_the_end(vocab: dict[str, Any]) -> None:
        vocab.pop("<mask>")
        vocab.update({"<pad>": 1000, "</s>": 1001})

    _edit_json(tmp_path / "vocab.json", move_to_the_end)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (1000, 1001)
    assert tokenizer.vocab_size == 1002
    assert tokenizer("").input_ids[0, -1] == 1000


def test_missing_vocabulary_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    message = (
        r"looked for tokenizer\.json, or vocab\.json and merges\.txt, or vocab_mini\.json and "
        r"merges_mini\.txt; it holds vocab\.json\. Check"
    )
    with pytest.raises(MissingFileError, match=message):
        Tokenizer.from_pretrained(tmp_path)


def test_pipeline_folder_is_answered_with_the_subfolder(native: Path, tmp_path: Path) -> None:
    root = tmp_path / "pipeline"
    Tokenizer.from_pretrained(native).save_pretrained(root / "tokenizer")
    with pytest.raises(MissingFileError, match='Pass subfolder="tokenizer"'):
        Tokenizer.from_pretrained(root)
    assert Tokenizer.from_pretrained(root, subfolder="tokenizer").max_length == 12


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"model": {}}'])
def test_corrupt_tokenizer_file_is_refused(released: Path, content: bytes) -> None:
    (released / "tokenizer.json").write_bytes(content)
    message = r"tokenizer\.json is not a readable vocabulary; download it again"
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_pretrained(released)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "["),
        ("vocab.json", "[]"),
        ("vocab.json", '{"a": -1}'),
        ("merges.txt", "a b c\n"),
        ("merges.txt", "nosuch token\n"),
    ],
)
def test_corrupt_vocabulary_pair_is_refused(released: Path, name: str, content: str) -> None:
    (released / "tokenizer.json").unlink()
    (released / name).write_text(content, "utf-8")
    message = r"vocab\.json and .*merges\.txt are not a readable vocabulary"
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_pretrained(released)


def test_vocabulary_without_special_tokens_is_refused(released: Path) -> None:
    (released / "tokenizer.json").unlink()
    _edit_json(released / "vocab.json", lambda vocab: [vocab.pop("<s>"), vocab.pop("<pad>")])
    with pytest.raises(CheckpointError, match=r"The vocabulary has no <s>, <pad>;"):
        Tokenizer.from_pretrained(released)


def test_vocabulary_that_adds_no_marks_is_refused(released: Path) -> None:
    _edit_json(released / "tokenizer.json", lambda values: values.update(post_processor=None))
    with pytest.raises(CheckpointError, match=r"encodes an empty text as \[\], not as <s> </s>"):
        Tokenizer.from_pretrained(released)


def test_other_architecture_is_refused_by_name(released: Path) -> None:
    _edit_json(released / "config.json", lambda values: values.update(model_type="bart"))
    with pytest.raises(
        UnsupportedModelError, match=r"model_type is 'bart'; only 'dallebart' can be loaded"
    ):
        Tokenizer.from_pretrained(released)


def test_folder_of_another_part_is_refused(native: Path) -> None:
    mark = {"component": "vqgan", "version": "0"}
    _edit_json(native / "config.json", lambda values: values.update(dallemini=mark))
    with pytest.raises(CheckpointError, match="belongs to a vqgan, not to a tokenizer"):
        Tokenizer.from_pretrained(native)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_lenght": 3}, r"config\.json: .*'max_lenght'. Did you mean 'max_length'"),
        ({"max_length": "64"}, r"config\.json: TokenizerConfig\.max_length must be int"),
        ({"max_length": 0}, r"config\.json: max_length must be from 2 to 65,536, not 0"),
    ],
)
def test_wrong_config_is_refused(native: Path, change: dict[str, Any], message: str) -> None:
    _edit_json(native / "config.json", lambda values: values.update(change))
    with pytest.raises(ConfigError, match=message):
        Tokenizer.from_pretrained(native)


def test_config_that_is_no_json_is_refused(native: Path) -> None:
    (native / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        Tokenizer.from_pretrained(native)
