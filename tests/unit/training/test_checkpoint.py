"""Checkpoints: what is read is what was written, and only the last whole one counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from dallemini.errors import CheckpointError, ConfigError, StorageError
from dallemini.training import TrainingConfig, checkpoint
from dallemini.training.resuming import refuse_changes


class State:
    """A network in training: weights, averages and an optimiser with a history."""

    def __init__(self, seed: int = 0, width: int = 4) -> None:
        self.module = nn.Linear(3, width)
        for parameter in self.module.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
        self.average = {n: p.detach() * 2 for n, p in self.module.named_parameters()}
        self.optimizers: list[Optimizer] = [AdamW(self.module.parameters(), lr=0.1)]
        self.module(torch.ones(2, 3)).square().sum().backward()
        self.optimizers[0].step()

    @property
    def parts(self) -> dict[str, Any]:
        return vars(self)


def save(folder: Path, state: State, *, step: int = 3, **progress: Any) -> Path:
    return checkpoint.save(folder, step=step, progress=progress, **state.parts)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    first, second = State(seed=0), State(seed=1)
    path = save(tmp_path, first, sums={"loss": [0.1, 1e-30]}, best=None)
    checkpoint.load(path, **second.parts)
    for name, value in first.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value)
        assert torch.equal(second.average[name], first.average[name])
    (left,), (right,) = first.optimizers, second.optimizers
    for one, other in zip(left.state.values(), right.state.values(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert checkpoint.read_progress(path) == {"sums": {"loss": [0.1, 1e-30]}, "best": None}


def test_a_number_that_is_none_comes_back(tmp_path: Path) -> None:
    assert math.isnan(checkpoint.read_progress(save(tmp_path, State(), sum=math.nan))["sum"])


@pytest.mark.parametrize(
    ("progress", "message"),
    [
        ([], r"its progress is \[\], not an object"),
        ({"config": 5}, "its config cannot be 5"),
        ({"config": "x" * 10**6}, "its config cannot be 'x+"),
        ({"step": -1}, "its step cannot be -1"),
        ({"step": True}, "its step cannot be True"),
        ({"step": 1, "sums": {"loss": []}}, r"its sums cannot be \{'loss': \[\]\}"),
        ({"step": 1, "sums": {}}, "its scaler cannot be None"),
        ({"step": 1, "sums": {}, "scaler": {"scale": "1"}}, "its scaler cannot be"),
        ({"ended": "no"}, "its ended cannot be 'no'"),
    ],
)
def test_progress_that_no_run_made_is_refused(tmp_path: Path, progress: Any, message: str) -> None:
    path = checkpoint.save(tmp_path, step=3, progress=progress, **State().parts)
    with pytest.raises(
        CheckpointError, match=f"is corrupt or of another run .*{message}"
    ) as caught:
        checkpoint.read_progress(
            path, needed=("step", "sums", "scaler") if "step" in progress else ()
        )
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "before",
    [{"steps": "many"}, {"warmup_steps": [1]}, {"resume_from": 5}, {"optimizer": "x" * 10**6}],
)
def test_settings_that_no_run_had_are_refused(before: dict[str, Any]) -> None:
    config = TrainingConfig(steps=3)
    with pytest.raises(CheckpointError, match="there is corrupt or of another run") as caught:
        refuse_changes(before, config, Path("there"))
    assert len(str(caught.value)) < 1000


def test_settings_of_an_older_version_may_say_more_and_less() -> None:
    refuse_changes({"seed": 0, "forgotten": 5}, TrainingConfig(steps=3), Path("there"))
    with pytest.raises(ConfigError, match="seed=1, not 0: that stays"):
        refuse_changes({"seed": 1, "forgotten": 5}, TrainingConfig(steps=3), Path("there"))


def test_the_last_one_replaces_those_before(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for step in (9, 10, 10):
        path = save(tmp_path, State(), step=step)
        assert checkpoint.newest(tmp_path) == path
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-00000010"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    names = {"checkpoint-best", "notes.txt", "checkpoint-00000012.partial"}
    for name in names:
        (tmp_path / name).mkdir()
    path = save(tmp_path, State())
    assert checkpoint.newest(tmp_path) == path
    assert {entry.name for entry in tmp_path.iterdir()} == {
        *("checkpoint-best", "notes.txt", path.name)
    }


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, State(width=5))
    with pytest.raises(CheckpointError, match=r"(?i)of another run .*size"):
        checkpoint.load(path, **State().parts)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing is corrupt .*No such file"):
        checkpoint.read_progress(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match=r"Could not write .*file.* Free some space"):
        save(tmp_path / "file", State())


@pytest.mark.parametrize("text", ["[" * 50_000, str(10**400), "NaN", "null", "1" * 2000, ""])
def test_a_judgement_that_no_run_made_does_not_count(text: str, tmp_path: Path) -> None:
    path = save(tmp_path, State())
    (path / "best.json").write_text(text)
    assert checkpoint.judged_best(tmp_path) is None
    (path / "best.json").write_text("0.5")
    assert checkpoint.judged_best(tmp_path) == (path, 0.5)


@pytest.mark.parametrize("name", [b"_rebuild_tensor_v2", b"FloatStorage"])
def test_no_advice_to_switch_safety_off_is_passed_on(name: bytes, tmp_path: Path) -> None:
    path = save(tmp_path, State())
    file = path / "__0_0.distcp"
    file.write_bytes(file.read_bytes().replace(name, name[:-1] + b"X"))
    with pytest.raises(CheckpointError, match="it holds what no checkpoint needs") as caught:
        checkpoint.load(path, **State().parts)
    assert "weights_only" not in str(caught.value)
