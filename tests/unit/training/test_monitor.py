"""What a run tells: rows that survive an interruption, pictures, a bar, dashboards if asked for."""

from __future__ import annotations

import importlib
import io
import json
import logging
import math
import re
import sys
import types
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dallemini.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    MissingFileError,
    StorageError,
)
from dallemini.images import image_to_tensor, read_image
from dallemini.pipeline.inspecting import inspect_picture
from dallemini.training import Sheet, TrainingConfig
from dallemini.training.callbacks import ProgressBar
from dallemini.training.log import LOG_NAME, read_log
from dallemini.training.monitor import Monitor, own_callbacks
from dallemini.training.trackers import open_tracker


def picture(width: int = 4, height: int = 4) -> Sheet:
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    return Sheet(images=red.expand(1, 3, height, width))


def write_log(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / LOG_NAME).write_text("".join(lines))
    return folder / LOG_NAME


def row(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / step}) + "\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_row_is_one_line_of_json(tmp_path: Path) -> None:
    run = Monitor(tmp_path / "new" / "run")
    run.on_step(50, {"loss": 2.123456789, "learning_rate": 1.23456789e-6, "codes": 7})
    run.on_step(50, {"heldout_loss": 3.0})
    lines = (tmp_path / "new" / "run" / LOG_NAME).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 50, "loss": 2.12346, "learning_rate": 1.2346e-6, "codes": 7},
        {"step": 50, "heldout_loss": 3.0},
    ]
    assert list(read_log(tmp_path / "new" / "run")) == [json.loads(line) for line in lines]


def test_a_number_that_is_none_is_valid_json_and_comes_back(tmp_path: Path) -> None:
    Monitor(tmp_path).on_step(
        1, {"loss": math.nan, "norm": math.inf, "l1": torch.tensor(0.5).item()}
    )
    assert json.loads((tmp_path / LOG_NAME).read_text()) == {
        "step": 1,
        "loss": None,
        "norm": None,
        "l1": 0.5,
    }
    (read,) = read_log(tmp_path)
    assert math.isnan(read["loss"])
    assert math.isnan(read["norm"])


def test_a_resumed_run_drops_the_rows_that_come_again(tmp_path: Path) -> None:
    write_log(tmp_path, *(row(step) for step in (10, 20, 30, 40)))
    run = Monitor(tmp_path, start_step=25)
    assert [r["step"] for r in read_log(tmp_path)] == [10, 20]
    run.on_step(30, {"loss": 0.5})
    assert [r["step"] for r in read_log(tmp_path)] == [10, 20, 30]
    assert [path.name for path in tmp_path.iterdir()] == [LOG_NAME]


def test_a_row_that_was_cut_off_harms_no_other(tmp_path: Path) -> None:
    path = write_log(tmp_path, row(10), row(20)[:-6])
    assert [r["step"] for r in read_log(tmp_path)] == [10]
    run = Monitor(tmp_path, start_step=20)
    run.on_step(30, {"loss": 0.5})
    assert path.read_text() == row(10) + '{"step": 30, "loss": 0.5}\n'


def test_a_whole_last_row_without_its_line_end_is_kept(tmp_path: Path) -> None:
    path = write_log(tmp_path, row(10), row(20).rstrip())
    Monitor(tmp_path, start_step=20)
    assert path.read_text() == row(10) + row(20)


def test_a_run_from_the_start_has_its_own_log(tmp_path: Path) -> None:
    write_log(tmp_path, json.dumps({"step": 0, "psnr": 1.0}) + "\n", row(10))
    Monitor(tmp_path)
    assert list(read_log(tmp_path)) == []


def test_a_log_in_order_is_not_written_again(tmp_path: Path) -> None:
    path = write_log(tmp_path, row(10), row(20))
    before = path.stat().st_ino, path.stat().st_mtime_ns
    Monitor(tmp_path, start_step=100).close()
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    assert [file.name for file in tmp_path.iterdir()] == [LOG_NAME]


