"""The training loop: interrupted and resumed it does exactly what it would have done in one go."""

from __future__ import annotations

import math
import os
import pickle
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from dallemini.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingFileError,
    StorageError,
    UnsupportedOperationError,
)
from dallemini.training import Callback, Sheet, Task, TrainingConfig, loop, run
from dallemini.training.checkpoint import judged_best, newest, read_progress
from dallemini.training.log import LOG_NAME, read_log
from dallemini.training.optimizer import make_optimizers

CONFIG = TrainingConfig(
    steps=10,
    warmup_steps=2,
    learning_rate=0.05,
    log_every=3,
    evaluate_every=4,
    ema_decay=0.9,
    device="cpu",
    progress=False,
)


def changed(**changes: Any) -> TrainingConfig:
    return TrainingConfig.from_dict({**CONFIG.to_dict(), **changes})


class Regression(Task):
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

    def losses(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
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

    def losses(self, index: int) -> dict[str, Tensor]:
        losses = super().losses(index)
        return {"loss": losses["loss"] * (math.nan if index == 5 else 1)}


def rows(folder: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    log = list(read_log(folder))
    for row in log:
        for name in ("images_per_second", "memory_gb", "time"):
            row.pop(name, None)
    return log


def saved(folder: Path) -> dict[str, Tensor]:
    """The module's weights in the newest checkpoint of a run."""
    path = newest(folder)
    assert path is not None
    state = {"module": Regression().net.state_dict()}
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        load_sharded(state, checkpoint_id=path)
    return state["module"]


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow_except("changes1")
@pytest.mark.parametrize("changes", [{}, {"precision": "float16", "accumulation": 2}])
def test_a_resumed_run_is_exactly_an_uninterrupted_one(tmp_path: Path, changes: Any) -> None:
    whole, config = Regression(), changed(**changes)
    run(whole, config, folder=tmp_path / "whole")
    for seconds in (0.0, 0.0, 0.0, None):  # three calls do one step each
        parts = Regression()
        run(parts, config, folder=tmp_path / "parts", seconds=seconds)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert [row["step"] for row in rows(tmp_path / "whole")] == [3, 4, 6, 8, 9, 10]
    assert equal(parts.weights(), whole.weights())
    assert [path.name for path in tmp_path.glob("*/checkpoint-*")] == ["checkpoint-00000010"] * 2
    assert equal(saved(tmp_path / "whole"), saved(tmp_path / "parts"))


def test_the_log_holds_the_mean_of_every_loss(tmp_path: Path) -> None:
    run(Regression(), CONFIG, folder=tmp_path)
    first = rows(tmp_path)[0]
    assert first["twice"] == pytest.approx(2 * first["loss"], abs=2e-5)
    run(Regression(), changed(log_every=1), folder=tmp_path / "every")
    losses = [row["loss"] for row in rows(tmp_path / "every") if "loss" in row]
    assert first["loss"] == pytest.approx(sum(losses[:3]) / 3, abs=1e-4)


def test_the_loss_falls(tmp_path: Path) -> None:
    run(Regression(), changed(steps=60, warmup_steps=5, log_every=10), folder=tmp_path)
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
    assert task.evaluated == [4, 8, 10]
    assert not equal(saved(tmp_path), task.weights())
    last = rows(tmp_path)[-1]
    weight = task.net[1].weight
    assert isinstance(weight, Tensor)
    assert last["norm"] == pytest.approx(float(weight.detach().norm()), abs=1e-4)


def test_without_averaging_the_last_weights_are_returned(tmp_path: Path) -> None:
    task = Regression()
    run(task, changed(ema_decay=0.0), folder=tmp_path)
    assert equal(saved(tmp_path), task.weights())


def test_evaluating_changes_nothing(tmp_path: Path) -> None:
    first, second = Regression(), Regression()
    run(first, CONFIG, folder=tmp_path / "often")
    run(second, changed(evaluate_every=100), folder=tmp_path / "seldom")
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
    run(task, changed(steps=3, precision="bfloat16"), folder=tmp_path)
    assert {parameter.dtype for parameter in task.net.parameters()} == {torch.float32}


def test_training_takes_no_numbers_from_the_global_state(tmp_path: Path) -> None:
    task, state = Regression(), torch.get_rng_state()
    run(task, CONFIG, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpoints_are_written_on_the_way(tmp_path: Path) -> None:
    task = Regression()
    found: list[bool] = []
    task.when_evaluated = lambda: found.append(newest(tmp_path) is not None)
    run(task, changed(save_minutes=0.0), folder=tmp_path)
    assert found == [True, True, True]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-00000010"]


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_its_weights(tmp_path: Path) -> None:
    task = Broken()
    run(task, CONFIG, folder=tmp_path, seconds=0.0)
    before = newest(tmp_path)
    with pytest.raises(InputError, match="The loss of step 5 is nan; lower the learning rate"):
        run(task, CONFIG, folder=tmp_path)
    assert all(bool(value.isfinite().all()) for value in task.weights().values())
    assert newest(tmp_path) == before


def test_numbers_that_a_gpu_is_not_asked_for_at_once_are_read_before_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(Regression(), CONFIG, folder=tmp_path / "at-once")
    monkeypatch.setattr(loop, "_is_at_hand", lambda device: False)
    for seconds in (0.0, None):  # a checkpoint between two rows of the log
        run(Regression(), CONFIG, folder=tmp_path / "later", seconds=seconds)
    assert rows(tmp_path / "later") == rows(tmp_path / "at-once")
    run(Broken(), CONFIG, folder=tmp_path / "broken", seconds=0.0)
    before = newest(tmp_path / "broken")
    with pytest.raises(InputError, match=r"loss of step 5 is nan.* goes on from checkpoint-0+1\."):
        run(Broken(), changed(log_every=10, evaluate_every=9), folder=tmp_path / "broken")
    assert newest(tmp_path / "broken") == before


def test_products_are_rounded_while_a_step_computes_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    task = Regression()
    seen: list[str] = []
    task.when_evaluated = lambda: seen.append(torch.get_float32_matmul_precision())
    task.net.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    run(task, changed(steps=1, precision="tf32"), folder=tmp_path)
    assert seen == ["high", "highest"]
    assert torch.get_float32_matmul_precision() == "highest"


class Overflow(Regression):
    """A loss whose gradient is too large for float16 until its scale is lowered, or for ever."""

    def __init__(self, *, for_ever: bool = False) -> None:
        super().__init__()
        self.for_ever = for_ever

    def losses(self, index: int) -> dict[str, Tensor]:
        outputs = self.net(torch.arange(8)).float()
        if self.for_ever:
            return {"loss": (0.0 * outputs).norm(dim=1).sqrt().mean()}
        return {"loss": 300.0 * outputs.square().mean()}


def test_a_step_that_overflows_in_float16_changes_nothing(tmp_path: Path) -> None:
    task = Overflow()
    before = [parameter.detach().clone() for parameter in task.net.parameters()]
    config = changed(precision="float16", ema_decay=0.0, weight_decay=0.1)
    run(task, config, folder=tmp_path, seconds=0.0)
    assert all(map(torch.equal, before, task.net.parameters()))
    run(task, config, folder=tmp_path)
    assert not any(map(torch.equal, before, task.net.parameters()))


@pytest.mark.parametrize(("precision", "step"), [("float32", 0), ("float16", 16)])
def test_a_gradient_that_is_no_number_stops_the_run(
    tmp_path: Path, precision: str, step: int
) -> None:
    config = changed(precision=precision, steps=30)
    with pytest.raises(InputError, match=f"The gradient's norm of step {step} is nan"):
        run(Overflow(for_ever=True), config, folder=tmp_path)


def test_other_settings_are_told_and_count_from_then_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    changes = {"learning_rate": 0.0, "matrix_learning_rate": 0.0, "weight_decay": 0.5, "steps": 3}
    task = Regression()
    with caplog.at_level("INFO", "dallemini.training"):
        run(task, changed(**changes, precision="float16"), folder=tmp_path)
    (told,) = (r.getMessage() for r in caplog.records if "other settings" in r.getMessage())
    assert "other settings: steps 10 -> 3, learning_rate 0.05 -> 0.0, " in told
    assert "weight_decay 0.0 -> 0.5, precision 'float32' -> 'float16'." in told
    assert rows(tmp_path)[0]["learning_rate"] == 0.0


def test_settings_that_stay_are_refused_with_both_values(tmp_path: Path) -> None:
    run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    message = "was made with seed=0, not 1, optimizer='muon', not 'adamw': that stays .* Ask for"
    with pytest.raises(ConfigError, match=message):
        run(Regression(), changed(optimizer="adamw", seed=1), folder=tmp_path)


def test_weight_decay_is_that_of_the_resumed_run(tmp_path: Path) -> None:
    kept, decayed = Sum(8), Sum(8)
    for task, decay in ((kept, 0.0), (decayed, 5.0)):
        folder = tmp_path / str(decay)
        run(Sum(8), CONFIG, folder=folder, seconds=0.0)
        run(task, changed(weight_decay=decay), folder=folder)
    assert float(decayed.net.weight.detach().norm()) < float(kept.net.weight.detach().norm())


def test_more_steps_do_not_warm_up_again(tmp_path: Path) -> None:
    config = changed(warmup_steps=None, schedule="constant", log_every=1)
    run(Regression(), config, folder=tmp_path)
    longer = TrainingConfig.from_dict({**config.to_dict(), "steps": 1000})
    for _ in range(2):  # the second goes on from a checkpoint of the longer run
        run(Regression(), longer, folder=tmp_path, seconds=0.0)
    rates = [row["learning_rate"] for row in rows(tmp_path) if "learning_rate" in row]
    assert rates == [0.05] * 12
    path = newest(tmp_path)
    assert path is not None
    assert read_progress(path)["config"]["warmup_steps"] == 1


def test_a_finished_run_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(Regression(), CONFIG, folder=tmp_path)
    with caplog.at_level("INFO", "dallemini.training"):
        run(Regression(), CONFIG, folder=tmp_path)
    assert "holds a finished run of 10 steps; for more, raise steps (or patience" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
@pytest.mark.parametrize("file", [".metadata", "__0_0.distcp"])
def test_a_corrupt_checkpoint_is_refused(tmp_path: Path, file: str, content: bytes) -> None:
    run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    path = newest(tmp_path)
    assert path is not None
    (path / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint-\d+ is corrupt or of another run"):
        run(Regression(), CONFIG, folder=tmp_path)
    assert (path / file).read_bytes() == content


def test_an_unfinished_checkpoint_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000007.partial").mkdir()
    assert newest(tmp_path) is None
    run(Regression(), CONFIG, folder=tmp_path)
    assert not list(tmp_path.glob("*.partial"))


class Payload:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


def test_a_checkpoint_with_code_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    path = newest(tmp_path)
    assert path is not None
    (path / ".metadata").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(CheckpointError, match=r"it holds posix\.mkdir, which no checkpoint needs"):
        run(Regression(), CONFIG, folder=tmp_path)
    assert not (tmp_path / "unpickled").exists()


def test_code_among_the_values_of_a_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = Regression()
    average = {name: p.detach() for name, p in task.net.named_parameters()}
    optimizers = make_optimizers(task.net, CONFIG)
    state = {"progress": Payload(), "module": task.net.state_dict(), "average": average}
    state["optimizers"] = get_optimizer_state_dict(task.net, optimizers)
    path = tmp_path / "checkpoint-00000001"
    with pytest.warns(UserWarning, match="torch.distributed is disabled"):
        save_sharded(state, checkpoint_id=path)
    with pytest.raises(CheckpointError, match="is corrupt or of another run"):
        read_progress(path)
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
    config = changed(evaluate_every=2, log_every=log_every)
    with pytest.raises(StorageError, match=r"Could not write .*run.* Free some space"):
        run(task, config, folder=tmp_path / "run")


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
        ({"precision": "int8"}, "precision must be one of 'float32', 'tf32', 'bfloat16'"),
        ({"decay_share": 0.0}, "decay_share must be over 0 up to 1, not 0.0"),
        ({"strategy": "fsdp", "optimizer": "soap"}, "soap needs whole matrices"),
        ({"step": 3}, "no field 'step'. Did you mean 'steps'"),
    ],
)
def test_impossible_settings_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig.from_dict({"steps": 1, **changes})


class Sum(Task):
    """A task whose gradient is the mean of its rows."""

    def __init__(self, rows: int) -> None:
        self.net, self.rows = nn.Linear(4, 3, bias=False), rows
        nn.init.normal_(self.net.weight, generator=torch.Generator().manual_seed(0))

    @property
    def module(self) -> nn.Module:
        return self.net

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        return (self.net,)

    def losses(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(200, 4, generator=generator)[index * self.rows :][: self.rows]
        return {"loss": self.net(inputs).square().mean()}


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    whole, parts = Sum(8), Sum(4)
    run(whole, changed(batch_size=8), folder=tmp_path / "whole")
    run(parts, changed(batch_size=8, accumulation=2), folder=tmp_path / "parts")
    torch.testing.assert_close(whole.net.weight, parts.net.weight)
    first, second = (list(read_log(tmp_path / name)) for name in ("whole", "parts"))
    assert [r["loss"] for r in first] == pytest.approx([r["loss"] for r in second], abs=1e-5)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"precision": "float16"}])
