"""The training loop: steps, learning rates, averaged weights, checkpoints, logs.

Knows nothing about pictures or text: a `Task` computes the loss of a step. On several processes
(`torchrun`) each runs this loop; they differ in the rows of the batch that they compute.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from ..errors import InputError, StorageError, UnsupportedOperationError
from ..files import as_path
from . import checkpoint
from .config import TrainingConfig
from .defaults import plain_defaults
from .distributed import (
    check_splitting,
    connected,
    full,
    local,
    mean,
    pick_device,
    rank,
    share,
    someone,
    whole_weights,
)
from .interruption import SIGNALS, Interruption
from .lock import locked
from .monitor import Monitor
from .optimizer import make_optimizers, rate_factor
from .resuming import changes, refuse_changed, refuse_changes
from .task import Task

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_logger = logging.getLogger("dallemini.training")


def run(
    task: Task, config: TrainingConfig, *, folder: str | Path, seconds: float | None = None
) -> None:
    """Train until the steps are done, resuming from `folder` when it holds a checkpoint.

    When it returns, the task's module holds the averaged weights, in evaluation mode. Randomness
    inside the network (dropout) is seeded for each step; torch's global state stays as it was.
    A run that goes on with other settings than before says which they are in the program's log;
    settings that cannot change on the way are refused.

    Ctrl-C and SIGTERM end the run after the running step, with a checkpoint. A checkpoint that does
    not fit on the disk is left out with a warning, where there is one before it.

    Args:
        task: what is trained; moved to the config's device.
        config: how long and how fast.
        folder: for checkpoints, `log.jsonl`, pictures and curves; made if missing.
        seconds: stop after this time with a checkpoint, to go on later.

    Raises:
        ConfigError: the device or the strategy cannot be used here, or the folder's checkpoint was
            made with settings that stay.
        StorageError: the folder, the first checkpoint or the log cannot be written, or another run
            uses the folder.
        CheckpointError: the folder's checkpoint is corrupt or belongs to another run.
        InputError: the loss, the gradient or the weights are not finite; the last checkpoint, if
            there is one, is of weights that were.
        UnsupportedOperationError: "fsdp" for a network that cannot be split, or inside
            `torch.inference_mode`.
        MissingDependencyError: the config names an optimiser or a tracker that is not installed.
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after SIGTERM, with the code 143.
    """
    check_gradients_possible()
    device = pick_device(config.device)
    deadline = None if seconds is None else time.monotonic() + seconds
    place = as_path(folder)
    with Interruption() as interruption, connected(device), locked(place), _own_state(device):
        task.module.to(device)
        with _prepared_blocks(task, config), _Loop(task, config, place) as loop:
            number = loop.train(deadline=deadline, interruption=interruption)
        if number is not None:
            interruption.end(number)


def check_gradients_possible() -> None:
    """Refuse to train where PyTorch cannot compute gradients.

    Raises:
        UnsupportedOperationError: inside `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled():
        raise UnsupportedOperationError(
            "Training computes gradients, which torch.inference_mode() rules out: leave its block."
        )


@contextlib.contextmanager
def _own_state(device: torch.device) -> Iterator[None]:
    """Compute gradients and draw numbers whatever torch's global state is, and leave that alone."""
    devices = [device] if device.type == "cuda" else []
    with plain_defaults(), torch.enable_grad(), torch.random.fork_rng(devices=devices):
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
        if config.strategy == "fsdp":
            check_splitting(task.can_split)
        self.network = share(_Step(task), blocks=task.blocks, strategy=config.strategy)
        trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        self.parameters = list(trained.values())
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        self.optimizers = make_optimizers(task.module, config)
        self.base_rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=config.precision == "float16")
        self.step = 0
        self.sums: dict[str, list[float]] = {}
        self.good: Path | None = None  # the last checkpoint whose weights computed a loss
        self.untried: Path | None = None  # one after it, until its weights have
        self.disk_is_full = False
        self.resume()
        self.monitor = self._open_monitor() if rank() == 0 else None
        self.saved_at = self.logged_at = time.monotonic()
        self.logged_step = self.step

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

    def train(self, *, deadline: float | None, interruption: Interruption) -> int | None:
        """Do the steps that are left, or as many as the time allows, and average the weights.

        Returns:
            The signal that ended the run, if one did.
        """
        self.task.module.train()
        number, late = None, False
        while self.step < self.config.steps and number is None and not late:
            self.advance()
            number, late, due = self._decide(deadline, interruption)
            if due or late or number is not None or self.step == self.config.steps:
                self.save()
        if number is None:
            self._swap_average()
            self.task.module.eval()
        return number

    def _decide(
        self, deadline: float | None, interruption: Interruption
    ) -> tuple[int | None, bool, bool]:
        """Agree among the processes on a signal, the end of the time, and a checkpoint's time.

        A signal may have come to any of them; what depends on the clock is said by the first.
        """
        now, is_first = time.monotonic(), rank() == 0
        late = is_first and deadline is not None and now > deadline
        due = is_first and now - self.saved_at > 60 * self.config.save_minutes
        heard = [interruption.heard == number for number in SIGNALS]
        *signals, late_share, due_share = mean([float(flag) for flag in (*heard, late, due)])
        number = next((n for n, share in zip(SIGNALS, signals, strict=True) if share > 0), None)
        return number, late_share > 0, due_share > 0

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
        self._accept()
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
            self._stop(f"The {name} of step {self.step} is {value}")

    def _stop(self, problem: str) -> NoReturn:
        """End the run for weights or a batch that are no good, without a checkpoint of them."""
        advice = "lower the learning rate or look at this batch"
        if self.step == 0:  # no rate has had a part in it
            advice = "look at this batch, and at the weights that the run starts from"
        if self.untried is not None:
            checkpoint.withdraw(self.untried)
            self.untried = None
        rest = "There is no checkpoint yet: started again, the run begins anew."
        if self.good is not None:
            rest = f"The last checkpoint is still good: the run goes on from {self.good.name}."
        raise InputError(f"{problem}; {advice}. {rest}")

    def _accept(self) -> None:
        """Let the newest checkpoint count, as its weights have computed a loss and a gradient."""
        if self.untried is not None:
            checkpoint.accept(self.untried)
            self.good, self.untried = self.untried, None

    def _after_step(self) -> None:
        if self.monitor is not None:
            self.monitor.advance(self.step)
        if self.step % self.config.log_every == 0:
            self._log_step()
        if self.step % self.config.evaluate_every == 0 or self.step == self.config.steps:
            self._evaluate()

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
        """Write the state of the run, atomically; go on without where the disk is full.

        Until a step proves it good, the checkpoint before it stays; at the end there is none.
        """
        if someone(not self._is_finite()):
            self._stop(f"The weights after step {self.step - 1} are not finite numbers")
        untried = self.step < self.config.steps
        try:
            path = checkpoint.save(
                self.folder,
                step=self.step,
                module=self.task.module,
                average=self.average,
                optimizers=self.optimizers,
                progress=self._progress(),
                untried=untried,
            )
        except StorageError as error:
            self._go_on_without(error)
        else:
            self.good, self.untried = (self.good, path) if untried else (path, None)
            self.disk_is_full = False
        self.saved_at = time.monotonic()

    @torch.no_grad()
    def _is_finite(self) -> bool:
        """Tell whether all that a checkpoint keeps is finite, and its squares are."""
        values = [*self.average.values(), *self.task.module.state_dict().values()]
        for optimizer in self.optimizers:
            values += [v for state in optimizer.state.values() for v in state.values()]
        floats = (local(v) for v in values if isinstance(v, Tensor) and v.is_floating_point())
        return all(math.isfinite(float(value.float().norm())) for value in floats)

    def _go_on_without(self, error: StorageError) -> None:
        """Warn once of a checkpoint that could not be written, if an older one is there."""
        kept = self.untried or self.good
        if kept is None and self.step < self.config.steps:
            raise error
        if not self.disk_is_full and rank() == 0:
            last = f"the last one is {kept.name}" if kept else "there is none"
            _logger.warning("%s The run goes on without this checkpoint; %s.", error, last)
        self.disk_is_full = True

    def _progress(self) -> dict[str, Any]:
        settings = {"config": self.config.to_dict(), "task": self.task.fixed}
        return {"step": self.step, "sums": self.sums, "scaler": self.scaler.state_dict()} | settings

    def _tell_changes(self, before: dict[str, Any], path: Path) -> None:
        refuse_changes(before, self.config, path)
        found = changes(before, self.config)
        if found and rank() == 0:
            told = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in found.items())
            _logger.info("Going on from %s with other settings: %s.", path, told)

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        path = checkpoint.newest(self.folder)
        if path is None:
            return
        progress = checkpoint.read_progress(path)
        self._tell_changes(progress.get("config", {}), path)
        refuse_changed(progress.get("task", {}), self.task.fixed, path)
        decays = [[g["weight_decay"] for g in o.param_groups] for o in self.optimizers]
        checkpoint.load(
            path, module=self.task.module, average=self.average, optimizers=self.optimizers
        )
        for optimizer, of_groups in zip(self.optimizers, decays, strict=True):
            for group, decay in zip(optimizer.param_groups, of_groups, strict=True):
                group["weight_decay"] = decay  # this run's, not the checkpoint's
        self.good = path
        if checkpoint.is_untried(path):
            self.good, self.untried = checkpoint.newest(self.folder, before=path), path
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
