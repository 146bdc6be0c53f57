"""A plot of a run's log: how the losses fell, what was measured on the way.

Knows the log's names only by their form: "loss" and what ends in "_loss" beside it share a scale,
everything else has its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, MissingDependencyError
from ..files import as_path, replacing
from .log import read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_NAME = "curves.png"

Values = NDArray[np.float64]

_NOT_DRAWN = ("step", "epoch", "time")  # they grow with the steps
_COLUMNS, _MOST_PANELS = 3, 36
_LARGEST, _LONGEST = 1e100, 100  # of values; characters of names
_SMOOTHED_FROM = 30  # points; fewer are drawn as they are, as measurements always are
_MARKED_TO = 60  # points; of more, the marks would be a band
_WINDOW = 20  # the smoothed line is a mean over a 20th of the run
_COLOURS = ("#1f5fa8", "#d1495b", "#2a9d5c", "#e08e0b", "#7b52ab", "#5c6770", "#17a2b8", "#9c6b3f")


@dataclass
class Curve:
    """The values of one name over the steps; `measured` are those that are not of a training step.

    Attributes:
        steps: at which there is a finite value.
        values: the finite values.
        measured: whether its rows are evaluations.
    """

    name: str
    measured: bool
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @cached_property
    def smoothed(self) -> Values | None:
        """The values without their noise; None for measurements and for few values."""
        count = len(self.values)
        if self.measured or count < _SMOOTHED_FROM:
            return None
        return smooth(self.values, width=max(5, count // _WINDOW))


def plot_curves(folder: str | os.PathLike[str]) -> Path:
    """Plot the log of a run as `curves.png` in its folder.

    The losses come twice, over the steps and over their logarithm, where the beginning is seen;
    below is a panel for every other name, up to 36. Values that are missing or not finite are left
    out.

    Args:
        folder: of the run.

    Returns:
        The file.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        MissingFileError: the folder has no log.
        InputError: the log holds nothing to plot.
        StorageError: the file cannot be written.
    """
    folder = as_path(folder)
    curves = read_curves(folder)
    if not curves:
        raise InputError(f"The log in {folder} holds no number yet; train some steps first.")
    figure = _draw(curves, title=folder.absolute().name)
    path = folder / CURVES_NAME
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def read_curves(folder: str | os.PathLike[str]) -> list[Curve]:
    """Return the log of a run by name, in order of appearance; names without a value are left out.

    Raises:
        MissingFileError: the folder has no log.
    """
    curves: dict[str, Curve] = {}
    for row in read_log(folder):
        for name, value in row.items():
            if name not in _NOT_DRAWN and abs(value) < _LARGEST:
                curve = curves.setdefault(name, Curve(name, measured="loss" not in row))
                curve.steps.append(row["step"])
                curve.values.append(value)
    return list(curves.values())


def smooth(values: Sequence[float], *, width: int) -> Values:
    """Return the mean of up to `width` values around each one.

    Near the beginning fewer are taken, about half as many as came before, so that the line follows
    the first steep fall.

    Example:
        >>> from dallemini.training.curves import smooth
        >>> smooth([8.0, 4.0, 2.0, 1.0, 3.0, 2.0, 4.0, 3.0], width=3).tolist()
        [8.0, 4.0, 2.0, 1.0, 2.0, 3.0, 3.0, 3.5]
    """
    count = len(values)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    index = np.arange(count)
    reach = np.minimum(index // 4, width // 2)
    start, end = index - reach, np.minimum(index + reach + 1, count)
    means: Values = (sums[end] - sums[start]) / (end - start)
    return means


def _draw(curves: list[Curve], *, title: str) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'matplotlib is not installed: pip install ".[train]". plot_curves(folder) '
            "plots a finished run as well."
        ) from error
    losses = [c for c in curves if c.name == "loss" or (c.measured and c.name.endswith("_loss"))]
    others = sorted((c for c in curves if c not in losses), key=_place)[:_MOST_PANELS]
    last = max(max(curve.steps) for curve in curves)
    rows = math.ceil(len(others) / _COLUMNS)
    heights = ([1.5] if losses else []) + [1.0] * rows
    figure = Figure(figsize=(12, 0.6 + 2.5 * sum(heights)), layout="constrained")
    figure.suptitle(_label(title), fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(len(heights), 2 * _COLUMNS, height_ratios=heights)
    if losses:
        linear = figure.add_subplot(grid[0, :_COLUMNS])
        _panel(linear, losses, title="losses", last=last)
        # the first steps' fall would flatten everything after it
        _fit_height(linear, losses, first=0.03 * last)
        logarithmic = figure.add_subplot(grid[0, _COLUMNS:])
        _panel(logarithmic, losses, title="losses, steps on a logarithmic scale", last=last)
        _logarithmic_steps(logarithmic, losses)
    for index, curve in enumerate(others):
        row, column = divmod(index, _COLUMNS)
        place = grid[row + bool(losses), 2 * column : 2 * column + 2]
        _panel(figure.add_subplot(place), [curve], title=curve.name, last=last)
    return figure


def _place(curve: Curve) -> int:
    """Say what comes first: measurements, then parts of the loss, then how the run went."""
    if curve.name.endswith(("learning_rate", "_per_second", "memory_gb")):
        return 2
    return 0 if curve.measured else 1


def _panel(axes: Axes, curves: list[Curve], *, title: str, last: float) -> None:
    for curve, colour in zip(curves, _COLOURS * len(curves), strict=False):
        _line(axes, curve, colour)
    axes.set_title(_label(title).replace("_", " "), fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.set_xlim(0, 1.03 * last or 1)
    _fit_height(axes, curves, first=0)
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False)


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    """Draw a curve; a long one of training steps as a smoothed line over the raw values."""
    label, count = _label(curve.name).replace("_", " "), len(curve.values)
    if curve.smoothed is not None:
        axes.plot(curve.steps, curve.values, color=colour, alpha=0.35, linewidth=0.8)
        axes.plot(curve.steps, curve.smoothed, color=colour, label=label, linewidth=1.6)
        return
    marked = count == 1 or (curve.measured and count < _MARKED_TO)
    marker = "o" if marked else None
    axes.plot(curve.steps, curve.values, color=colour, label=label, marker=marker, ms=3.5)


def _fit_height(axes: Axes, curves: list[Curve], *, first: float) -> None:
    """Show the lines from step `first` on, without room for raw values that stand alone."""
    shown: list[float] = []
    for curve in curves:
        late = np.asarray(curve.steps) >= first
        values = np.asarray(curve.values)[late]
        if curve.smoothed is not None:
            shown += [*curve.smoothed[late], *np.percentile(values, [1, 99])]
        else:
            shown += [*values]
    if not shown:  # all of them are of the first steps
        shown = [value for curve in curves for value in curve.values]
    low, high = min(shown), max(shown)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _logarithmic_steps(axes: Axes, losses: list[Curve]) -> None:
    """Give the steps a logarithmic scale with plain numbers: 100, 200, 500, 1k."""
    from matplotlib.ticker import LogLocator, NullFormatter

    steps = [step for curve in losses for step in curve.steps if step > 0]
    if not steps or min(steps) == max(steps):
        return
    axes.set_xscale("log")
    axes.set_xlim(min(steps) / 1.05, 1.05 * max(steps))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(lambda step, _: _short(step))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _label(text: str) -> str:
    """Write a name as it is, in one line: matplotlib reads what lies between dollars as TeX."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST])
    return shown.replace("$", r"\$")


def _short(step: float) -> str:
    """Write 1500 as 1.5k."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