def test_saving_memory_changes_little(tmp_path: Path, changes: Any) -> None:
    plain, other = Sum(8), Sum(8)
    run(plain, CONFIG, folder=tmp_path / "plain")
    run(other, changed(**changes), folder=tmp_path / "other")
    torch.testing.assert_close(plain.net.weight, other.net.weight, atol=2e-2, rtol=0)
    assert "forward" not in vars(other.net)


def test_the_blocks_are_as_before_when_a_run_cannot_begin(tmp_path: Path) -> None:
    run(Regression(), CONFIG, folder=tmp_path)
    task = Sum(8)
    with pytest.raises(CheckpointError):
        run(task, changed(gradient_checkpointing=True), folder=tmp_path)
    assert "forward" not in vars(task.net)


@pytest.mark.slow_except("adamw")
@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
def test_other_optimizers_learn_and_resume_exactly(tmp_path: Path, optimizer: str) -> None:
    config = changed(optimizer=optimizer, matrix_learning_rate=0.003, steps=24)
    whole = Regression()
    run(whole, config, folder=tmp_path / "whole")
    for seconds in (0.0, None):
        parts = Regression()
        run(parts, config, folder=tmp_path / "parts", seconds=seconds)
    assert equal(parts.weights(), whole.weights())
    losses = [row["loss"] for row in rows(tmp_path / "whole") if "loss" in row]
    assert losses[-1] < losses[0]


