"""TextNormalizer: rules, hashtags, and what happens without Unidecode."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dallemini.errors import CheckpointError, InputTypeError, MissingFileError
from dallemini.text.normalizer import HashtagSplitter, TextNormalizer

WORDS = {"the": 900, "love": 500, "day": 300, "you": 250, "throwback": 20, "thursday": 10}


@pytest.fixture
def without_unidecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package of the extra impossible to import, as on a machine that lacks it."""
    monkeypatch.setitem(sys.modules, "unidecode", None)


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{word} {count}\n" for word, count in WORDS.items()), "utf-8")
    return path


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", " "),
        ("A red apple", " a red apple"),
        ("1,234,567 of 3.14 on 12/25/2021", " 1234567 of 3.14 on 12/25/2021"),
        ("a-b, it's 50%", " a b, it's 50 %"),
        ("haaaaaappy 11111", " happy 11111"),
        ("[1] see http://a.b/c now [2]", " see now"),
        ("<i>tag</i> &lt;b&gt; &amp;amp;", " tag &"),
        ("'quoted' ``text``", ' " quoted " text "'),
    ],
)
def test_rules_clean_as_the_original(prompt: str, expected: str) -> None:
    assert TextNormalizer()(prompt) == expected


@pytest.mark.parametrize("prompt", ["", " ", "cat", ",,", "\n\n", "<p>", "!?", '"'])
def test_output_always_begins_with_one_space(prompt: str) -> None:
    cleaned = TextNormalizer()(prompt)
    assert cleaned.startswith(" ")
    assert not cleaned.startswith("  ")


def test_person_token_becomes_a_person_every_time() -> None:
    normalizer = TextNormalizer()
    outputs = {normalizer("<person> with <PERSON> here") for _ in range(20)}
    assert outputs == {" a person with a person here"}


def test_several_person_tokens_become_people() -> None:
    assert TextNormalizer()("<person>, <person> and <person> dance") == " people dance"


@pytest.mark.parametrize("prompt", [None, 7, b"cat", ["cat"]])
def test_prompt_that_is_no_string_is_refused(prompt: object) -> None:
    with pytest.raises(InputTypeError, match=r"must be a str, not (NoneType|int|bytes|list)"):
        TextNormalizer()(prompt)  # type: ignore[arg-type]


@pytest.mark.parametrize("character", ["<", "[", '"', ",", "&", "#", "\n", " ", "<person>, ", "1,"])
def test_long_runs_take_no_quadratic_time(character: str) -> None:
    assert TextNormalizer()(character * 50_000 + "x").startswith(" ")


def test_hashtag_without_word_frequencies_is_one_word() -> None:
    assert TextNormalizer()("#ThrowbackThursday at #the_lake") == " throwbackthursday at the lake"


@pytest.mark.parametrize("form", ["mapping", "path", "str"])
def test_hashtag_is_split_by_word_frequencies(form: str, words_file: Path) -> None:
    forms: dict[str, Any] = {"mapping": WORDS, "path": words_file, "str": str(words_file)}
    assert TextNormalizer(forms[form])("#ThrowbackThursday!") == " throwback thursday"


def test_mapping_is_ranked_by_frequency_not_by_order() -> None:
    reverse = dict(reversed(WORDS.items()))
    tag = "#lovetheday"
    assert TextNormalizer(reverse)(tag) == TextNormalizer(WORDS)(tag) == " love the day"


def test_hashtags_are_split_alike_however_many_came_before(words_file: Path) -> None:
    normalizer = TextNormalizer(words_file)
    outputs = {normalizer("#LoveYou2021 #throwbackthursday") for _ in range(12)}
    assert outputs == {" love you 2021 throwback thursday"}


def test_word_file_is_read_only_when_a_hashtag_is_met(tmp_path: Path) -> None:
    normalizer = TextNormalizer(tmp_path / "gone.txt")
    assert normalizer("no hashtag, # here") == " no hashtag, here"
    with pytest.raises(MissingFileError, match=r"no file of word frequencies at .*gone\.txt"):
        normalizer("#tag")


def test_word_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="Cannot read word frequencies from"):
        TextNormalizer(path)("#tag")


def test_splitter_spells_unknown_words() -> None:
    splitter = HashtagSplitter({"love": 1})
    assert splitter("loveqz") == "love q z"
    assert splitter("") == ""


def test_splitter_without_words_spells() -> None:
    assert HashtagSplitter({})("ab12") == "a b 12"


def test_splitter_keeps_digits_and_genitive_together() -> None:
    splitter = HashtagSplitter({"cat": 1, "'s": 2, "day": 3})
    assert splitter("Cat'sday2021") == "Cat's day 2021"


def test_splitter_prefers_the_cheaper_split() -> None:
    assert HashtagSplitter({"a": 2, "b": 2, "ab": 5})("ab") == "a b"
    assert HashtagSplitter({"a": 2, "b": 2, "ab": 3})("ab") == "ab"


EXAMPLES = [
    (
        "A &lt;b&gt;cat&lt;/b&gt; &#38; 'dog' \x1b[1mbold\x1b[0m\r\n\x00end",
        ' a cat & " dog " bold end',
    ),
    ("Café Zürich Ångström", " cafe zurich angstrom"),
    ("it\u2019s \u201cgood\u201d \u2013 really\u2026", ' it\'s " good ", really'),
    ("½ cup ² ™ €5 Straße Ærø", " 1/2 cup 2, trade mark, eur5 strasse aero"),
    ("\ufb01nancial \uff26\uff35\uff2c\uff2c", " financial full"),
    ("caf&eacute; &copy; P&EACUTE;REZ", " cafe, copyright, perez"),
    ("\ud83d\ude00", " grinning face"),
    ("I \u2764\ufe0f \N{CAT FACE}", " i, red heart, cat face"),
]


@pytest.mark.parametrize(("prompt", "expected"), EXAMPLES)
def test_other_text_is_spelled_in_ascii(prompt: str, expected: str) -> None:
    assert TextNormalizer()(prompt) == expected


@pytest.mark.usefixtures("without_unidecode")
@pytest.mark.parametrize(("prompt", "expected"), EXAMPLES)
def test_latin_text_and_emoji_are_spelled_alike_without_unidecode(
    prompt: str, expected: str
) -> None:
    assert TextNormalizer()(prompt) == expected


@pytest.mark.usefixtures("without_unidecode")
def test_other_scripts_are_spelled_by_anyascii_without_unidecode() -> None:
    assert TextNormalizer()("\u5317\u4eac, Москва, £5") == " beijing, moskva, gbp5"


def test_other_scripts_are_spelled_as_the_original_does_with_unidecode() -> None:
    pytest.importorskip("unidecode")
    assert TextNormalizer()("\u5317\u4eac, Москва, £5") == " bei jing, moskva, ps5"
