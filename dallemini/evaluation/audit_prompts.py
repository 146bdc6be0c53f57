"""What an audit asks: templates times attributes, a neutral prompt, and questions on the pictures.

Read from YAML; a few sets come inside the package. Knows texts only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..config import read_yaml, suggest
from ..errors import ConfigError, MissingFileError
from ..files import as_path
from ..foreign import show

SETS = Path(__file__).parents[1] / "assets" / "audit"
DEFAULT_SET = "occupations"
NEITHER = "neither"
_MARK = "{}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about each picture, such as whether it shows a woman or a man.

    Attributes:
        name: of the question.
        answers: two or more, such as "woman" and "man".
        texts: for each answer what a scorer compares a picture with.
        neither: texts of pictures that no answer fits, such as "an empty room".
        intervention: what becomes of a prompt, "{}", to ask for all answers.
    """

    name: str
    answers: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    neither: tuple[str, ...] = ()
    intervention: str | None = None

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """The texts of each answer, then those of neither, where there are any."""
        return (*self.texts, self.neither) if self.neither else self.texts


@dataclass(frozen=True, kw_only=True)
class AuditPrompts:
    """Everything that an audit asks.

    Attributes:
        name: of the set.
        templates: such as "a photo of {}"; an attribute takes the place of "{}".
        neutral: what takes its place where nothing is asked for, such as "a person".
        attributes: such as "a farmer", by group, such as "occupations".
        questions: about each picture.

    Example:
        >>> from dallemini.evaluation import AuditPrompts
        >>> prompts = AuditPrompts.from_dict({
        ...     "templates": ["a photo of {}"],
        ...     "neutral": ["a person"],
        ...     "attributes": {"occupations": ["a farmer", "a nurse"]},
        ...     "questions": {"gender": {"answers": {"woman": ["a woman"], "man": ["a man"]}}},
        ... })
        >>> prompts.questions[0].answers
        ('woman', 'man')
    """

    name: str
    templates: tuple[str, ...]
    neutral: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]
    questions: tuple[Question, ...]

    @classmethod
    def open(cls, name: str | os.PathLike[str] = DEFAULT_SET) -> Self:
        """Read a YAML file, or a set of the package by its name: occupations, traits and others.

        Raises:
            MissingFileError: there is neither such a file nor such a set.
            ConfigError: the file is not as it should be; the message names the place.
        """
        path = as_path(name)
        if not path.suffix and not path.exists():
            known = sorted(file.stem for file in SETS.glob("*.yaml"))
            if str(name) not in known:
                raise MissingFileError(
                    f"There is neither a file nor a set {name}; the sets are {', '.join(known)}."
                )
            path = SETS / f"{name}.yaml"
        try:
            return cls.from_dict(read_yaml(path), name=path.stem)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, name: str = "audit") -> Self:
        """Make a set from plain values, as YAML gives them.

        Raises:
            ConfigError: a part is missing, unknown, empty, or of the wrong type.
        """
        _check_keys(values, needed=("templates", "neutral", "attributes", "questions"), of="a set")
        templates = _texts(values["templates"], "templates")
        for template in templates:
            _check_mark(template, "templates")
        groups = _mapping(values["attributes"], "attributes")
        attributes = {key: _texts(part, _inside("attributes", key)) for key, part in groups.items()}
        every = [text for part in attributes.values() for text in part]
        if len(set(every)) < len(every):
            raise ConfigError("attributes must differ: one stands there twice.")
        asked = _mapping(values["questions"], "questions")
        return cls(
            name=name,
            templates=templates,
            neutral=_texts(values["neutral"], "neutral"),
            attributes=attributes,
            questions=tuple(_question(key, part) for key, part in asked.items()),
        )


def _question(name: str, values: Any) -> Question:
    place = _inside("questions", name)
    _check_keys(values, needed=("answers",), more=(NEITHER, "intervention"), of=place)
    answers = _mapping(values["answers"], f"{place}.answers")
    if len(answers) < 2 or NEITHER in answers:
        raise ConfigError(
            f"{place} needs two answers or more, none of them called {NEITHER!r}: that has a place "
            "of its own beside them."
        )
    intervention = values.get("intervention")
    if intervention is not None:
        _check_mark(intervention, f"{place}.intervention")
    neither = values.get(NEITHER, ())
    return Question(
        name=name,
        answers=tuple(answers),
        texts=tuple(
            _texts(part, _inside(f"{place}.answers", key)) for key, part in answers.items()
        ),
        neither=_texts(neither, f"{place}.{NEITHER}") if neither else (),
        intervention=intervention,
    )


def _inside(place: str, key: str) -> str:
    """Name a part of a part, in a few words however long its own name is."""
    return f"{place}.{show(key)[1:-1]}"


def _check_keys(
    values: Any, *, needed: tuple[str, ...], more: tuple[str, ...] = (), of: str
) -> None:
    for key in _mapping(values, of):
        if key not in (*needed, *more):
            raise ConfigError(f"{of} has no part {show(key)}.{suggest(key, (*needed, *more))}")
    for key in needed:
        if key not in values:
            raise ConfigError(f"{of} needs the part {key!r}, which is missing.")


def _mapping(values: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not values:
        raise ConfigError(f"{place} must hold names with values, not {show(values)}.")
    for key in values:
        if not isinstance(key, str):
            raise ConfigError(f"{place} has a name that is no text: {show(key)}; put it in quotes.")
    return values


def _texts(values: Any, place: str) -> tuple[str, ...]:
    listed = isinstance(values, list | tuple) and values
    if not listed or not all(isinstance(text, str) and text.strip() for text in values):
        raise ConfigError(f"{place} must be a list of texts, not {show(values)}.")
    return tuple(values)


def _check_mark(text: Any, place: str) -> None:
    if not isinstance(text, str) or text.count(_MARK) != 1:
        raise ConfigError(f"{place} must have one {_MARK} in each text, not {show(text)}.")
