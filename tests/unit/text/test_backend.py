"""What a vocabulary file may ask for, and what becomes of the failures of its package."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from dallemini import Tokenizer
from dallemini.errors import CheckpointError, InputError
from dallemini.scorer import CLIPTokenizer
from dallemini.text.backend import read_backend, refusing, try_backend
from patience import patience

Values = dict[str, Any]
GPT2 = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def text() -> str:
    tokenizer = Tokenizer.train(["a red apple", "a red bird"] * 5, vocab_size=270)
    return str(tokenizer.backend.to_str())


@pytest.fixture
def edited(text: str, tmp_path: Path) -> Callable[[Values], Path]:
    def edit(changes: Values) -> Path:
        values = json.loads(text)
        for key, value in changes.items():
            place = values["model"] if key in values["model"] else values
            place[key] = value
        (tmp_path / "tokenizer.json").write_text(json.dumps(values), "utf-8")
        return tmp_path / "tokenizer.json"

    return edit


def _replace(pattern: Values, content: str) -> Values:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> Values:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


GROWING = {"type": "Sequence", "normalizers": [_replace({"String": "a"}, "a" * 10)] * 9}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
MARKS = {"<|startoftext|>": 0, "<|endoftext|>": 1}
NESTED: Values = {"type": "NFC"}
for _ in range(8):
    NESTED = {"type": "Sequence", "normalizers": [NESTED]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAA"}},
            "Precompiled",
        ),
        (
            {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
            "is of type 'Prep",
        ),
        ({"normalizer": GROWING}, "a Replace that makes texts longer"),
        ({"normalizer": NESTED}, "normalizer is of type 'Sequence'"),
        ({"normalizer": _replace({"String": ""}, "a")}, "a Replace without a usable pattern"),
        ({"normalizer": "NFC"}, "normalizer is of type 'None'"),
        ({"pre_tokenizer": _split(r"(a+)+$")}, "a Split whose pattern may search without end"),
        ({"pre_tokenizer": _split(r".*.*.*=")}, "a Split whose pattern may search without end"),
        ({"pre_tokenizer": _split("a?" * 30 + "a" * 30)}, "a Split whose pattern may search"),
        ({"pre_tokenizer": _split("a{0,99}" * 5 + "=")}, "a Split whose pattern may search"),
        ({"pre_tokenizer": _split("(?:a|a)" * 30 + "=")}, "a Split whose pattern may search"),
        ({"pre_tokenizer": _split(r"(a)\1")}, "a Split whose pattern may search"),
        (
            {"decoder": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99}},
            "longer",
        ),
        ({"decoder": {"type": "BPEDecoder", "suffix": "w" * 99}}, "a suffix that is not a short"),
        ({"decoder": {"type": "Metaspace"}}, "decoder is of type 'Metaspace'"),
        ({"vocab": [[]] * 400_001}, "more than 400,000 lists"),
        ({"pre_tokenizer": {"type": "Split", "pattern": 3}}, "a Split without a usable pattern"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer is of type 'Metaspace'"),
        ({"post_processor": {"type": ["ByteLevel"]}}, "post_processor is of type"),
        ({"continuing_subword_prefix": "#" * 99}, "continuing_subword_prefix that is not a short"),
        ({"dropout": 0.5}, "drops merges at random"),
        ({"type": "WordLevel"}, "model is of type 'WordLevel'"),
        ({"model": []}, "it has no model"),
    ],
)
def test_what_no_tokenizer_of_the_family_uses_is_refused(
    edited: Callable[[Values], Path], changes: Values, message: str
) -> None:
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.from_pretrained(edited(changes).parent)
    assert time.perf_counter() - start < patience(2)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}},
        {"normalizer": _replace({"Regex": r"\s+"}, " ")},
        {"decoder": {"type": "Sequence", "decoders": [BYTES, {"type": "Fuse"}]}},
        {"decoder": {"type": "BPEDecoder", "suffix": "</w>"}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    _split(GPT2),
                    BYTES,
                ],
            }
        },
    ],
)
def test_what_they_use_is_read(edited: Callable[[Values], Path], changes: Values) -> None:
    tokens = Tokenizer.from_pretrained(edited(changes).parent)("a red apple").trim()
    assert tokens.input_ids.shape[1] > 3


def test_what_could_not_be_loaded_is_not_saved(text: str, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_str(text)
    backend.model.dropout = 0.5
    clip = CLIPTokenizer.train(["a red apple"] * 5, vocab_size=560)
    clip.backend.decoder = tokenizers.decoders.Metaspace()
    for tokenizer, message in (
        (Tokenizer(backend), "cannot be saved, because .* drops merges at random"),
        (clip, "cannot be saved, because .* decoder is of type 'Metaspace'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            tokenizer.save_pretrained(tmp_path / "saved")
        assert not list(tmp_path.iterdir())


def test_a_panic_while_encoding_is_an_error_of_ours(edited: Callable[[Values], Path]) -> None:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<nosuch>", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }
    with pytest.raises(CheckpointError, match="vocabulary"):
        Tokenizer.from_pretrained(edited({"post_processor": template}).parent)


def test_a_panic_at_the_prompt_is_an_error_of_ours(text: str) -> None:
    values = json.loads(text)
    part: Values = {"id": "<nosuch>", "type_id": 0}
    values["post_processor"] = {"type": "TemplateProcessing", "single": [{"SpecialToken": part}]}
    values["post_processor"] |= {"pair": [], "special_tokens": {}}
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(text))
    tokenizer.backend.post_processor = tokenizers.Tokenizer.from_str(
        json.dumps(values)
    ).post_processor
    with pytest.raises(CheckpointError, match="vocabulary"):
        tokenizer("a red apple")


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]"])
def test_what_is_not_a_vocabulary_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match="is not a readable vocabulary; download it again"):
        read_backend(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("<!DOCTYPE html>", "is a web page"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer: run git lfs pull"),
    ],
)
def test_what_stands_in_for_a_vocabulary_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_backend(path)


def test_file_of_a_size_that_no_vocabulary_has_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("[")
    os.truncate(path, 17 << 20)
    with pytest.raises(CheckpointError, match=r"has 17825792 bytes, but .* at most 16777216"):
        read_backend(path)


def test_a_vocabulary_without_letters_is_refused() -> None:
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({"<|startoftext|>": 0, "<|endoftext|>": 1}, [])
    )
    with pytest.raises(CheckpointError, match="makes 0 tokens of a text of 1 characters"):
        try_backend(backend)
    with pytest.raises(CheckpointError, match="makes 0 tokens"):
        CLIPTokenizer(backend)


def test_errors_of_ours_and_interruptions_pass() -> None:
    for kind in (InputError, KeyboardInterrupt, SystemExit):
        with pytest.raises(kind), refusing("Not this"):
            raise kind("as it was")
