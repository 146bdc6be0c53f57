"""What an evaluation returns: figures, and the pictures they were seen in. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from PIL import Image

from .._version import __version__
from ..config import both_sides
from ..sheets import make_grid
from .metrics import CodebookUse, Interval, Retrieval
from .pictures import PictureRow, show, strip
from .saved_report import PICTURE_FOLDER, SavedReport

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#|~&$!])")


@dataclass(frozen=True, kw_only=True)
class DrawnFigures:
    """Measures of one drawn picture for each caption.

    Attributes:
        selection: which of a caption's pictures: "first seed", or "best of n".
        count: pictures, one a caption.
        frechet: distance to the captions' own pictures; None where it was not measured.
        retrieval: whether the caption's own picture is the nearest.
        score: of picture and caption, by the pipeline's scorer.
    """

    selection: str
    count: int
    frechet: float | None = None
    retrieval: Retrieval | None = None
    score: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class ReconstructionFigures:
    """Measures of the image tokenizer: own pictures to codes and back.

    Attributes:
        psnr: mean over pictures, in dB.
        codebook: how many codes the pictures take.
        frechet: distance to the pictures themselves.
        retrieval: the ceiling of the drawn pictures' retrieval.
    """

    psnr: Interval
    codebook: CodebookUse
    frechet: float | None = None
    retrieval: Retrieval | None = None


@dataclass(frozen=True, kw_only=True)
class LikelihoodFigures:
    """How well the transformer foretells the codes of the captions' own pictures.

    Attributes:
        captioned: nats per token, given the caption; lower is better.
        blank: nats per token, given an empty caption.
        text_gap: blank less captioned, picture by picture: what the caption is worth.
    """

    captioned: Interval
    blank: Interval
    text_gap: Interval


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationReport(SavedReport):
    """Everything that an evaluation found.

    Attributes:
        model: name of the pipeline.
        data: name of the data.
        choice: how the captions were chosen.
        captions: how many were measured.
        references: real pictures that were read, those of the captions among them.
        picture_size: pixels along a side, or height and width.
        images_per_prompt: pictures drawn for a caption; one where there is no scorer to choose.
        feature_space: name of the space of distances; None where none was measured.
        feature_size: its dimensions.
        score_name: what the scorer is called.
        settings: of the drawing.
        config: of the evaluation.
        drawn: figures of the first pictures, then of the best if several were drawn.
        own_score: score of the captions' own pictures.
        frechet_of_others: distance between the captions' own pictures and as many other real ones.
        reconstruction: figures of the image tokenizer.
        likelihood: figures of the transformer.
        not_measured: measure to the reason why it is not here.
        bad_records: left out of the data.
        seconds: what it took.
        rows: captions with their pictures.
    """

    model: str
    data: str
    choice: str
    captions: int
    references: int
    picture_size: int | tuple[int, int]
    images_per_prompt: int
    feature_space: str | None
    feature_size: int | None
    score_name: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    drawn: tuple[DrawnFigures, ...]
    own_score: Interval | None
    frechet_of_others: float | None
    reconstruction: ReconstructionFigures | None
    likelihood: LikelihoodFigures | None
    not_measured: Mapping[str, str]
    bad_records: int
    seconds: float
    rows: tuple[PictureRow, ...]

    _seen = "rows"

    @property
    def table(self) -> str:
        """The figures as a table in Markdown."""
        return _table(_lines(self))

    @property
    def markdown(self) -> str:
        """The whole page in Markdown; its links lead to what `save` writes beside it."""
        return _page(self, self.table, _links(self))

    def _pictures(self) -> Iterator[tuple[str, Image.Image]]:
        pairs: list[Image.Image] = []
        for number, row in enumerate(self.rows):
            if row.drawn is not None:
                yield _strip_path(number), strip(row)
            if row.own is not None and row.reconstruction is not None:
                pairs += [show(row.own), show(row.reconstruction)]
        if pairs:
            yield f"{PICTURE_FOLDER}/reconstructions.png", make_grid(pairs, columns=8)


def _links(report: EvaluationReport) -> list[str]:
    return [
        _strip_path(number) if row.drawn is not None else ""
        for number, row in enumerate(report.rows)
    ]


def _strip_path(number: int) -> str:
    return f"{PICTURE_FOLDER}/drawn-{number + 1:03}.png"


def _lines(report: EvaluationReport) -> Iterator[_Line]:
    for figures in report.drawn:
        yield from _drawn_lines(report, figures)
    if report.own_score is not None:
        yield _mean_line("the captions' own pictures", report.score_name, report.own_score)
    if report.frechet_of_others is not None:
        yield _frechet_line("other real pictures", report.frechet_of_others, report.captions)
    if report.reconstruction is not None:
        yield from _reconstruction_lines(report, report.reconstruction)
    if report.likelihood is not None:
        what, likelihood = "codes of the own pictures", report.likelihood
        named = (
            ("nats per token, with the caption ↓", likelihood.captioned),
            ("nats per token, with a blank caption", likelihood.blank),
            ("text gap: blank less captioned, nats ↑", likelihood.text_gap),
        )
        for name, interval in named:
            yield _mean_line(what, name, interval, digits=3)


def _drawn_lines(report: EvaluationReport, figures: DrawnFigures) -> Iterator[_Line]:
    what = f"drawn, {figures.selection}"
    if figures.frechet is not None:
        yield _frechet_line(what, figures.frechet, figures.count)
    if figures.retrieval is not None:
        yield from _retrieval_lines(what, figures.retrieval)
    if figures.score is not None:
        yield _mean_line(what, f"{report.score_name} ↑", figures.score)


def _reconstruction_lines(
    report: EvaluationReport, figures: ReconstructionFigures
) -> Iterator[_Line]:
    what, use = "reconstructions", figures.codebook
    yield _mean_line(what, "PSNR in dB ↑", figures.psnr)
    if figures.frechet is not None:
        yield _frechet_line(what, figures.frechet, figures.psnr.count)
    if figures.retrieval is not None:
        yield from _retrieval_lines(what, figures.retrieval)
    of = f"{use.tokens:,} tokens"
    share = f"{100 * use.share:.1f} % ({use.used:,} of {use.size:,})"
    yield _Line(what, "codes in use", share, "", of)
    yield _Line(what, "perplexity of the codes", f"{use.perplexity:,.0f}", "", of)


def _retrieval_lines(what: str, figures: Retrieval) -> Iterator[_Line]:
    size = f"{figures.gallery:,}"
    if figures.largest > figures.gallery:
        size += f" to {figures.largest:,}"
    for name, share in (
        (f"own picture is the nearest of {size} ↑", figures.first),
        ("own picture is among the five nearest ↑", figures.among_five),
    ):
        bounds = f"{100 * share.low:.1f} to {100 * share.high:.1f} %"
        yield _Line(what, name, f"{100 * share.value:.1f} %", bounds, f"{share.count:,}")


def _frechet_line(what: str, distance: float, count: int) -> _Line:
    return _Line(what, "Frechet distance ↓", f"{distance:#.4g}", "", f"{count:,}")


def _mean_line(what: str, name: str, mean: Interval, *, digits: int = 2) -> _Line:
    bounds = f"{mean.low:.{digits}f} to {mean.high:.{digits}f}"
    return _Line(what, name, f"{mean.value:.{digits}f}", bounds, f"{mean.count:,}")


class _Line(NamedTuple):
    """A row of the table: what was measured, by which measure, and the figure."""

    what: str
    measure: str
    value: str
    interval: str
    number: str


def _table(lines: Iterable[_Line]) -> str:
    """Lay lines out as a table; what was measured is named once."""
    rows = ["| of | measure | value | 95 % interval | measured on |", "|---|---|---|---|---|"]
    for _, group in groupby(lines, key=lambda line: line.what):
        for number, line in enumerate(group):
            what = "" if number else line.what
            cells = [what, line.measure, line.value, line.interval, line.number]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _page(report: EvaluationReport, figures: str, strips: Sequence[str]) -> str:
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
    height, width = both_sides(report.picture_size)
    lines = [
        f"{report.captions:,} captions of {escape(report.data)} ({report.choice}), pictures of "
        f"{width}x{height}."
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
