"""Filters by column."""

from __future__ import annotations

import numpy as np
import pytest

from dallemini.data.filters import Filter, parse_filter
from dallemini.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "passing", "failing"),
    [
        ("width >= 256", [256, 300.5, "256"], [255, None, "wide", float("nan")]),
        ("width<=256", [256, -1], [257]),
        ("nsfw < 0.5", [0.1, 0], [0.5, 1]),
        ("nsfw > -1e-1", [0], [-0.2]),
        ("lang == en", ["en"], ["de", None, "EN"]),
        ('lang == "en"', ["en"], ["de"]),
        ("lang != en", ["de", 5], ["en", None]),
        ("label == '1'", ["1", 1], ["2"]),
        ("count == 1", [1, 1.0, "1"], [2, True]),
        ("watermark == false", [False, "false"], [True, "False"]),
        ("style == flat emoji", ["flat emoji"], ["flat"]),
        ("my column >= 1", [1], [0]),
    ],
)
def test_filters_compare(text: str, passing: list[object], failing: list[object]) -> None:
    condition = parse_filter(text)
    assert [condition.passes(value) for value in passing] == [True] * len(passing)
    assert [condition.passes(value) for value in failing] == [False] * len(failing)


@pytest.mark.parametrize("text", ["a >= 2", "a == 2", "a != 2", "a < 2"])
def test_many_numbers_are_compared_as_each_alone(text: str) -> None:
    values = np.array([1.0, 2.0, 3.0, float("nan")])
    condition = parse_filter(text)
    assert condition.passes_all(values).tolist() == [condition.passes(v) for v in values.tolist()]


@pytest.mark.parametrize(
    "text", ["", "width", "a = 3", "a => 3", "a === 3", "< 3", "a <", "a == ", "a in b", ">="]
)
def test_what_is_not_a_filter_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a filter"):
        parse_filter(text)


@pytest.mark.parametrize("text", ["a < b", "width >= wide", 'a > "3"', "a < nan"])
def test_order_needs_a_number(text: str) -> None:
    with pytest.raises(ConfigError, match="needs a number"):
        parse_filter(text)


def test_a_filter_reads_as_it_is_written() -> None:
    assert str(parse_filter("width>=256")) == "width >= 256"
    assert str(Filter("lang", "==", "en")) == "lang == en"
