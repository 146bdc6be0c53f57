"""The training loop: steps, learning rates, averaged weights, checkpoints, logs.

Knows nothing about pictures or text: a `Task` computes the loss of a step. On several processes
(`torchrun`) each runs this loop; they differ in the rows of the batch that they compute.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ..errors import ConfigError, InputError, UnsupportedOperationError
from ..files import as_path, make_folder
from .config import TrainingConfig
from .distributed import connected, full, local, mean, pick_device, rank, share, whole_weights
from .monitor import Monitor
from .optimizer import make_optimizers, rate_factor
from .task import Task

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_logger = logging.getLogger("dallemini.training")


def run(
    task: Task, config: TrainingConfig, *, folder: str | Path, seconds: float | None = None
) -> None:
    """Train until the steps are done, resuming from `folder` when it holds a checkpoint.

    When it returns, the task's module holds the averaged weights, in evaluation mode. Randomness
    inside the network (dropout) is seeded for each step; torch's global state stays as it was.
    A run that goes on with other settings than before says which they are in the program's log.

    Args:
        task: what is trained; moved to the config's device.
        config: how long and how fast.
        folder: for checkpoints, `log.jsonl`, pictures and curves; made if missing.
        seconds: stop after this time with a checkpoint, to go on later.

    Raises:
        ConfigError: the device or the strategy cannot be used here, or the folder's checkpoint was
            made with another optimiser.
        StorageError: the folder, the checkpoint or the log cannot be written.
        CheckpointError: the folder's checkpoint is corrupt or belongs to another run.
        InputError: the loss is not a finite number; the weights and the checkpoint stay as before.
        UnsupportedOperationError: "fsdp" for a network that cannot be split.
        MissingDependencyError: the config names an optimiser or a tracker that is not installed.
    """
    device = pick_device(config.device)
    deadline = None if seconds is None else time.monotonic() + seconds
    with connected(device), _own_randomness(device):
        task.module.to(device)
        with _prepared_blocks(task, config), _Loop(task, config, as_path(folder)) as loop:
            loop.train(deadline=deadline)


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def _prepared_blocks(task: Task, config: TrainingConfig) -> Iterator[None]:
    """Set the blocks up as the config wants them, for the length of the block of code."""
    blocks = list(task.blocks)
    try:
        for block in blocks:
            if config.gradient_checkpointing:
                block.forward = partial(
                    torch.utils.checkpoint.checkpoint, block.forward, use_reentrant=False
                )
            if config.compile:
                block.compile()
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
            vars(block).pop("_compiled_call_impl", None)


class _Step(nn.Module):
    """The task as a module whose forward computes the losses, as DDP and FSDP want it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.trained = task.module
        self.task = [task]  # in a list: not a part of the module

    def forward(self, index: int) -> dict[str, Tensor]:
        return self.task[0].losses(index)


