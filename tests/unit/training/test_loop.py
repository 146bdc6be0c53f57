"""The training loop: interrupted and resumed it does exactly what it would have done in one go."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dallemini.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingFileError,
    StorageError,
)
from dallemini.training import TrainingConfig, run
from dallemini.training.loop import LOG_NAME, STATE_NAME, read_log

CONFIG = TrainingConfig(
    steps=10, warmup_steps=2, learning_rate=0.05, log_every=3, evaluate_every=4, ema_decay=0.9
)


class Regression:
    """A task of every kind of parameter: an embedding, a matrix, a bias, and a buffer."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 6), nn.BatchNorm1d(6))
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.evaluated: list[int] = []
        self.when_evaluated: Callable[[], None] = lambda: None

    @property
    def module(self) -> nn.Module:
        return self.net

    def losses(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randint(8, (16,), generator=generator)
        loss = F.mse_loss(self.net(inputs), F.one_hot(inputs % 6, 6).float())
        return {"loss": loss, "twice": 2 * loss}

    def evaluate(self, step: int) -> dict[str, float]:
        self.evaluated.append(step)
        self.when_evaluated()
        weight = self.net[1].weight
        assert isinstance(weight, Tensor)
        return {"norm": float(weight.detach().norm())}

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.net.state_dict().items()}


class Broken(Regression):
    """The loss of one step is not a number."""

    def losses(self, step: int) -> dict[str, Tensor]:
        losses = super().losses(step)
        return {"loss": losses["loss"] * (math.nan if step == 5 else 1)}


def rows(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    log = list(read_log(folder))
    for row in log:
        row.pop("steps_per_second", None)
    return log


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_resumed_run_is_exactly_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Regression()
    run(whole, CONFIG, folder=tmp_path / "whole")
    for _ in range(10):  # every call does one step
        parts = Regression()
        run(parts, CONFIG, folder=tmp_path / "parts", seconds=0.0)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == [3, 4, 6, 8, 9, 10]
    assert equal(parts.weights(), whole.weights())
    states = [torch.load(tmp_path / run / STATE_NAME) for run in ("whole", "parts")]
    assert states[0]["step"] == states[1]["step"] == 10
    assert equal(states[0]["module"], states[1]["module"])


def test_the_log_holds_the_mean_of_every_loss(tmp_path: Path) -> None:
    run(Regression(), CONFIG, folder=tmp_path)
    first = rows(tmp_path)[0]
    assert first["twice"] == pytest.approx(2 * first["loss"], abs=2e-5)
    every = TrainingConfig.from_dict({**CONFIG.to_dict(), "log_every": 1, "steps": 10})
    run(Regression(), every, folder=tmp_path / "every")
    losses = [row["loss"] for row in rows(tmp_path / "every") if "loss" in row]
    assert first["loss"] == pytest.approx(sum(losses[:3]) / 3, abs=1e-4)


def test_the_loss_falls(tmp_path: Path) -> None:
    config = TrainingConfig(steps=60, warmup_steps=5, learning_rate=0.05, log_every=10)
    run(Regression(), config, folder=tmp_path)
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run(Regression(), CONFIG, folder=tmp_path)
    again = Regression()
    log = (tmp_path / LOG_NAME).read_text()
    run(again, CONFIG, folder=tmp_path)
    assert (tmp_path / LOG_NAME).read_text() == log
    assert again.evaluated == []


def test_averaged_weights_are_evaluated_and_returned(tmp_path: Path) -> None:
    task = Regression()
    run(task, CONFIG, folder=tmp_path)
    state = torch.load(tmp_path / STATE_NAME)
    assert task.evaluated == [4, 8, 10]
    assert not equal(state["module"], task.weights())
    for parameter, average in zip(task.net.parameters(), state["average"], strict=True):
        assert torch.equal(parameter, average)
    last = rows(tmp_path)[-1]
    weight = task.net[1].weight
    assert isinstance(weight, Tensor)
    assert last["norm"] == pytest.approx(float(weight.detach().norm()), abs=1e-4)


def test_without_averaging_the_last_weights_are_returned(tmp_path: Path) -> None:
    task = Regression()
    config = TrainingConfig.from_dict({**CONFIG.to_dict(), "ema_decay": 0.0})
    run(task, config, folder=tmp_path)
    assert equal(torch.load(tmp_path / STATE_NAME)["module"], task.weights())


def test_evaluating_changes_nothing(tmp_path: Path) -> None:
    seldom = TrainingConfig.from_dict({**CONFIG.to_dict(), "evaluate_every": 100})
    first, second = Regression(), Regression()
    run(first, CONFIG, folder=tmp_path / "often")
    run(second, seldom, folder=tmp_path / "seldom")
    assert equal(first.weights(), second.weights())


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    task = Regression()
    task.net[1].requires_grad_(False)
    before = task.weights()
    run(task, CONFIG, folder=tmp_path)
    after = task.weights()
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["0.weight"], before["0.weight"])


