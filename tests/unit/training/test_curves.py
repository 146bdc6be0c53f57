"""Curves: a plot of every log, whatever is missing in it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dallemini.errors import InputError, MissingDependencyError, MissingFileError, StorageError
from dallemini.images import read_image
from dallemini.training import curves
from dallemini.training.curves import plot_curves, read_curves, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

pytestmark = pytest.mark.usefixtures("plotting")


def write_log(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def a_run(*, rows: int = 60) -> list[dict[str, Any]]:
    """A loss that falls steeply at first, with one spike; a measurement at every fifth row."""
    made: list[dict[str, Any]] = []
    for index in range(1, rows + 1):
        loss = 50.0 if index == 40 else 1 + 6 / index + 0.05 * (-1) ** index
        step = 50 * index
        made.append({"step": step, "loss": loss, "l1": loss / 3, "learning_rate": 1e-3})
        if index % 5 == 0:
            made.append({"step": step, "heldout_loss": 1.5 + 5 / index, "text_gap": index / 100})
    return made


def panels(folder: Path) -> dict[str, Axes]:
    figure = curves._draw(read_curves(folder), title="run")
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_the_plot_is_a_picture_in_the_folder(tmp_path: Path) -> None:
    write_log(tmp_path, *a_run())
    path = plot_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    picture = read_image(path)
    assert picture.shape[2] == 1320
    assert float(picture.min()) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"log.jsonl", "curves.png"}


def test_losses_share_a_panel_and_the_rest_follows_in_order(tmp_path: Path) -> None:
    write_log(tmp_path, *a_run())
    drawn = panels(tmp_path)
    assert list(drawn) == [
        "losses",
        "losses, steps on a logarithmic scale",
        "text gap",
        "l1",
        "learning rate",
    ]
    legend = drawn["losses"].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["loss", "heldout loss"]


def test_a_long_curve_is_smoothed_over_its_raw_values(tmp_path: Path) -> None:
    write_log(tmp_path, *a_run())
    raw, smoothed, heldout = panels(tmp_path)["losses"].lines
    values = np.asarray(smoothed.get_ydata())
    assert raw.get_alpha() == 0.35
    assert np.max(raw.get_ydata()) == 50
    assert values[5:].max() < 15
    assert values[:4].tolist() == pytest.approx(np.asarray(raw.get_ydata())[:4])
    assert heldout.get_marker() == "o"
    assert len(np.asarray(heldout.get_xdata())) == 12


def test_neither_the_first_steps_nor_a_spike_flatten_the_rest(tmp_path: Path) -> None:
    write_log(tmp_path, *a_run(rows=200))
    drawn = panels(tmp_path)
    low, high = drawn["losses"].get_ylim()
    assert low < 1.0
    assert 1.5 < high < 8
    assert drawn["losses, steps on a logarithmic scale"].get_ylim()[1] > 6.9  # the beginning
    assert drawn["l1"].get_ylim()[1] < 8


def test_logarithmic_steps_are_plain_numbers(tmp_path: Path) -> None:
    write_log(tmp_path, *a_run())
    axes = panels(tmp_path)["losses, steps on a logarithmic scale"]
    axes.figure.canvas.draw()
    assert axes.get_xscale() == "log"
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert {"50", "100", "200", "500", "1k", "2k"} <= {*labels}


def test_missing_and_broken_values_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": None, "l1": None},
        {"step": 30, "loss": math.nan, "psnr": math.inf},
        {"step": 40, "loss": 0.5, "note": "text"},
    ]
    write_log(tmp_path, *rows)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 50, "lo')
    (loss,) = read_curves(tmp_path)
    assert (loss.name, loss.steps, loss.values) == ("loss", [10, 40], [1.0, 0.5])
    plot_curves(tmp_path)


@pytest.mark.slow_except("rows2")
@pytest.mark.parametrize(
    "rows",
    [
        [{"step": 0, "loss": 0.0}],
        [{"step": 5, "psnr": 20.0}, {"step": 10, "psnr": 20.0}],
        [{"step": 10**step, "heldout_loss": 10.0**-step, "a": 1, "b": 2} for step in range(8)],
    ],
)
def test_every_log_with_a_number_can_be_plotted(tmp_path: Path, rows: list[Any]) -> None:
    write_log(tmp_path, *rows)
    assert read_image(plot_curves(tmp_path)).shape[2] == 1320


def test_the_smoothed_line_follows_a_steep_beginning() -> None:
    values = [10 / (index + 1) for index in range(100)]
    smoothed = smooth(values, width=21)
    assert smoothed[:4].tolist() == pytest.approx(values[:4])
    assert abs(smoothed[:30] - values[:30]).max() < 0.3
    noisy = [1 + 0.5 * (-1) ** index for index in range(101)]
    assert abs(smooth(noisy, width=21)[-20:] - 1).max() < 0.06  # the end is smooth too


def test_a_folder_without_a_log_or_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no .*log\.jsonl"):
        plot_curves(tmp_path)
    write_log(tmp_path, {"step": 1, "loss": None})
    with pytest.raises(InputError, match="holds no number yet; train some steps first"):
        plot_curves(tmp_path)


def test_a_missing_matplotlib_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, {"step": 1, "loss": 1.0})
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[train\]"'):
        plot_curves(tmp_path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_log(tmp_path, {"step": 1, "loss": 1.0})
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(StorageError, match=r"Could not write .*curves\.png"):
        plot_curves(tmp_path)


def test_a_loss_of_the_first_steps_alone_is_plotted(tmp_path: Path) -> None:
    rows = [{"step": 0, "loss": 1.0}, {"step": 100, "other": 2.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_curves(tmp_path).is_file()


def test_what_no_plot_can_show_does_not_end_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run $a^{$"  # no TeX
    folder.mkdir()
    names = {"a $\\frac{$": 1.0, "\0": 2.0, "x" * 500: 1}
    rows = [{"step": 1, "loss": 1e308, **names}, {"step": -5, "loss": 1.0}, {"step": 2, "loss": 1}]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plot_curves(folder).stat().st_size > 1000