def test_a_network_that_is_not_split_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperationError, match=r"is not split .* use strategy='ddp'"):
        run(Regression(), changed(strategy="fsdp"), folder=tmp_path)


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot compute on 'gpu'.*device='cpu'"):
        run(Regression(), changed(device="gpu"), folder=tmp_path)


def test_batches_must_divide_evenly() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 10 must be a multiple of 4: 2 process"):
        changed(batch_size=10, accumulation=2).process_batch_size(2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_compute_the_same(tmp_path: Path, checkpointing: bool) -> None:
    plain, compiled = Sum(8), Sum(8)
    run(plain, CONFIG, folder=tmp_path / "plain")
    config = changed(compile=True, gradient_checkpointing=checkpointing)
    run(compiled, config, folder=tmp_path / "compiled")
    torch.testing.assert_close(plain.net.weight, compiled.net.weight)
    assert not {"forward", "_compiled_call_impl"} & vars(compiled.net).keys()


def test_gradients_are_computed_whatever_the_process_has_switched_off(tmp_path: Path) -> None:
    plain, other = Regression(), Regression()
    run(plain, CONFIG, folder=tmp_path / "plain")
    with torch.no_grad():
        run(other, CONFIG, folder=tmp_path / "other")
        assert not torch.is_grad_enabled()
    assert equal(plain.weights(), other.weights())
    with (
        torch.inference_mode(),
        pytest.raises(
            UnsupportedOperationError, match=r"which torch\.inference_mode\(\) rules out"
        ),
    ):
        run(Regression(), CONFIG, folder=tmp_path / "inference")


@pytest.mark.slow_except("muon")
@pytest.mark.parametrize("optimizer", ["muon", "soap"])
def test_the_default_dtype_changes_no_loss(tmp_path: Path, optimizer: str) -> None:
    config = changed(optimizer=optimizer, matrix_learning_rate=0.003, log_every=1)
    plain, other = Regression(), Regression()
    run(plain, config, folder=tmp_path / "plain")
    torch.set_default_dtype(torch.float64)
    try:
        run(other, config, folder=tmp_path / "other")
    finally:
        assert torch.get_default_dtype() == torch.float64
        torch.set_default_dtype(torch.float32)
    assert rows(tmp_path / "plain") == rows(tmp_path / "other")
    assert equal(plain.weights(), other.weights())


class Interrupted(Regression):
    """Gets a signal, or several, in the middle of a step."""

    def __init__(self, *signals: int) -> None:
        super().__init__()
        self.signals = signals

    def losses(self, index: int) -> dict[str, Tensor]:
        if index == 4:
            for number in self.signals:
                signal.raise_signal(number)
        return super().losses(index)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


@pytest.mark.slow_except("2")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_a_checkpoint_and_goes_on_exactly(
    tmp_path: Path, number: int
) -> None:
    before = signal.getsignal(number)
    ends: Any = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(ends) as ended:
        run(Interrupted(number), CONFIG, folder=tmp_path / "parts")
    if number == signal.SIGTERM:
        assert ended.value.code == 143
    assert signal.getsignal(number) is before
    assert checkpoints(tmp_path / "parts") == ["checkpoint-00000005"]
    whole, parts = Regression(), Regression()
    run(whole, CONFIG, folder=tmp_path / "whole")
    run(parts, CONFIG, folder=tmp_path / "parts")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert equal(parts.weights(), whole.weights())


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(signal.SIGINT, signal.SIGINT), CONFIG, folder=tmp_path)
    assert checkpoints(tmp_path) == []


