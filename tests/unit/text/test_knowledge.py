"""What a model was taught: read strictly, kept by saving, used to answer strange prompts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from dallemini.errors import CheckpointError, ConfigError, DalleMiniWarning
from dallemini.text import Knowledge, Tokenizer

KNOWN = Knowledge(
    concepts=("kite", "cherry", "fire engine"),
    styles=("flat emoji",),
    control=("three",),
    words=("cherry", "engine", "fire", "flat", "kite", "three"),
)


def tokenizer() -> Tokenizer:
    made = Tokenizer.train(["a red kite", "two cherries"] * 2, vocab_size=280)
    made.knowledge = KNOWN
    return made


@pytest.mark.parametrize("text", ["a KITE", "two cherries", "kites, please", "xyz fire"])
def test_a_known_word_in_any_number_is_enough(text: str) -> None:
    assert KNOWN.knows(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer()(text)


def test_a_prompt_of_strange_words_is_warned_about_with_near_ones() -> None:
    with pytest.warns(DalleMiniWarning, match=r"prompts\[1\].*near ones are 'cherry'"):
        tokenizer()(["a kite", "my chery"])
    with pytest.warns(DalleMiniWarning, match=r"was taught\. See what it knows with"):
        tokenizer()("qqqq")


def test_without_a_list_nothing_is_said() -> None:
    silent = tokenizer()
    silent.knowledge = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        silent("qqqq")


def test_a_list_is_saved_and_an_older_one_does_not_stay(tmp_path: Path) -> None:
    made = tokenizer()
    made.save_pretrained(tmp_path / "t")
    assert Tokenizer.from_pretrained(tmp_path / "t").knowledge == KNOWN
    made.knowledge = None
    made.save_pretrained(tmp_path / "t")
    assert Tokenizer.from_pretrained(tmp_path / "t").knowledge is None


@pytest.mark.parametrize("text", ["[]", '{"words": "kite"}', '{"words": [1]}', "{", '{"x": []}'])
def test_what_is_no_list_of_words_is_refused(text: str, tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "knowledge.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="is no list of words"):
        Tokenizer.from_pretrained(tmp_path)


def test_more_words_than_can_be_compared_are_refused() -> None:
    with pytest.raises(ConfigError, match="50,001 words are too many; 50,000 are read"):
        Knowledge(words=("x",) * 50_001)


@pytest.mark.thorough
def test_a_long_strange_prompt_is_answered_at_once() -> None:
    many = Knowledge(words=tuple(f"word{number}" for number in range(5000)))
    assert many.near("z" * 100_000) == []
    assert json.loads(json.dumps(many.near("wrod7 " * 1000))) == many.near("wrod7 " * 8)
