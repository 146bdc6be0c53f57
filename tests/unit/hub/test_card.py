"""Model cards: their header, the figures in it, and what people wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import ModelCard

from dallemini.errors import InputError
from dallemini.hub import Figure, model_card, read_figures, usual_sections
from dallemini.hub.card import add_sections, join_card, split_card
from dallemini.hub.figures import figures_table
from fuzzing import ruled

INTERVAL: dict[str, Any] = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 100}
EVALUATION: dict[str, Any] = {
    "model": "tiny",
    "data": "emoji",
    "captions": 100,
    "settings": {"not_a_figure": INTERVAL},
    "drawn": [{"selection": "first seed", "frechet": 3.0, "retrieval": {"first": INTERVAL}}],
    "broken": {**INTERVAL, "low": None},
    "likelihood": {"text_gap": {**INTERVAL, "value": float("nan")}},
}


def test_only_what_was_measured_is_a_figure() -> None:
    (figure,) = read_figures(EVALUATION)
    assert figure == Figure(
        name=("drawn", "first seed", "retrieval", "first"), data="emoji", **INTERVAL
    )
    assert read_figures({"value": 1, "low": 0, "high": 2, "count": 3}) == []


def test_the_hub_reads_the_figures() -> None:
    figures = read_figures(EVALUATION)
    card = model_card("tiny", license="mit", figures=figures, sections=usual_sections())
    read: Any = ModelCard(card)
    assert read.data.eval_results is not None
    (result,) = read.data.eval_results
    assert (result.task_type, result.dataset_name, result.metric_type, result.metric_value) == (
        "text-to-image",
        "emoji",
        "first",
        0.5,
    )
    assert result.metric_name == "drawn, first seed, retrieval, first"
    assert (read.data.license, read.data.pipeline_tag) == ("mit", "text-to-image")
    for heading in ("Training data", "Measured", "Bias", "Limits"):
        assert f"## {heading}\n" in card


def test_a_table_says_what_and_how_sure() -> None:
    table = figures_table(read_figures(EVALUATION))
    assert "| drawn, first seed, retrieval, first | 0.500 | 0.400 to 0.600 | 100 |" in table
    assert "Nothing: no `evaluation.json`" in usual_sections()["Measured"]
    assert usual_sections(figures=read_figures(EVALUATION))["Measured"] == table


def test_headers_come_back_as_they_were() -> None:
    header = {"license": "mit", "tags": ["a: b", "c"], "model-index": []}
    text = join_card(header, "# Mine\n")
    assert split_card(text) == ({"license": "mit", "tags": ["a: b", "c"]}, "# Mine\n")
    assert split_card("# None\n---\n") == ({}, "# None\n---\n")
    assert json.loads(text.splitlines()[2].partition(": ")[2]) == ["a: b", "c"]
    with pytest.raises(InputError, match="is not valid YAML"):
        split_card("---\na: [\n---\n")
    with pytest.raises(InputError, match="must have lines such as license: mit"):
        split_card("---\njust words\n---\n")


def test_sections_that_are_there_stay() -> None:
    body = "# Mine\n\n## Known limits\n\nMany.\n"
    filled = add_sections(body, {"Limits": "Others.", "Bias": "Some.", "Provenance": ""})
    assert filled == body + "\n## Bias\n\nSome.\n"
    assert add_sections(filled, {"Limits": "Others.", "Bias": "Other."}) == filled


@pytest.mark.parametrize(
    "header",
    [
        "a: &a [x, x]\nb: [*a, *a]",  # of nine such lines a save would write gigabytes
        "released: 2001-99-99",
        "a: " + "[" * 3000,
        "a: " + "x" * (1 << 18),
    ],
)
def test_headers_that_would_not_end_are_refused(header: str) -> None:
    with pytest.raises(InputError, match="is not valid YAML") as caught:
        split_card(f"---\n{header}\n---\n\n# Mine\n")
    assert len(str(caught.value)) < 1000


def test_numbers_and_depths_that_no_figure_has_are_left_out() -> None:
    deep: Any = {"value": 1, "low": 0, "high": 2, "count": 9}
    assert len(read_figures({"a": deep})) == 1
    assert read_figures({"a": {**deep, "high": 10**400}}) == []
    for _ in range(3000):
        deep = [deep]
    assert read_figures({"a": deep}) == []


def test_every_letter_of_a_header_is_read_again() -> None:
    header = {"title": "🍎 é \x7f \u2028 \ud83c \ufeff \\ud83c", "datasets": ["näive 🍎"]}
    card = join_card(header, "# Mine")
    assert "näive 🍎" in card
    assert split_card(card)[0] == header


def test_sections_of_blanks_are_searched_at_once() -> None:
    with ruled():
        add_sections("# a" + " " * 200_000 + "b", {"Use": "text"})
