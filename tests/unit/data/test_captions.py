"""Captions: what counts as one, which is shown, how often none is."""

from __future__ import annotations

import pytest

from dallemini.data.captions import (
    NotTextError,
    choose_caption,
    read_caption_lines,
    read_captions,
)
from dallemini.data.order import random_at


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("a cat", ("a cat",)),
        ("  a cat\n", ("a cat",)),
        (["a cat", "", None, " a grey cat "], ("a cat", "a grey cat")),
        (("a", "b"), ("a", "b")),
        (None, ()),
        ("  ", ()),
        ([], ()),
        (b"\xef\xbb\xbfcaf\xc3\xa9", ("café",)),
    ],
)
def test_captions_are_texts_that_are_not_blank(value: object, captions: tuple[str, ...]) -> None:
    assert read_captions(value) == captions


@pytest.mark.parametrize("value", [7, 1.5, {"a": 1}, ["a", 2], [["a"]], b"\xff\xfe", True])
def test_other_values_are_no_captions(value: object) -> None:
    with pytest.raises(NotTextError, match="it is"):
        read_captions(value)


def test_a_text_file_has_a_caption_a_line() -> None:
    assert read_caption_lines(b"a cat\r\n\r\na grey cat") == ("a cat", "a grey cat")
    with pytest.raises(NotTextError, match="not UTF-8"):
        read_caption_lines(b"caf\xe9")


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_line_ends_end_a_caption(letter: str) -> None:
    content = f"a cat{letter}on a mat\na dog\r\nan old\rMac".encode()
    assert read_caption_lines(content) == (f"a cat{letter}on a mat", "a dog", "an old", "Mac")


def test_each_of_several_captions_gets_its_share() -> None:
    chosen = [choose_caption("abc", random_at(0, n)) for n in range(3000)]
    assert all(abs(chosen.count(letter) - 1000) < 100 for letter in "abc")


def test_first_is_always_the_first() -> None:
    assert {choose_caption("abc", random_at(0, n), choice="first") for n in range(50)} == {"a"}


def test_dropout_empties_its_share() -> None:
    chosen = [choose_caption("a", random_at(0, n), dropout=0.25) for n in range(4000)]
    assert abs(chosen.count("") - 1000) < 100
    assert all(choose_caption("a", random_at(0, n), dropout=1.0) == "" for n in range(50))
    assert all(choose_caption("a", random_at(0, n)) == "a" for n in range(50))


def test_dropout_does_not_change_which_caption_is_chosen() -> None:
    for n in range(50):
        kept = choose_caption("abc", random_at(0, n), dropout=0.5)
        assert kept in ("", choose_caption("abc", random_at(0, n)))


def test_no_captions_give_the_empty_one() -> None:
    assert choose_caption((), random_at(0, 0)) == ""
