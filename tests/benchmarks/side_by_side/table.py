"""The tables of a report in Markdown: what is wanted beside what was reached, and every median."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .breakdown import PARTS
from .summary import Report, floors, ratio, share_of_floor, value

UNITS = {"whole": "s", "token": "ms", "encoder": "ms", "decode": "s", "peak_bytes": "GB"}
LABELS = {
    "token": "a token",
    "encoder": "encoder",
    "decode": "VQGAN, an image",
    "whole": "whole call",
    "peak_bytes": "peak memory",
    "private_bytes": "of it private",
}


@dataclass(frozen=True)
class Row:
    """A line of the table of wanted figures.

    Attributes:
        label: without the model's name.
        model: the report that it is read from.
        wanted: by precision.
        reached: from a report and a precision to the figure.
        format: "x" for a ratio to min-dalle, "GB" for bytes, "%" for a share.
    """

    label: str
    model: str
    wanted: Mapping[str, float]
    reached: Callable[[Report, str], float]
    format: str = "x"

    def cell(self, report: Report, precision: str) -> str:
        """Return the figure, and the wanted one in brackets."""
        reached = show(self.reached(report, precision), self.format)
        return f"{reached} ({show(self.wanted[precision], self.format)})"


def _ratio(*path: str) -> Callable[[Report, str], float]:
    return lambda report, precision: ratio(report, precision, *path)


def _peak(images: int) -> Callable[[Report, str], float]:
    path = ("images", str(images), "peak_bytes")
    return lambda report, precision: value(report, precision, *path)


def _both(float32: float, int8: float) -> dict[str, float]:
    return {"float32": float32, "int8": int8}


ROWS = (
    Row("a token, 1 image", "mini", _both(2.4, 20), _ratio("images", "1", "token")),
    Row("a token, 9 images", "mini", _both(4.5, 11), _ratio("images", "9", "token")),
    Row("a token, 1 image", "mega", _both(2.3, 7.5), _ratio("images", "1", "token")),
    Row("a token, 9 images", "mega", _both(4.5, 15), _ratio("images", "9", "token")),
    Row("whole call, 1 image", "mini", _both(2.2, 5), _ratio("images", "1", "whole")),
    Row("whole call, 9 images", "mini", _both(3.2, 16), _ratio("images", "9", "whole")),
    Row("VQGAN decode", "mini", _both(1.3, 1.3), _ratio("images", "1", "decode")),
    Row("time until ready", "mega", _both(8, 5), _ratio("ready_seconds")),
    Row("peak memory, 1 image", "mega", _both(11e9, 3.3e9), _peak(1), "GB"),
    Row("peak memory, 1 image", "mini", _both(2.0e9, 1.1e9), _peak(1), "GB"),
    Row("peak memory, 9 images", "mini", _both(2.6e9, 1.4e9), _peak(9), "GB"),
    Row(
        "share of the floor, 1 image",
        "mini",
        _both(0.70, 0.75),
        lambda report, precision: share_of_floor(report, images=1, precision=precision),
        "%",
    ),
)


def wanted_table(reports: Mapping[str, Report]) -> str:
    """Return the table of wanted figures with those reached, for the models in `reports`."""
    precisions = ours(next(iter(reports.values())))
    lines = []
    for row in ROWS:
        report = reports.get(row.model)
        if report is not None and _measured(row, report):
            cells = [row.cell(report, precision) for precision in precisions]
            lines.append([f"{row.model}, {row.label}", *cells])
    heads = [f"{precision}: reached (wanted)" for precision in precisions]
    return markdown(["", *heads], lines)


def _measured(row: Row, report: Report) -> bool:
    try:
        row.reached(report, "float32")
    except KeyError:  # fewer numbers of images were asked for
        return False
    return True


def ours(report: Report) -> list[str]:
    """Return the columns that are not min-dalle."""
    return [side for side in report["sides"] if side != "min-dalle"]


def medians_table(report: Report) -> str:
    """Return every median with its spread, a side a column, ratios to min-dalle in brackets."""
    sides = list(report["sides"])
    lines = [
        [f"{name}", *(_median_cell(report, side, (key,), unit) for side in sides)]
        for name, key, unit in (
            ("import", "import_seconds", "s"),
            ("load", "load_seconds", "s"),
            ("peak memory of loading", "load_peak_bytes", "GB"),
        )
    ]
    for images in report["sides"][sides[0]]["images"]:
        for measure, label in LABELS.items():
            path = ("images", images, measure)
            unit = UNITS.get(measure, "GB")
            cells = [_median_cell(report, side, path, unit) for side in sides]
            lines.append([f"{label}, {images} image{'s' * (images != '1')}", *cells])
    return markdown(["", *sides], lines)


def _median_cell(report: Report, side: str, path: Sequence[str], unit: str) -> str:
    place = report["sides"][side]
    for name in path:
        place = place[name]
    spread = f" ± {50 * place['spread']:.0f} %" if place["n"] > 1 else ""
    shown = show(place["median"], unit) + spread
    return shown if side == "min-dalle" else f"{shown} ({show(ratio(report, side, *path), 'x')})"


def floor_table(report: Report) -> str:
    """Return how near every number of images comes to what the machine allows."""
    lines = []
    for precision in ours(report):
        for images in report["sides"][precision]["images"]:
            least = floors(report, images=int(images), precision=precision)
            token = value(report, precision, "images", images, "token")
            share = share_of_floor(report, images=int(images), precision=precision)
            lines.append(
                [
                    f"{precision}, {images}",
                    show(least["memory"], "ms"),
                    # the rate measured is that of float32
                    show(least["arithmetic"], "ms") if precision == "float32" else "",
                    show(token, "ms"),
                    show(share, "%"),
                ]
            )
    heads = ["precision, images", "reading", "arithmetic", "a token", "share of reading"]
    return markdown(heads, lines)


def breakdown_table(report: Report) -> str:
    """Return where the time of a step goes, in milliseconds; empty if it was not measured."""
    lines = []
    for precision in ours(report):
        for images, positions in report["sides"][precision].get("breakdown", {}).items():
            for position, parts in positions.items():
                cells = [show(parts.get(part, 0.0), "ms") for part in (*PARTS, "step")]
                lines.append([f"{precision}, {images}, {position}", *cells])
    return markdown(["precision, images, position", *PARTS, "step"], lines) if lines else ""


def show(figure: float, unit: str) -> str:
    """Return a figure with its unit: "x", "s", "ms", "GB" or "%"."""
    scale = {"ms": 1e3, "GB": 1e-9, "%": 100.0}.get(unit, 1.0)
    digits = {"%": 0, "x": 1 if figure >= 2 else 2}.get(unit, _digits(figure * scale))
    return f"{figure * scale:.{digits}f}{'' if unit == 'x' else ' '}{unit}"


def _digits(figure: float) -> int:
    return 0 if figure >= 100 else 1 if figure >= 10 else 2


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
