"""Everyday captions: the phrases written by hand, their splits, and the rules around them."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from captions import (
    PHRASES,
    Look,
    Speaker,
    colored,
    key_of,
    plural,
    read_phrases,
    split_of_phrase,
    typo,
)
from dataset import Emoji
from merge_phrases import merge

ROWS = [json.loads(line) for line in PHRASES.read_text(encoding="utf-8").splitlines()]


def emoji_row(code: str, label: str, **others: object) -> Emoji:
    values = {"file": "", "set": "noto", "style": "noto emoji", "caption": label, "keywords": []}
    values |= {"group": "x", "split": "train", "license": "MIT", "hex": code, "label": label}
    return Emoji(**{**values, **others})  # type: ignore[arg-type]


PIZZA = emoji_row("1f355", "pizza", keywords=["pie"])


def test_every_concept_has_eight_phrases_or_more_written_once() -> None:
    assert len(ROWS) == 1387
    assert min(len({key_of(text) for text in row["phrases"]}) for row in ROWS) >= 8
    uses = Counter(key_of(text) for row in ROWS for text in row["phrases"])
    assert [text for text, count in uses.items() if count > 1] == []


def test_phrases_are_short_plain_english() -> None:
    for row in ROWS:
        for text in row["phrases"]:
            assert text.isascii()
            assert 2 <= len(text) <= 80, text
            assert text.lower() != row["label"].lower()


def test_splits_share_no_wording_and_have_their_shares() -> None:
    found = {name: read_phrases(name) for name in ("train", "dev", "test")}
    keys = {
        name: {key_of(text) for texts in phrases.values() for text in texts}
        for name, phrases in found.items()
    }
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["dev"]
    lines = PHRASES.read_text(encoding="utf-8").splitlines()
    total = len({key_of(text) for line in lines for text in json.loads(line)["phrases"]})
    assert len(keys["test"]) / total == pytest.approx(0.1, abs=0.02)
    assert len(keys["dev"]) / total == pytest.approx(0.1, abs=0.02)


def test_article_case_and_punctuation_do_not_change_the_split() -> None:
    for text in ("kitten", "slice of pizza", "fire truck", "old wooden chair"):
        spellings = (text, f"a {text}", f"The {text}!", text.upper())
        assert len({split_of_phrase(spelling) for spelling in spellings}) == 1


def test_the_speaker_never_says_what_is_held_out() -> None:
    phrases = read_phrases("test")
    code = next(code for code, texts in phrases.items() if texts)
    held = {key_of(t) for name in ("dev", "test") for t in read_phrases(name)[code]}
    pup = phrases[code][0]
    row = emoji_row(code, "some name", keywords=[pup, "hound of mine"])
    speaker, rng = Speaker([row], extra={code: [pup, "terrier"]}), random.Random(0)
    said = [speaker.name(code, rng) for _ in range(500)]
    assert not held & {key_of(text) for text in said}
    assert any("terrier" in text for text in said)
    assert any("hound of mine" in text for text in said)


def test_style_and_ground_are_said_when_asked_for() -> None:
    speaker, rng = Speaker([PIZZA]), random.Random(1)
    look = Look(style="3d emoji", ground="orange")
    said = [speaker("1f355", look, rng) for _ in range(200)]
    clear = [text for text in said if "3d" in text and "orange" in text]
    assert len(clear) > 180  # a typing mistake may hit the word
    assert not any("on a orange" in text for text in said)
    assert not any("orange" in speaker("1f355", Look(), rng) for _ in range(200))


def test_a_character_is_said_as_the_clean_up_spells_it() -> None:
    speaker = Speaker([PIZZA, emoji_row("26d1", "rescue worker’s helmet")])
    assert speaker.characters["1f355"] == ":pizza:"
    assert speaker.characters["26d1"].isascii()


def test_words_around_names() -> None:
    assert plural("cherry") == "cherries"
    assert plural("box") == "boxes"
    assert plural("toy") == "toys"
    assert colored("an apple", "green") == "a green apple"
    assert colored("a cat", "orange") == "an orange cat"
    assert colored("cat", "blue") == "blue cat"


def test_a_typing_mistake_changes_one_word_a_little() -> None:
    rng = random.Random(0)
    for _ in range(50):
        changed = typo("a strawberry cake", rng)
        words = changed.split(" ")
        assert words[0] == "a"
        assert words[2] == "cake"
        assert abs(len(words[1]) - len("strawberry")) <= 1
    assert typo("a cat", rng) == "a cat"


def test_merging_drops_what_stands_under_two_concepts() -> None:
    own = [f"thing {letter}" for letter in "abcdefgh"]
    other = [f"being {letter}" for letter in "abcdefgh"]
    first = json.dumps({"hex": "2", "label": "one", "phrases": [*own, "a shared name", "One"]})
    second = json.dumps({"hex": "1", "label": "two", "phrases": [*other, "Shared name!"]})
    merged = merge([first, second])
    assert [row["hex"] for row in merged] == ["1", "2"]
    assert [row["phrases"] for row in merged] == [other, own]


def test_merging_refuses_a_concept_with_few_phrases_or_twice() -> None:
    few = json.dumps({"hex": "1", "label": "one", "phrases": ["a", "b"]})
    with pytest.raises(SystemExit, match=r"one \(1\) has 2 phrases, not 8 or more"):
        merge([few])
    with pytest.raises(SystemExit, match="Stands twice: 1"):
        merge([few, few])
