"""The clean-up of prompts equals the original's on its recorded vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dallemini.text.normalizer import HashtagSplitter, TextNormalizer

WORDS = "enwiki-words-frequency.txt"


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "normalizer"


@pytest.fixture(scope="module")
def vectors(folder: Path) -> dict[str, list[dict[str, Any]]]:
    loaded = json.loads((folder / "normalizer.json").read_text("utf-8"))
    assert len(loaded["prompts"]) == 91
    return dict(loaded)


def _expected(row: dict[str, Any]) -> str:
    """Return the recorded output; the original draws one of three words for `<person>`."""
    output = str(row["output"])
    if row["is_random"]:
        output = output.replace("someone", "a person").replace("somebody", "a person")
        assert "<person>" in row["input"].lower()
    return output


def test_every_prompt_is_cleaned_as_the_original_does(
    folder: Path, vectors: dict[str, list[dict[str, Any]]]
) -> None:
    pytest.importorskip("unidecode")
    normalizer = TextNormalizer(folder / WORDS)
    for row in vectors["prompts"]:
        assert normalizer(row["input"]) == _expected(row), row["input"]


def test_prompts_differ_in_three_recorded_cases_without_unidecode(
    folder: Path, vectors: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "unidecode", None)
    normalizer = TextNormalizer(folder / WORDS)
    differing = [
        row["input"] for row in vectors["prompts"] if normalizer(row["input"]) != _expected(row)
    ]
    assert len(differing) == 3  # Chinese characters, the sign of the pound, a space of no width
    assert {"\u5317", "£", "\u200b"} == {
        next(letter for letter in "\u5317£\u200b" if letter in text) for text in differing
    }


def test_hashtags_are_split_as_the_original_does(
    folder: Path, vectors: dict[str, list[dict[str, Any]]]
) -> None:
    lines = (folder / WORDS).read_text("utf-8").splitlines()
    splitter = HashtagSplitter({line.split()[0]: rank for rank, line in enumerate(lines, 1)})
    for row in vectors["hashtag"]:
        assert splitter(row["input"]) == row["output"], row["input"]
