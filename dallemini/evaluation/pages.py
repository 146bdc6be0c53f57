"""The page of a report in Markdown: table, what the figures mean, what is missing, pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from .._version import __version__

if TYPE_CHECKING:
    from .metrics import Retrieval
    from .report import DrawnFigures, EvaluationReport, ReconstructionFigures

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~&$!])")


class Line(NamedTuple):
    """A row of the table: what was measured, by which measure, and the figure."""

    what: str
    measure: str
    value: str
    interval: str
    number: str


def table(lines: Iterable[Line]) -> str:
    """Lay lines out as a table; what was measured is named once."""
    rows = ["| of | measure | value | 95 % interval | measured on |", "|---|---|---|---|---|"]
    for _, group in groupby(lines, key=lambda line: line.what):
        for number, line in enumerate(group):
            what = "" if number else line.what
            cells = [what, line.measure, line.value, line.interval, line.number]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def page(report: EvaluationReport, figures: str, strips: Sequence[str]) -> str:
    """Write the page.

    Args:
        report: what was found.
        figures: the table.
        strips: for each row of pictures the path of its strip, "" without one.
    """
    parts = [f"# Evaluation of {escape(report.model)}", _head(report), figures.rstrip()]
    parts += ["## How to read it", "\n".join(f"- {note}" for note in _notes(report))]
    if report.not_measured:
        reasons = [f"- {name}: {escape(why)}" for name, why in report.not_measured.items()]
        parts += ["## Not measured", "\n".join(reasons)]
    parts += _drawn_section(report, strips)
    if any(row.reconstruction is not None for row in report.rows):
        parts += [
            "## Reconstructions",
            "Pairs: the picture, and what its codes give back.",
            "![pictures beside their reconstructions](images/reconstructions.png)",
        ]
    parts.append(f"Made by dallemini {__version__} in {report.seconds:,.0f} s.")
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Make any text safe inside a line or a table cell of Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _head(report: EvaluationReport) -> str:
    settings, config = report.settings, report.config
    size = report.picture_size
    lines = [
        f"{report.captions:,} captions of {escape(report.data)} ({report.choice}), pictures of "
        f"{size}x{size}."
    ]
    if report.drawn:
        named = ("guidance_scale", "temperature", "top_k", "top_p")
        values = ", ".join(f"{name} {_value(settings.get(name))}" for name in named)
        drawn = report.images_per_prompt
        each = "one picture" if drawn == 1 else f"{drawn} pictures"
        lines.append(
            f"Drawn with {values}; {each} a caption, seeds from {config['seed']} on, none picked "
            "by hand."
        )
    if report.feature_space is not None:
        lines.append(
            f"Distances are those of {escape(report.feature_space)}, "
            f"{report.feature_size:,} features."
        )
    if report.bad_records:
        lines.append(f"{report.bad_records:,} bad records were left out.")
    return " ".join(lines)


def _value(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _notes(report: EvaluationReport) -> list[str]:
    notes = [
        "↑: higher is better, ↓: lower is better. Means have bootstrap intervals, shares Wilson's; "
        "they cover the choice of captions, not that of seeds or of a training run."
    ]
    figures: list[DrawnFigures | ReconstructionFigures] = [*report.drawn]
    if report.reconstruction is not None:
        figures.append(report.reconstruction)
    if any(figure.frechet is not None for figure in figures):
        notes.append(_frechet_note(report))
    found = [figure.retrieval for figure in figures if figure.retrieval is not None]
    if found:
        notes.append(_retrieval_note(report, found[0]))
    if len(report.drawn) > 1:
        notes.append(
            f"The best of a caption's pictures is the one that the {report.score_name} puts "
            "first, so that this row is flattered in the same score."
        )
    if any(each.score is not None for each in report.drawn) or report.own_score is not None:
        notes.append("Scores compare only between reports that were made with the same scorer.")
    if report.likelihood is not None:
        notes.append(
            "The text gap is what a caption tells the transformer about its picture. Both speak "
            "of new pictures only if these were kept out of the training."
        )
    return notes


def _frechet_note(report: EvaluationReport) -> str:
    note = (
        "The Frechet distance is that to the captions' own pictures, 0 if all were the same. It "
        "depends on how many there are: compare it only between reports on the same captions in "
        "the same feature space. It has no interval."
    )
    size = report.feature_size or 0
    if report.captions <= size:
        note += (
            f" Here {report.captions:,} pictures cannot fill the covariance of {size:,} features, "
            "and pictures of other things are far away for that reason alone"
            + (": see the row of other real pictures." if report.frechet_of_others else ".")
        )
    return note


def _retrieval_note(report: EvaluationReport, found: Retrieval) -> str:
    column, smallest = report.config.get("gallery_column"), found.gallery
    same = f" with the same {escape(str(column))}" if column else ""
    chance = f"{100 / smallest:.1f} % first and {min(100.0, 500 / smallest):.1f} % among five"
    at_most = "at most " if found.largest > smallest else ""
    ceiling = " The reconstructions are the ceiling." if report.reconstruction else ""
    return (
        f"Nearest: by the cosine of centred features, in a gallery of real pictures{same}, the "
        f"caption's own one and others under other captions. Chance gives {at_most}{chance}."
        f"{ceiling}"
    )


def _drawn_section(report: EvaluationReport, strips: Sequence[str]) -> list[str]:
    shown = [(row, path) for row, path in zip(report.rows, strips, strict=True) if path]
    if not shown:
        return []
    own = any(row.own is not None for row, _ in shown)
    said = "Seeds as they come, nothing picked."
    said += " First the caption's own picture, then the drawn ones." if own else ""
    said += " The frame marks the best by score." if shown[0][0].best is not None else ""
    lines = ["| asked for | pictures |", "|---|---|"]
    for row, path in shown:
        lines.append(f"| {escape(row.caption)} | ![drawn pictures]({path}) |")
    return ["## Drawn pictures", said, "\n".join(lines)]