class _Loop:
    def __init__(self, task: Task, config: TrainingConfig, folder: Path) -> None:
        self.task, self.config, self.folder = task, config, folder
        make_folder(folder)
        if config.strategy == "fsdp" and not task.can_split:
            raise UnsupportedOperationError(
                f"{type(task).__name__} trains a network that is not split over processes: use "
                "strategy='ddp'."
            )
        self.network = share(_Step(task), blocks=task.blocks, strategy=config.strategy)
        trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        self.parameters = list(trained.values())
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        self.optimizers = make_optimizers(task.module, config)
        self.base_rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=config.precision == "float16")
        self.step = 0
        self.sums: dict[str, list[float]] = {}
        self.resume()
        self.monitor = self._open_monitor() if rank() == 0 else None
        self.saved_at = self.logged_at = time.monotonic()
        self.saved_step = self.logged_step = self.step

    def _open_monitor(self) -> Monitor:
        return Monitor(
            self.folder,
            total_steps=self.config.steps,
            batch_size=self.config.batch_size,
            start_step=self.step,
            progress=self.config.progress,
            tracker=self.config.tracker,
            config=self.config.to_dict(),
        )

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *_: object) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def train(self, *, deadline: float | None) -> None:
        """Do the steps that are left, or as many as the time allows, and average the weights."""
        self.task.module.train()
        while self.step < self.config.steps:
            self.advance()
            if deadline is not None and self._agree(time.monotonic() > deadline):
                break
        if self.saved_step != self.step:
            self.save()
        self._swap_average()
        self.task.module.eval()

    def advance(self) -> None:
        """Do one step and whatever is due after it."""
        self._set_rates()
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 1_009 + rank())
        losses = self._backward()
        self._check_gradients()
        self._check(losses["loss"], "loss")
        self._update_weights()
        self._update_average()
        self.step += 1
        for name, value in losses.items():
            self.sums.setdefault(name, []).append(value)
        self._after_step()

    def _backward(self) -> dict[str, float]:
        """Add up the gradients of the step and return the means of its losses."""
        parts, sums = self.config.accumulation, dict[str, float]()
        for part in range(parts):
            with self._synchronised(last=part == parts - 1), self._autocast():
                losses = self.network(self.step * parts + part)
            with self._synchronised(last=part == parts - 1):
                self.scaler.scale(losses["loss"] / parts).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / parts
        return dict(zip(sums, mean(list(sums.values())), strict=True))

    @contextlib.contextmanager
    def _synchronised(self, *, last: bool) -> Iterator[None]:
        """Exchange gradients in the last pass of a step only."""
        if not last and hasattr(self.network, "no_sync"):
            with self.network.no_sync():  # type: ignore[operator]
                yield
        else:
            if hasattr(self.network, "set_requires_gradient_sync"):
                self.network.set_requires_gradient_sync(last)  # type: ignore[operator]
            yield

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES[self.config.precision]
        return torch.autocast(self.task.device.type, dtype, enabled=dtype is not None)

    def _update_weights(self) -> None:
        """Follow the gradients, unless they overflowed in float16; the scale is lowered then."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = full(torch.nn.utils.get_total_norm([p.grad for p in self.parameters]))  # type: ignore[misc]
        if self.scaler.get_scale() <= 1.0:  # as without a scaler: it is not the scale's fault
            self._check(float(norm), "gradient's norm")
        if bool(norm.isfinite()):
            if self.config.clip_norm:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _check_gradients(self) -> None:
        names = zip(self.average, self.parameters, strict=True)
        if idle := [name for name, parameter in names if parameter.grad is None]:
            raise InputError(
                f"{len(idle)} parameters take no part in the loss, such as {idle[0]}: freeze them "
                "by requires_grad_(False), or add them times zero."
            )

    def _check(self, value: float, name: str) -> None:
        if not math.isfinite(value):
            raise InputError(
                f"The {name} of step {self.step} is {value}; lower the learning rate or look at "
                "this batch. The last checkpoint is still good."
            )

    def _after_step(self) -> None:
        if self.monitor is not None:
            self.monitor.advance(self.step)
        if self.step % self.config.log_every == 0:
            self._log_step()
        if self.step % self.config.evaluate_every == 0 or self.step == self.config.steps:
            self._evaluate()
        if self._agree(time.monotonic() - self.saved_at > 60 * self.config.save_minutes):
            self.save()

    def _agree(self, due: bool) -> bool:
        """Let the first process decide what depends on the clock."""
        return mean([float(due and rank() == 0)])[0] > 0

    def _set_rates(self) -> None:
        factor = rate_factor(self.step, self.config)
        for optimizer, rates in zip(self.optimizers, self.base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        if not self.config.ema_decay:
            decay = 0.0
        averages = [local(value) for value in self.average.values()]
        torch._foreach_lerp_(averages, [local(p) for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def _swap_average(self) -> None:
        """Let the weights and their average change places, one by one: it takes no memory."""
        for parameter, average in zip(self.parameters, self.average.values(), strict=True):
            weight, mean_weight = local(parameter), local(average)
            kept = weight.clone()
            weight.copy_(mean_weight)
            mean_weight.copy_(kept)

    @torch.no_grad()
    def _evaluate(self) -> None:
        self._swap_average()
        self.task.module.eval()
        with whole_weights(self.network):
            measured, pictures = self.task.evaluate(self.step), self.task.pictures(self.step)
        self.task.module.train()
        self._swap_average()
        if self.monitor is not None:
            if measured:
                self.monitor.log(self.step, measured)
            for name, images in pictures.items():
                self.monitor.images(self.step, name, images)

    def _log_step(self) -> None:
        now, examples = time.monotonic(), (self.step - self.logged_step) * self.config.batch_size
        means = {name: sum(values) / len(values) for name, values in self.sums.items()}
        means["learning_rate"] = rate_factor(self.step - 1, self.config) * self.base_rates[-1][0]
        means["images_per_second"] = examples / (now - self.logged_at)
        if self.monitor is not None:
            self.monitor.log(self.step, means)
        self.sums, self.logged_at, self.logged_step = {}, now, self.step

    def save(self) -> None:
        """Write the state of the run, atomically."""
        from . import checkpoint  # here: a second that whoever loads adapters need not wait

        checkpoint.save(
            self.folder,
            step=self.step,
            module=self.task.module,
            average=self.average,
            optimizers=self.optimizers,
            progress=self._progress(),
        )
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def _progress(self) -> dict[str, Any]:
        settings = {"config": self.config.to_dict()}
        return {"step": self.step, "sums": self.sums, "scaler": self.scaler.state_dict()} | settings

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        from . import checkpoint

        path = checkpoint.newest(self.folder)
        if path is None:
            return
        progress = checkpoint.read_progress(path)
        _compare(progress.get("config", {}), self.config.to_dict(), path)
        decays = [[g["weight_decay"] for g in o.param_groups] for o in self.optimizers]
        checkpoint.load(
            path, module=self.task.module, average=self.average, optimizers=self.optimizers
        )
        for optimizer, of_groups in zip(self.optimizers, decays, strict=True):
            for group, decay in zip(optimizer.param_groups, of_groups, strict=True):
                group["weight_decay"] = decay  # this run's, not the checkpoint's
        self.step, self.sums = progress["step"], progress["sums"]
        if progress["scaler"]:
            self.scaler.load_state_dict(progress["scaler"])
        if rank() == 0 and self.step >= self.config.steps:
            _logger.info(
                "%s holds a finished run of %d steps; for another, raise steps or take another "
                "folder.",
                self.folder,
                self.step,
            )


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another optimiser, and tell of other settings."""
    changes = {name: value for name, value in now.items() if before.get(name, value) != value}
    if "optimizer" in changes:
        raise ConfigError(
            f"{path} was made with optimizer={before['optimizer']!r}, whose state is of no use to "
            f"{now['optimizer']!r}. Keep the optimizer, or take another folder to start anew."
        )
    if changes and rank() == 0:
        told = ", ".join(f"{name} {before[name]!r} -> {value!r}" for name, value in changes.items())
        _logger.info("Going on from %s with other settings: %s.", path, told)