def test_weights_stay_float32_when_computing_in_bfloat16(tmp_path: Path) -> None:
    task = Regression()
    run(task, TrainingConfig(steps=3, bfloat16=True), folder=tmp_path)
    assert {parameter.dtype for parameter in task.net.parameters()} == {torch.float32}


def test_training_takes_no_numbers_from_the_global_state(tmp_path: Path) -> None:
    task, state = Regression(), torch.get_rng_state()
    run(task, CONFIG, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpoints_are_written_on_the_way(tmp_path: Path) -> None:
    task = Regression()
    found: list[bool] = []
    task.when_evaluated = lambda: found.append((tmp_path / STATE_NAME).exists())
    run(task, TrainingConfig.from_dict({**CONFIG.to_dict(), "save_minutes": 0.0}), folder=tmp_path)
    assert found == [True, True, True]
    assert not list(tmp_path.glob("*.partial"))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_weights(tmp_path: Path) -> None:
    task = Broken()
    run(task, TrainingConfig.from_dict({**CONFIG.to_dict()}), folder=tmp_path, seconds=0.0)
    saved = (tmp_path / STATE_NAME).read_bytes()
    with pytest.raises(InputError, match="The loss of step 5 is nan; lower the learning rate"):
        run(task, CONFIG, folder=tmp_path)
    assert all(bool(value.isfinite().all()) for value in task.weights().values())
    assert (tmp_path / STATE_NAME).read_bytes() == saved


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_corrupt_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training_state\.pt is corrupt or of another run"):
        run(Regression(), CONFIG, folder=tmp_path)
    assert (tmp_path / STATE_NAME).read_bytes() == content


class Payload:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


def test_a_checkpoint_with_code_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Payload()}, tmp_path / STATE_NAME)
    with pytest.raises(CheckpointError, match="is corrupt or of another run"):
        run(Regression(), CONFIG, folder=tmp_path)
    assert not (tmp_path / "unpickled").exists()


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run(Regression(), CONFIG, folder=tmp_path)
    other = Regression()
    other.net.append(nn.Linear(6, 6))
    with pytest.raises(CheckpointError, match=r"(?s)another run .*move it away to start anew"):
        run(other, CONFIG, folder=tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", str(tmp_path / "file" / "run")):
        with pytest.raises(StorageError, match=r"Could not make .*file.* Choose another"):
            run(Regression(), CONFIG, folder=folder)


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_folder_that_vanishes_is_told(tmp_path: Path, log_every: int) -> None:
    task = Regression()
    task.when_evaluated = lambda: shutil.rmtree(tmp_path / "run", ignore_errors=True)
    config = TrainingConfig(steps=10, evaluate_every=2, log_every=log_every)
    with pytest.raises(StorageError, match=r"Could not write .*run.* Free some space"):
        run(task, config, folder=tmp_path / "run")


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no .*log\.jsonl; give the folder"):
        list(read_log(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "TrainingConfig.steps must be at least 1, not 0"),
        ({"steps": 1.5}, "TrainingConfig.steps must be int, not 1.5"),
        ({"steps": None}, "TrainingConfig.steps must be int, not None"),
        ({"log_every": 0}, "log_every must be at least 1, not 0"),
        ({"evaluate_every": -3}, "evaluate_every must be at least 1, not -3"),
        ({"warmup_steps": 0}, "warmup_steps must be at least 1, not 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number from 0, not -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number from 0, not nan"),
        ({"matrix_learning_rate": float("inf")}, "matrix_learning_rate must be a finite number"),
        ({"weight_decay": -0.1}, "weight_decay must be a finite number from 0"),
        ({"clip_norm": float("nan")}, "clip_norm must be a finite number from 0"),
        ({"save_minutes": -1}, "save_minutes must be a finite number from 0"),
        ({"ema_decay": 1.0}, "ema_decay must be from 0 up to 1, not 1.0"),
        ({"ema_decay": -0.5}, "ema_decay must be from 0 up to 1, not -0.5"),
        ({"ema_decay": float("nan")}, "ema_decay must be from 0 up to 1, not nan"),
        ({"bfloat16": 1}, "bfloat16 must be bool, not 1"),
        ({"step": 3}, "no field 'step'. Did you mean 'steps'"),
    ],
)
def test_impossible_settings_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.from_dict({"steps": 1, **changes})
