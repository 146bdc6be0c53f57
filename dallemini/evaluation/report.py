"""What an evaluation returns: figures, the pictures they were seen in, and both as files.

`report.json` holds every figure, `report.md` the same for people, with pictures in `images/`.
Knows no model.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .._version import __version__
from ..errors import StorageError
from ..outputs import make_grid
from .metrics import CodebookUse, Interval, Retrieval
from .pages import Line, page, table
from .pictures import PictureRow, show, strip

JSON_NAME, PAGE_NAME, PICTURE_FOLDER = "report.json", "report.md", "images"


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
class EvaluationReport:
    """Everything that an evaluation found.

    Attributes:
        model: name of the pipeline.
        data: name of the data.
        choice: how the captions were chosen.
        captions: how many were measured.
        references: real pictures that were read, those of the captions among them.
        picture_size: pixels along a side.
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
    picture_size: int
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

    def to_dict(self) -> dict[str, Any]:
        """Return every figure as plain JSON values; pictures are left out."""
        values: dict[str, Any] = {"version": __version__}
        for field in dataclasses.fields(self):
            if field.name != "rows":
                values[field.name] = _plain(getattr(self, field.name))
        return values

    @property
    def table(self) -> str:
        """The figures as a table in Markdown."""
        return table(_lines(self))

    @property
    def markdown(self) -> str:
        """The whole page in Markdown; its links lead to what `save` writes beside it."""
        return page(self, self.table, _links(self))

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write `report.json`, `report.md` and the pictures into a folder, over those there.

        Returns:
            The path of the page.

        Raises:
            StorageError: the folder cannot be made or written.
        """
        folder = Path(directory)
        try:
            (folder / PICTURE_FOLDER).mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
            (folder / JSON_NAME).write_text(text + "\n", encoding="utf-8")
            (folder / PAGE_NAME).write_text(self.markdown, encoding="utf-8")
            for path, picture in _pictures(self):
                picture.save(folder / path)
        except OSError as error:
            raise StorageError(f"Could not write the report to {folder}: {error}.") from error
        return folder / PAGE_NAME


def _pictures(report: EvaluationReport) -> Iterator[tuple[str, Image.Image]]:
    """Yield every picture of the page with its path."""
    pairs: list[Image.Image] = []
    for number, row in enumerate(report.rows):
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


def _lines(report: EvaluationReport) -> Iterator[Line]:
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


def _drawn_lines(report: EvaluationReport, figures: DrawnFigures) -> Iterator[Line]:
    what = f"drawn, {figures.selection}"
    if figures.frechet is not None:
        yield _frechet_line(what, figures.frechet, figures.count)
    if figures.retrieval is not None:
        yield from _retrieval_lines(what, figures.retrieval)
    if figures.score is not None:
        yield _mean_line(what, f"{report.score_name} ↑", figures.score)


def _reconstruction_lines(
    report: EvaluationReport, figures: ReconstructionFigures
) -> Iterator[Line]:
    what, use = "reconstructions", figures.codebook
    yield _mean_line(what, "PSNR in dB ↑", figures.psnr)
    if figures.frechet is not None:
        yield _frechet_line(what, figures.frechet, figures.psnr.count)
    if figures.retrieval is not None:
        yield from _retrieval_lines(what, figures.retrieval)
    of = f"{use.tokens:,} tokens"
    share = f"{100 * use.share:.1f} % ({use.used:,} of {use.size:,})"
    yield Line(what, "codes in use", share, "", of)
    yield Line(what, "perplexity of the codes", f"{use.perplexity:,.0f}", "", of)


def _retrieval_lines(what: str, figures: Retrieval) -> Iterator[Line]:
    size = f"{figures.gallery:,}"
    if figures.largest > figures.gallery:
        size += f" to {figures.largest:,}"
    for name, share in (
        (f"own picture is the nearest of {size} ↑", figures.first),
        ("own picture is among the five nearest ↑", figures.among_five),
    ):
        bounds = f"{100 * share.low:.1f} to {100 * share.high:.1f} %"
        yield Line(what, name, f"{100 * share.value:.1f} %", bounds, f"{share.count:,}")


def _frechet_line(what: str, distance: float, count: int) -> Line:
    return Line(what, "Frechet distance ↓", f"{distance:#.4g}", "", f"{count:,}")


def _mean_line(what: str, name: str, mean: Interval, *, digits: int = 2) -> Line:
    bounds = f"{mean.low:.{digits}f} to {mean.high:.{digits}f}"
    return Line(what, name, f"{mean.value:.{digits}f}", bounds, f"{mean.count:,}")


def _plain(value: Any) -> Any:
    """Turn figures into JSON values, with six significant digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value