def test_a_handler_of_the_program_is_called_and_what_it_ignores_stays_ignored(
    tmp_path: Path,
) -> None:
    called: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(number))
    try:
        with pytest.raises(SystemExit):
            run(Interrupted(signal.SIGTERM), CONFIG, folder=tmp_path / "handled")
        assert called == [signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run(Interrupted(signal.SIGTERM), CONFIG, folder=tmp_path / "ignored")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_another_thread_hears_no_signals(tmp_path: Path) -> None:
    thread = threading.Thread(target=run, args=(Regression(), CONFIG), kwargs={"folder": tmp_path})
    thread.start()
    thread.join()
    assert checkpoints(tmp_path) == ["checkpoint-00000010"]


@pytest.mark.slow_except("100000000.0")
@pytest.mark.parametrize("rate", [1e30, 1e8])
def test_a_rate_that_ruins_the_weights_leaves_a_folder_to_go_on_from(
    tmp_path: Path, rate: float
) -> None:
    """The weights after such a step are finite numbers themselves; what they compute is not."""
    good = changed(optimizer="adamw", learning_rate=1e-4, warmup_steps=1, save_minutes=0.0)
    ruin = TrainingConfig.from_dict({**good.to_dict(), "learning_rate": rate})
    with pytest.raises(InputError, match="There is no checkpoint yet: started again, the run"):
        run(Steep(), ruin, folder=tmp_path)
    assert checkpoints(tmp_path) == []
    run(Steep(), good, folder=tmp_path, seconds=0.0)
    run(Steep(), good, folder=tmp_path, seconds=0.0)
    with pytest.raises(InputError, match="still good: the run goes on from checkpoint-00000002"):
        run(Steep(), ruin, folder=tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-00000002"]
    run(Steep(), good, folder=tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-00000010"]


class Steep(Regression):
    """A loss that overflows where weights are large."""

    def losses(self, index: int) -> dict[str, Tensor]:
        weight = self.net[1].weight
        assert isinstance(weight, Tensor)
        return {"loss": super().losses(index)["loss"] + 1e-9 * (weight**6).mean()}


def test_an_older_checkpoint_stays_until_the_new_one_has_computed_a_loss(tmp_path: Path) -> None:
    for _ in range(2):
        run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    assert checkpoints(tmp_path) == ["checkpoint-00000001", "checkpoint-00000002"]
    run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    assert checkpoints(tmp_path) == ["checkpoint-00000002", "checkpoint-00000003"]


def test_what_no_rate_has_caused_is_not_blamed_on_it(tmp_path: Path) -> None:
    task = Regression()
    with torch.no_grad():
        next(task.net.parameters()).fill_(math.nan)
    with pytest.raises(InputError, match="step 0 is nan; look at this batch, and at the weights"):
        run(task, CONFIG, folder=tmp_path)


@pytest.fixture
def full_disk() -> Iterator[Callable[[bool], None]]:
    """Let files of more than some bytes fail to be written, as on a full disk."""

    def limit(on: bool) -> None:
        soft = 1000 if on else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield limit
    limit(False)
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_goes_on_without_a_checkpoint_and_warns_once(
    tmp_path: Path, full_disk: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    run(Regression(), CONFIG, folder=tmp_path, seconds=0.0)
    task = Regression()
    task.when_evaluated = lambda: full_disk(len(task.evaluated) == 1)  # full from 4 to 8
    run(task, changed(save_minutes=0.0), folder=tmp_path)
    told = [r.getMessage() for r in caplog.records if "without this checkpoint" in r.getMessage()]
    assert len(told) == 1
    assert "Could not write" in told[0]
    assert "; the last one is checkpoint-00000003." in told[0]
    assert checkpoints(tmp_path) == ["checkpoint-00000010"]


def test_a_disk_that_never_takes_a_checkpoint_ends_the_run(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    task = Regression()
    task.when_evaluated = lambda: full_disk(True)
    with pytest.raises(StorageError, match=r"Could not write .*checkpoint-00000001"):
        run(task, changed(save_minutes=0.0, evaluate_every=1), folder=tmp_path)
    assert checkpoints(tmp_path) == []


def test_a_second_run_in_a_folder_is_told(tmp_path: Path) -> None:
    task = Regression()
    said: list[str] = []

    def start_another() -> None:
        def other() -> None:
            try:
                run(Regression(), CONFIG, folder=tmp_path)
            except StorageError as error:
                said.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    task.when_evaluated = start_another
    run(task, changed(evaluate_every=100), folder=tmp_path)
    assert said == [
        f"Another run is using {tmp_path}: wait until it ends, or take another run folder."
    ]
    run(Regression(), CONFIG, folder=tmp_path)  # afterwards the folder is free


class Judged(Regression):
    """Held-out losses that are best at the second evaluation."""

    LOSSES: ClassVar = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: 1.2}

    def evaluate(self, step: int) -> dict[str, float]:
        return {"held_out_loss": self.LOSSES[step]}


EACH_STEP = {"save_minutes": 0.0, "evaluate_every": 2}


@pytest.mark.thorough
def test_the_last_checkpoints_stay_and_the_best_besides(tmp_path: Path) -> None:
    run(Judged(), changed(**EACH_STEP, keep_last=3), folder=tmp_path)
    assert checkpoints(tmp_path) == [f"checkpoint-{n:08}" for n in (4, 8, 9, 10)]
    best = judged_best(tmp_path)
    assert best == (tmp_path / "checkpoint-00000004", 1.0)


@pytest.mark.thorough
def test_the_best_survives_an_interruption(tmp_path: Path) -> None:
    for _ in range(10):
        run(Judged(), changed(evaluate_every=2), folder=tmp_path, seconds=0)
    assert checkpoints(tmp_path) == ["checkpoint-00000004", "checkpoint-00000010"]


def test_a_run_ends_early_where_held_out_data_get_no_better(tmp_path: Path) -> None:
    task = Judged()
    run(task, changed(evaluate_every=2, patience=2), folder=tmp_path)
    assert rows(tmp_path)[-1] == {"step": 8, "held_out_loss": 1.5}
    weights = task.weights()
    again = Judged()
    run(again, changed(evaluate_every=2, patience=2), folder=tmp_path)
    assert equal(again.weights(), weights), "it stays as it ended"
    run(again, changed(evaluate_every=2, patience=4), folder=tmp_path)
    assert rows(tmp_path)[-1]["step"] == 10


@pytest.mark.thorough
def test_patience_counts_evaluations_before_an_interruption(tmp_path: Path) -> None:
    for _ in range(10):
        run(Judged(), changed(evaluate_every=2, patience=2), folder=tmp_path, seconds=0)
    assert rows(tmp_path)[-1] == {"step": 8, "held_out_loss": 1.5}


@pytest.mark.thorough
def test_a_run_goes_back_to_an_earlier_checkpoint_of_its_own(tmp_path: Path) -> None:
    whole = Regression()
    run(whole, changed(save_minutes=0.0, keep_last=9), folder=tmp_path)
    back = changed(resume_from=str(tmp_path / "checkpoint-00000006"), keep_last=9)
    again = Regression()
    run(again, back, folder=tmp_path, seconds=0)
    kept = [f"aside-checkpoint-{n:08}" for n in (7, 8, 9, 10)]
    assert sorted(path.name for path in tmp_path.glob("aside-*")) == kept
    assert checkpoints(tmp_path)[-1] == "checkpoint-00000007"
    run(again, back, folder=tmp_path)  # the same command goes on, not back
    assert equal(again.weights(), whole.weights())
    assert [row["step"] for row in rows(tmp_path)] == [3, 4, 6, 8, 9, 10]


@pytest.mark.thorough
def test_a_run_goes_on_from_the_checkpoint_of_another(tmp_path: Path) -> None:
    whole = Regression()
    run(whole, changed(save_minutes=0.0, keep_last=9), folder=tmp_path / "first")
    other = str(tmp_path / "first" / "checkpoint-00000006")
    for seconds in (0.0, None):
        second = Regression()
        config = changed(resume_from=other)
        run(second, config, folder=tmp_path / "second", seconds=seconds)
    assert equal(second.weights(), whole.weights())
    assert len(checkpoints(tmp_path / "first")) == 9, "the other run stays as it was"
    third = changed(resume_from=str(tmp_path / "first" / "checkpoint-00000007"))
    with pytest.raises(ConfigError, match=r"second holds a run of its own .*take another run fold"):
        run(second, third, folder=tmp_path / "second")


def test_what_is_no_checkpoint_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nothing is no checkpoint of a run; name a folder"):
        run(Regression(), changed(resume_from="nothing"), folder=tmp_path)


class Recorder(Callback):
    """Notes what it hears, and ends the run at a step."""

    def __init__(self, last: int) -> None:
        self.last, self.heard = last, list[Any]()

    def on_step(self, step: int, values: Mapping[str, float]) -> bool:
        self.heard.append((step, sorted(values)))
        return step == self.last

    def on_evaluation(
        self, step: int, values: Mapping[str, float], pictures: Mapping[str, Sheet]
    ) -> None:
        self.heard.append(
            (step, dict(values), {name: p.draw().size for name, p in pictures.items()})
        )

    def on_checkpoint(self, step: int, path: Path) -> None:
        assert path.is_dir()
        self.heard.append((step, path.name))

    def close(self) -> None:
        self.heard.append("closed")


class Drawing(Judged):
    image_tokens, epoch_images = 16, 100

    def pictures(self, step: int) -> dict[str, Tensor | Sheet]:
        return {"one": torch.zeros(1, 3, 4, 4)}


def test_a_callback_hears_of_everything_and_ends_the_run(tmp_path: Path) -> None:
    recorder = Recorder(last=5)
    config = changed(evaluate_every=4, optimizer="muon", batch_size=10)
    run(Drawing(), config, folder=tmp_path, callbacks=[recorder])
    row = ["epoch", "gradient_norm", "images_per_second", "learning_rate", "loss"]
    row += ["matrix_learning_rate", "memory_gb", "time", "tokens_per_second", "twice"]
    assert recorder.heard == [
        (1, []),
        (2, []),
        (3, row),
        (4, []),
        (4, {"held_out_loss": 1.0}, {"one": (4, 4)}),
        (4, "checkpoint-00000004"),
        (5, []),
        (5, "checkpoint-00000005"),
        "closed",
    ]
    first = next(read_log(tmp_path))
    assert first["epoch"] == 0.3
    assert first["tokens_per_second"] == pytest.approx(16 * first["images_per_second"], rel=1e-4)
    assert 0.01 < first["memory_gb"] < 100
    assert abs(first["time"] - time.time()) < 600


def test_the_time_of_an_evaluation_does_not_count_as_training(tmp_path: Path) -> None:
    task = Regression()
    task.when_evaluated = lambda: time.sleep(0.3)
    run(task, changed(evaluate_every=1, log_every=2, steps=2), folder=tmp_path)
    row = next(row for row in read_log(tmp_path) if "loss" in row)
    assert row["images_per_second"] > 2 * 64 / 0.3
