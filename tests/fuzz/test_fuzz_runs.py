"""Folders of training runs with a mutated file; see tests/fuzzing.py for the rule."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.metadata import Metadata
from torch.optim import AdamW

from dallemini.errors import MissingFileError
from dallemini.training import TrainingConfig, checkpoint
from dallemini.training.curves import plot_curves, read_curves
from dallemini.training.log import LOG_NAME, forget_later_rows, past_judgements, read_log
from dallemini.training.resuming import refuse_changes, starting_point
from fuzzing import Search, edit_bytes, edit_tree, file_edits, json_text, tree_edits

RUN, NEWEST = "run", "checkpoint-00000003"
ROWS = ({"step": 0, "loss": 1.5}, {"step": 2, "loss": None, "eval/loss": 0.5}, {"step": 3, "x": 1})
PROGRESS: dict[str, Any] = {
    "step": 3,
    "config": {**TrainingConfig(steps=9).to_dict(), "resume_from": "elsewhere"},
    "task": {"best": None, "waited": 0},
    "sums": {"loss": [0.1, 1e-30]},
    "scaler": {},
    "ended": False,
}


class State:
    """A network in training: weights, averages and an optimiser with a history."""

    def __init__(self) -> None:
        self.module = nn.Linear(3, 4)
        self.average = {n: p.detach() * 2 for n, p in self.module.named_parameters()}
        self.optimizers: list[Any] = [AdamW(self.module.parameters(), lr=0.1)]
        self.module(torch.ones(2, 3)).square().sum().backward()
        self.optimizers[0].step()


def read_description(run: Path) -> None:
    checkpoint.load(run / NEWEST, **vars(State()))


def read_averages(run: Path) -> None:
    checkpoint.load_averages(run / NEWEST, nn.Linear(3, 4))


def resume(run: Path) -> None:
    found = starting_point(run, None)
    assert found is not None
    with contextlib.suppress(MissingFileError):
        starting_point(run, "elsewhere-too")
    progress = checkpoint.read_progress(found, needed=("step", "sums", "scaler"))
    refuse_changes(progress.get("config", {}), TrainingConfig(steps=9), found)


def judge(run: Path) -> None:
    checkpoint.judged_best(run)
    past_judgements(run, lambda row: row.get("eval/loss"))


def read_rows(run: Path) -> None:
    list(read_log(run))
    for curve in read_curves(run):
        assert curve.smoothed is None
    forget_later_rows(run / LOG_NAME, 2)


READERS: tuple[Callable[[Path], object], ...] = (
    read_description,
    read_averages,
    resume,
    judge,
    read_rows,
)


def write_run(folder: Path, progress: Any) -> Path:
    checkpoint.save(folder, step=3, progress=progress, judged=0.5, **vars(State()))
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / LOG_NAME).write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / RUN, PROGRESS)
    for read in READERS:
        read(folder)  # the run itself is good
    return folder


def test_mutated_files_of_runs_are_read_or_refused(
    run: Path, tmp_path: Path, search: Search
) -> None:
    files = {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    local = Path(NEWEST, "__0.metadata")  # what PyTorch would read where the other does not fit
    files[local] = files[Path(NEWEST, ".metadata")]

    def check(chosen: tuple[Callable[[Path], object], Path, Any]) -> None:
        read, name, edits = chosen
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if path not in (name, local):
                (folder / path).write_bytes(content)
        (folder / name).write_bytes(edit_bytes(files[name], edits[1]))
        read(folder)

    names = st.sampled_from(sorted(files))
    search(check, st.tuples(st.sampled_from(READERS), names, file_edits("any")))


def test_mutated_descriptions_of_checkpoints_are_read_or_refused(run: Path, search: Search) -> None:
    path = run / NEWEST / ".metadata"
    content = path.read_bytes()

    def check(chosen: tuple[Callable[[Path], object], Any]) -> None:
        read, edits = chosen
        description: Metadata = pickle.loads(content)  # our own
        edit_tree(vars(description), edits)
        try:
            path.write_bytes(pickle.dumps(description))
        except Exception:  # PyTorch's own classes refuse it
            return
        read(run)

    search(check, st.tuples(st.sampled_from(READERS[:3]), tree_edits))


def test_mutated_progress_is_resumed_or_refused(tmp_path: Path, search: Search) -> None:
    def check(edits: Any) -> None:
        progress = edit_tree(copy.deepcopy(PROGRESS), edits)
        folder = tmp_path / RUN
        shutil.rmtree(folder, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            writer = SimpleNamespace(dumps=json_text, loads=json.loads)
            patch.setattr(checkpoint, "json", writer)
            write_run(folder, progress)
        resume(folder)

    search(check, tree_edits)


def log_of(edits: Any) -> str:
    rows = edit_tree(copy.deepcopy([*ROWS]), edits)
    return "".join(json_text(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))


def test_mutated_rows_of_logs_are_read_or_left_out(run: Path, search: Search) -> None:
    def check(edits: Any) -> None:
        (run / LOG_NAME).write_text(log_of(edits), encoding="utf-8", errors="surrogatepass")
        judge(run)
        read_rows(run)

    search(check, tree_edits)


@pytest.mark.thorough
def test_mutated_logs_are_plotted_or_refused(run: Path, search: Search) -> None:
    def check(edits: Any) -> None:
        (run / LOG_NAME).write_text(log_of(edits), encoding="utf-8", errors="surrogatepass")
        plot_curves(run)

    plot_curves(run)  # the log itself is good
    search(check, tree_edits)