@pytest.mark.parametrize("broken", ["\0\0\0\n", "[1, 2]\n", '{"loss": 1.0}\n', "\n"])
def test_a_line_that_is_no_row_is_told_and_left_out(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_log(tmp_path, row(10), broken, row(30))
    with caplog.at_level(logging.WARNING, logger="dallemini.training"):
        assert [r["step"] for r in read_log(tmp_path)] == [10, 30]
    assert re.search(r"Line 2 of .*log\.jsonl is no row of a log", caplog.text)


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no .*log\.jsonl; give the folder"):
        list(read_log(tmp_path))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match=r"Could not make .*file.*Choose another"):
        Monitor(tmp_path / "file")


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    run = Monitor(tmp_path)
    (tmp_path / LOG_NAME).mkdir()
    with pytest.raises(StorageError, match=r"Could not write .*log\.jsonl.* Free some space"):
        run.on_step(1, {"loss": 1.0})
    (tmp_path / "images").write_text("mine")
    with pytest.raises(StorageError, match=r"Could not make .*images"):
        run.on_evaluation(1, {}, {"samples": picture()})


def test_sheets_are_written_by_name_and_step(tmp_path: Path) -> None:
    Monitor(tmp_path).on_evaluation(1500, {"psnr": 20.0}, {"samples": picture(8, 6)})
    assert list(read_log(tmp_path)) == [{"step": 1500, "psnr": 20.0}]
    path = tmp_path / "images" / "samples-0001500.png"
    assert read_image(path).shape == (3, 6, 8)
    assert inspect_picture(path)["source type"].detail == "trainedAlgorithmicMedia"


def test_a_sheet_has_rows_and_their_captions() -> None:
    images = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 3, 6, 8)
    square = image_to_tensor(Sheet(images=images).draw())
    assert square.shape == (3, 2 * 6 + 4, 3 * 8 + 8)  # 3 in a row, gaps of 4
    assert float(square[0, 0, 0]) == 0
    torch.testing.assert_close(square[:, -1, 12], torch.ones(3))
    pairs = Sheet(images=images[:4], columns=2, captions=("a cat", "a dog")).draw()
    assert pairs.size == (20, 2 * (18 + 6) + 4)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"name must be made of letters, digits, .* not "):
        Monitor(tmp_path).on_evaluation(1, {}, {name: picture()})


def test_what_are_no_pictures_is_refused() -> None:
    with pytest.raises(InputError, match=r"Pixels must have shape \[N, 3, H, W\]"):
        Sheet(images=torch.rand(3, 4, 4)).draw()


def test_the_bar_tells_loss_images_per_second_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    with closing(ProgressBar(total_steps=100, batch_size=8, start_step=40)) as run:
        for step in range(41, 61):
            run.on_step(step, {"loss": 1.23456})
    last = re.split(r"[\r\n]+", screen.getvalue().strip())[-1]
    assert re.search(r"60%\|.*\| 60/100 \[\d\d:\d\d<[\d:?]+, [\d.e+]+ images/s, loss 1.235\]", last)


def test_without_a_terminal_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    run = ProgressBar(total_steps=100, batch_size=8)
    run.on_step(50, {"psnr": 20.0})
    run.on_step(100, {})
    assert screen.getvalue() == ""


@pytest.mark.usefixtures("plotting")
def test_closing_plots_the_curves_once(tmp_path: Path) -> None:
    with closing(Monitor(tmp_path)) as run:
        run.on_step(10, {"loss": 1.0})
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "curves.png").unlink()
    run.close()
    Monitor(tmp_path, start_step=10).close()  # nothing new to plot
    assert not (tmp_path / "curves.png").exists()


def test_curves_that_cannot_be_plotted_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = Monitor(tmp_path)
    run.on_step(10, {"loss": 1.0})
    with caplog.at_level(logging.WARNING, logger="dallemini.training"):
        run.close()
    assert "No curves were plotted: matplotlib is not installed: pip install" in caplog.text


