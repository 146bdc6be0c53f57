"""The training loop: steps, learning rates, averaged weights, checkpoints, logs.

Knows nothing about pictures or text: a `Task` computes the loss of a step.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import CheckpointError, ConfigError, InputError, MissingFileError, StorageError
from .optimizer import make_optimizers, rate_factor

STATE_NAME = "training_state.pt"
LOG_NAME = "log.jsonl"
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    pickle.UnpicklingError,
)
_NOT_NEGATIVE = "learning_rate", "matrix_learning_rate", "weight_decay", "clip_norm", "save_minutes"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """What one run of the loop does.

    Attributes:
        steps: number of optimiser steps, over which the learning rate follows its cosine.
        learning_rate: of embeddings, heads, norms and biases (AdamW).
        matrix_learning_rate: of matrices and convolutions (Muon).
        warmup_steps: steps over which the rates rise from zero.
        ema_decay: of the averaged weights that the run returns.
        bfloat16: compute in bfloat16 (autocast); weights stay float32.
        save_minutes: time between two checkpoints of the run.
    """

    steps: int
    learning_rate: float = 1e-3
    matrix_learning_rate: float = 0.02
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup_steps: int = 100
    ema_decay: float = 0.999
    bfloat16: bool = False
    log_every: int = 50
    evaluate_every: int = 1000
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("steps", "log_every", "evaluate_every", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"TrainingConfig.{name} must be at least 1, not {getattr(self, name)}."
                )
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"TrainingConfig.{name} must be a finite number from 0, "
                    f"not {getattr(self, name)}."
                )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be from 0 up to 1, not {self.ema_decay}.")


class Task(Protocol):
    """What the loop asks of a training task."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained, and its buffers: the state that a checkpoint keeps."""

    def losses(self, step: int) -> dict[str, Tensor]:
        """Compute the losses of a step, scalars; the one called "loss" is minimised."""

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the averaged weights on held-out data; may be empty."""


def run(
    task: Task, config: TrainingConfig, *, folder: str | Path, seconds: float | None = None
) -> None:
    """Train until the steps are done, resuming from `folder` when it holds a checkpoint.

    When it returns, the task's module holds the averaged weights.

    Args:
        task: what is trained.
        config: how long and how fast.
        folder: for `training_state.pt` and `log.jsonl`; made if missing.
        seconds: stop after this time with a checkpoint, to go on later.

    Raises:
        StorageError: the folder, the checkpoint or the log cannot be written.
        CheckpointError: the folder's checkpoint is corrupt or belongs to another run.
        InputError: the loss is not a finite number; the weights and the checkpoint stay as before.
    """
    loop = _Loop(task, config, Path(folder))
    loop.resume()
    deadline = None if seconds is None else time.monotonic() + seconds
    while loop.step < config.steps:
        loop.advance()
        if deadline is not None and time.monotonic() > deadline:
            break
    loop.save()
    loop.use_average()


class _Loop:
    def __init__(self, task: Task, config: TrainingConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"Could not make {folder}: {error}. Choose another.") from error
        self.parameters: list[Tensor] = [p for p in task.module.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizers = make_optimizers(
            task.module,
            learning_rate=config.learning_rate,
            matrix_learning_rate=config.matrix_learning_rate,
            weight_decay=config.weight_decay,
        )
        self.base_rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.step = 0
        self.sums: dict[str, float] = {}
        self.saved_at = self.logged_at = time.monotonic()

    def advance(self) -> None:
        """Do one step and whatever is due after it."""
        self._set_rates()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            losses = self.task.losses(self.step)
        if not math.isfinite(losses["loss"].item()):
            raise InputError(
                f"The loss of step {self.step} is {losses['loss'].item()}; lower the learning rate "
                "or look at this batch. The last checkpoint is still good."
            )
        losses["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        if not math.isfinite(norm.item()):
            raise InputError(
                f"The gradient of step {self.step} has the norm {norm.item()}; lower the learning "
                "rate or look at this batch. The last checkpoint is still good."
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._update_average()
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if self.step % self.config.log_every == 0:
            self._log_step()
        if self.step % self.config.evaluate_every == 0 or self.step == self.config.steps:
            self._evaluate()
        if time.monotonic() - self.saved_at > 60 * self.config.save_minutes:
            self.save()

    def _set_rates(self) -> None:
        factor = rate_factor(
            self.step, steps=self.config.steps, warmup_steps=self.config.warmup_steps
        )
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def use_average(self) -> None:
        """Put the averaged weights into the module."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.copy_(average)

    def _evaluate(self) -> None:
        kept = [p.detach().clone() for p in self.parameters]
        self.use_average()
        with torch.no_grad():
            measured = self.task.evaluate(self.step)
            for parameter, value in zip(self.parameters, kept, strict=True):
                parameter.copy_(value)
        if measured:
            self._write({"step": self.step, **measured})

    def _log_step(self) -> None:
        now = time.monotonic()
        means = {name: total / self.config.log_every for name, total in self.sums.items()}
        rate = self.config.log_every / (now - self.logged_at)
        self._write({"step": self.step, **means, "steps_per_second": rate})
        self.sums, self.logged_at = {}, now

    def _write(self, row: dict[str, Any]) -> None:
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}
        path = self.folder / LOG_NAME
        try:
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(rounded) + "\n")
        except OSError as error:
            raise StorageError(f"Could not write {path}: {error}. Free some space.") from error

    def save(self) -> None:
        """Write the state of the run, atomically."""
        state = {
            "step": self.step,
            "module": self.task.module.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "sums": self.sums,
        }
        target = self.folder / STATE_NAME
        partial = target.with_suffix(".partial")
        try:
            torch.save(state, partial)
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:  # torch.save raises either
            raise StorageError(f"Could not write {target}: {error}. Free some space.") from error
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        target = self.folder / STATE_NAME
        if not target.exists():
            return
        try:
            state = torch.load(target, weights_only=True)
            self.task.module.load_state_dict(state["module"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.average, self.step = state["average"], state["step"]
            self.sums = state.get("sums", {})
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{target} is corrupt or of another run ({error}); move it away to start anew."
            ) from error


def read_log(folder: str | Path) -> Iterator[dict[str, float]]:
    """Yield the rows of a run's log.

    Raises:
        MissingFileError: the folder has none.
    """
    path = Path(folder) / LOG_NAME
    if not path.exists():
        raise MissingFileError(f"There is no {path}; give the folder of a training run.")
    with path.open(encoding="utf-8") as log:
        for line in log:
            yield json.loads(line)
