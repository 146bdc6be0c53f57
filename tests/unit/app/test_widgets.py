"""Pieces of the page."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

import dallemini
from dallemini.app import gui, widgets
from dallemini.errors import InputError


def test_a_sent_file_is_handed_over_whatever_it_is() -> None:
    box = widgets.picture_box("picture")
    assert box.preprocess(None) is None
    assert box.preprocess(SimpleNamespace(path="words.png")) == "words.png"


def test_half_a_picture_is_refused_in_words() -> None:
    form = dict.fromkeys(("prompt", "number", "seed"))
    assert gui._wish(form, ["a cat", 2.0, "7"]).number == 2
    with pytest.raises(InputError, match=r"The number of pictures is a whole one, not 2\.5\."):
        gui._wish(form, ["a cat", 2.5, "7"])


def test_gradio_writes_nothing_beside_the_modules() -> None:
    folder = Path(dallemini.__file__).parent
    assert gui.__file__ is not None
    assert list(folder.rglob("*.pyi")) == []


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("prompts[0] ('a blah') has no word.", "'a blah' has no word."),
        (
            "negative_prompt plays no part at guidance_scale=1; give a scale above 1, such as "
            "guidance_scale=3, with it.",
            "The negative prompt plays no part at guidance 1; raise that above 1, such as to 3.",
        ),
        ("The seed is a whole number.", "The seed is a whole number."),
    ],
)
def test_messages_name_fields_and_not_python(message: str, told: str) -> None:
    assert widgets.own_words(message) == told
