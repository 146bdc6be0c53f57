"""TextNormalizer: rules, hashtags, and what happens without the `text` extra."""

from __future__ import annotations

import html.entities
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from dallemini.errors import CheckpointError, DalleMiniWarning, InputTypeError, MissingFileError
from dallemini.text import normalizer as text_module
from dallemini.text.normalizer import HashtagSplitter, TextNormalizer

WORDS = {"the": 900, "love": 500, "day": 300, "you": 250, "throwback": 20, "thursday": 10}


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the packages of the extra impossible to import, as on a machine that lacks them."""
    for name in ("ftfy", "emoji", "unidecode"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(text_module, "_warned", False)


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


@pytest.mark.usefixtures("without_extra")
def test_plain_ascii_needs_no_extra_and_no_warning() -> None:
    prompt = "A &lt;b&gt;cat&lt;/b&gt; &#38; 'dog' \x1b[1mbold\x1b[0m\r\n\x00end"
    assert TextNormalizer()(prompt) == ' a cat & " dog " bold end'


@pytest.mark.usefixtures("without_extra")
def test_other_text_warns_once_a_process() -> None:
    normalizer = TextNormalizer()
    with pytest.warns(DalleMiniWarning, match=r'pip install "dallemini\[text\]"') as record:
        [normalizer(prompt) for prompt in ("Ein süßer Käfer", "北京", "caf&eacute;")]
    assert [str(warning.message)[:45] for warning in record] == [
        "The prompt 'Ein süßer Käfer' has characters b"
    ]


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Café Zürich Ångström", " cafe zurich angstrom"),
        ("it\u2019s \u201cgood\u201d \u2013 really\u2026", ' it\'s " good ", really'),
        ("½ cup ² ™ €5 Straße Ærø", " 1/2 cup 2, trade mark, eur5 strasse aero"),
        ("\ufb01nancial \uff26\uff35\uff2c\uff2c", " financial full"),
        ("caf&eacute; &copy; P&EACUTE;REZ", " cafe, copyright, perez"),
        ("a\u200bb\u2028c", " a b c"),
        ("北京", " "),
    ],
)
@pytest.mark.filterwarnings("ignore::dallemini.errors.DalleMiniWarning")
def test_other_text_is_approximated_without_extra(prompt: str, expected: str) -> None:
    assert TextNormalizer()(prompt) == expected


def test_plain_ascii_is_cleaned_alike_with_and_without_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ftfy")
    prompts = _random_prompts(600)
    normalizer = TextNormalizer(WORDS)
    with_extra = [normalizer(prompt) for prompt in prompts]
    monkeypatch.setitem(sys.modules, "ftfy", None)
    compared = 0
    for prompt, expected in zip(prompts, with_extra, strict=True):
        monkeypatch.setattr(text_module, "_warned", False)
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            cleaned = normalizer(prompt)
        if not record:  # no HTML entity stood for a character beyond ASCII
            compared += 1
            assert cleaned == expected, ascii(prompt)
    assert compared > 300


def test_surrogate_pairs_are_joined_with_the_extra() -> None:
    pytest.importorskip("ftfy")
    assert TextNormalizer()("\ud83d\ude00") == " grinning face"


def test_importing_the_module_does_not_import_the_extra() -> None:
    code = (
        "import sys, dallemini.text; "
        "assert not {'ftfy', 'emoji', 'unidecode'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _random_prompts(count: int) -> list[str]:
    draw = random.Random(0)
    entities = sorted(html.entities.html5)
    pieces = [
        *"#&<>'\"`.,;:!?-_/\\%$*()[]{}|=+~@07aA \n\r\t\x0b\x1c\x7f",
        *["<person>", " and ", "'s ", "n't ", "[1]", "#love", "#theday19", "http://a.b/c ", "&lt;"],
        *["&amp;", "&#39;", "&#x41;", "&#59;", "</b>", "1,000", "12/25", "3.14", "a.b-c", "!!!!"],
        *["    ", "\r\n", "\x1b[1;31m", "&AMP;lt;", "&SZLIG;", "&NOSUCH;", "the", "VIII"],
    ]
    pieces += [f"&{draw.choice(entities)}" for _ in range(4)]
    return ["".join(draw.choices(pieces, k=draw.randrange(1, 12))) for _ in range(count)]