@pytest.mark.parametrize(
    ("tracker", "module", "message"),
    [
        ("tensorboard", "torch.utils.tensorboard", "TensorBoard is not installed: pip install t"),
        ("wandb", "wandb", "Weights & Biases is not installed: pip install wandb, or train witho"),
    ],
)
def test_a_tracker_that_is_not_installed_is_told(
    tmp_path: Path, tracker: str, module: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    path = write_log(tmp_path, row(10))
    config = TrainingConfig.from_dict({"steps": 1, "tracker": tracker})
    with pytest.raises(MissingDependencyError, match=message):
        list(own_callbacks(config, tmp_path, start_step=0, judge=lambda row: None))
    assert path.read_text() == row(10)


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tracker must be 'tensorboard', 'wandb' or None, not 'x"):
        open_tracker("x", tmp_path)


def read_events(folder: Path) -> Any:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_gets_numbers_pictures_and_settings(tmp_path: Path) -> None:
    settings = {"steps": 100, "data": {"crop": "center"}}
    with closing(open_tracker("tensorboard", tmp_path, config=settings)) as run:
        run.on_step(10, {"loss": 2.0, "l1": 0.5})
        run.on_step(20, {"loss": 1.5, "norm": math.nan})
        run.on_evaluation(20, {"psnr": 9.0}, {"samples": picture(20, 20)})
    events = read_events(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 2.0), (20, 1.5)]
    assert math.isnan(events.Scalars("norm")[0].value)
    (shown,) = events.Images("samples")
    assert (shown.step, shown.width, shown.height) == (20, 20, 20)
    assert read_image(io.BytesIO(shown.encoded_image_string))[:, 0, 0].tolist() == [1, 0, 0]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"crop": "center"' in text


def test_tensorboard_hides_what_a_resumed_run_does_again(tmp_path: Path) -> None:
    for start, value in ((0, 1.0), (15, 2.0)):
        with closing(open_tracker("tensorboard", tmp_path, start_step=start)) as run:
            for step in (10, 20, 30):
                if step > start:
                    run.on_step(step, {"loss": value})
    scalars = read_events(tmp_path).Scalars("loss")
    assert [(event.step, event.value) for event in scalars] == [(10, 1.0), (20, 2.0), (30, 2.0)]


class WandBRun:
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, str]] = []
        self.finished = False

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.metrics.append((name, step_metric))

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished = True


def test_wandb_is_used_as_its_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # wandb itself is no dependency of the tests: what it would be called with is recorded
    runs: list[tuple[dict[str, Any], WandBRun]] = []

    def init(**settings: Any) -> WandBRun:
        runs.append((settings, WandBRun()))
        return runs[-1][1]

    module = types.SimpleNamespace(init=init, Image=lambda pixels: pixels)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for start in (0, 10, 0):
        opened = open_tracker("wandb", tmp_path, start_step=start, config={"steps": 3})
        with closing(opened) as run:
            run.on_step(start + 5, {"loss": 2.0})
            run.on_evaluation(start + 5, {}, {"samples": picture()})
    settings, first = runs[0]
    assert settings["project"] == "mine"
    assert settings["name"] == tmp_path.name
    assert settings["config"] == {"steps": 3}
    assert "mode" not in settings  # WANDB_MODE decides
    assert first.finished
    assert first.metrics == [("*", "step")]
    assert first.rows[0] == {"step": 5, "loss": 2.0}
    assert first.rows[1]["samples"].shape == (4, 4, 3)
    assert first.rows[1]["samples"].dtype == np.uint8
    assert runs[1][0]["id"] == settings["id"]  # the resumed run goes on
    assert runs[2][0]["id"] != settings["id"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_row_that_finds_no_space_is_a_warning_and_not_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LOG_NAME).symlink_to("/dev/full")
    with closing(Monitor(tmp_path)) as monitor:
        monitor.on_step(1, {"loss": 1.0})
        monitor.on_step(2, {"loss": 1.0})
    told = [r.getMessage() for r in caplog.records if "goes on without it" in r.getMessage()]
    assert len(told) == 1
    assert "No space left on device" in told[0]


@pytest.mark.parametrize("line", ["[" * 50_000, '{"step": true}', f'{{"step": {10**400}}}'])
def test_a_row_that_no_run_wrote_is_left_out(line: str, tmp_path: Path) -> None:
    rows = ['{"step": 1, "loss": 2.0, "odd": ' + str(10**400) + "}", line]
    (tmp_path / LOG_NAME).write_text("\n".join(rows) + "\n")
    assert [*read_log(tmp_path)] == [{"step": 1, "loss": 2.0}]
