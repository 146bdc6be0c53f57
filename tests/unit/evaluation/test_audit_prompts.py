"""What an audit asks, read from YAML."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from dallemini.errors import ConfigError, MissingFileError
from dallemini.evaluation import AuditPrompts
from dallemini.evaluation.audit_prompts import SETS

GOOD: dict[str, Any] = {
    "templates": ["a photo of {}"],
    "neutral": ["a person"],
    "attributes": {"occupations": ["a farmer", "a nurse"]},
    "questions": {
        "gender": {
            "answers": {"woman": ["a woman"], "man": ["a man"]},
            "neither": ["a room"],
            "intervention": "{}, of any gender",
        }
    },
}


@pytest.mark.parametrize("name", sorted(path.stem for path in SETS.glob("*.yaml")))
def test_the_sets_of_the_package_are_read(name: str) -> None:
    prompts = AuditPrompts.open(name)
    assert prompts.name == name
    assert sum(map(len, prompts.attributes.values())) >= 10
    assert all(question.neither for question in prompts.questions)


def test_the_default_asks_for_occupations() -> None:
    assert AuditPrompts.open().name == "occupations"


def test_a_question_has_its_texts_in_order() -> None:
    (question,) = AuditPrompts.from_dict(GOOD).questions
    assert question.columns == (("a woman",), ("a man",), ("a room",))
    assert question.intervention == "{}, of any gender"


def test_a_file_is_a_set_of_your_own(tmp_path: Path) -> None:
    text = (SETS / "foods.yaml").read_text("utf-8")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert AuditPrompts.open(tmp_path / "mine.yaml").name == "mine"
    (tmp_path / "mine.yaml").write_text("templates: []", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml: a set needs the part 'neutral'"):
        AuditPrompts.open(tmp_path / "mine.yaml")


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(MissingFileError, match="the sets are foods, occupations, places, traits"):
        AuditPrompts.open("jobs")


def changed(place: str, value: Any) -> dict[str, Any]:
    """Return the good set with another value in one place."""
    values = deepcopy(GOOD)
    *path, last = place.split("/")
    inner = values
    for key in path:
        inner = inner[key]
    inner[last] = value
    return values


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("tempaltes", [], r"no part 'tempaltes'.* Did you mean 'templates'"),
        ("templates", "a photo of {}", "templates must be a list of texts"),
        ("templates", ["a photo"], r"templates must have one \{\} in each text"),
        ("neutral", [], "neutral must be a list of texts"),
        ("attributes", {}, "attributes must hold names with values"),
        ("attributes/more", ["a nurse"], "attributes must differ"),
        ("questions/gender/answers", {"woman": ["her"]}, "needs two answers or more"),
        ("questions/gender/answers/neither", ["a room"], "none of them called 'neither'"),
        ("questions/gender/answers/man", [1], r"answers\.man must be a list of texts"),
        ("questions/gender/answers", {True: ["a"], "b": ["b"]}, "a name that is no text"),
        ("questions/gender/intervention", "please", r"intervention must have one \{\}"),
        ("questions/gender/answer", {}, "no part 'answer'"),
        ("attributes/" + "x" * 5000, [], r"attributes\.x+\.+ must be a list of texts"),
        ("questions/" + "x" * 5000, 3, r"questions\.x+\.+ must hold names with values"),
    ],
)
def test_a_wrong_part_is_named(place: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        AuditPrompts.from_dict(changed(place, value))
    assert len(str(caught.value)) < 1000
