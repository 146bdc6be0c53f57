"""The training loop: steps, learning rates, averaged weights, checkpoints, logs.

Knows nothing about pictures or text: a `Task` computes the loss of a step. On several processes
(`torchrun`) each runs this loop; they differ in the rows of the batch that they compute.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.utils.checkpoint
from torch import Tensor

from ..errors import InputError
from ..files import as_path
from ..foreign import show
from ..sheets import Sheet
from . import checkpoint
from .callbacks import Callback
from .config import TrainingConfig
from .defaults import check_gradients_possible as check_gradients_possible
from .defaults import own_state
from .distributed import (
    check_splitting,
    connected,
    local,
    mean,
    pick_device,
    rank,
    someone,
    whole_weights,
)
from .interruption import SIGNALS, Interruption
from .keeping import Keeper
from .lock import locked
from .memory import used_memory
from .monitor import own_callbacks
from .resuming import changes, refuse_changed, refuse_changes, starting_point, with_warmup
from .task import Task
from .update import Updater

_logger = logging.getLogger("dallemini.training")


def run(
    task: Task,
    config: TrainingConfig,
    *,
    folder: str | Path,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
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
        callbacks: what follows the run besides its log; of several processes the first calls them.

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
    with Interruption() as interruption, connected(device), locked(place), own_state(device):
        task.module.to(device)
        with _prepared_blocks(task, config), _Loop(task, config, place, callbacks) as loop:
            number = loop.train(deadline=deadline, interruption=interruption)
        if number is not None:
            interruption.end(number)


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


class _Loop:
    def __init__(
        self, task: Task, config: TrainingConfig, folder: Path, callbacks: Sequence[Callback]
    ) -> None:
        self.task, self.config, self.folder = task, config, folder
        if config.strategy == "fsdp":
            check_splitting(task.can_split)
        self.updater = Updater(task, config)
        self.optimizers, self.scaler = self.updater.optimizers, self.updater.scaler
        self.parameters = list(self.updater.parameters.values())
        self.average = {n: p.detach().clone() for n, p in self.updater.parameters.items()}
        self.step = 0
        self.unread: list[dict[str, Tensor]] = []  # what the last steps measured, on the device
        self.sums: dict[str, list[float]] = {}
        self.keeper = Keeper(folder, keep=config.keep_last)
        self.judged: float | None = None  # of this step, where it is the best so far
        self.ended = self.is_to_end = False  # by a callback, and whether one has asked for it
        self.resume()
        self.callbacks: list[Callback] = []
        if rank() == 0:
            own = own_callbacks(config, folder, start_step=self.step, judge=task.judge)
            self.callbacks = [*own, *callbacks]
        self.saved_at = self.logged_at = time.monotonic()
        self.logged_step, self.paused = self.step, 0.0

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as stack:
            for callback in reversed(self.callbacks):
                stack.callback(callback.close)

    def train(self, *, deadline: float | None, interruption: Interruption) -> int | None:
        """Do the steps that are left, or as many as the time allows, and average the weights.

        Returns:
            The signal that ended the run, if one did.
        """
        self.task.module.train()
        number, late = None, False
        while not self.is_done and number is None and not late:
            self.advance()
            number, late, due = self._decide(deadline, interruption)
            if due or late or number is not None or self.is_done:
                self.save()
        if number is None:
            self._swap_average()
            self.task.module.eval()
            self.keeper.tell_best()
        return number

    @property
    def is_done(self) -> bool:
        """Whether the steps are done, or a callback has ended the run."""
        return self.step >= self.config.steps or self.ended

    def _decide(
        self, deadline: float | None, interruption: Interruption
    ) -> tuple[int | None, bool, bool]:
        """Agree among the processes on a signal, the end of the time, and a checkpoint's time.

        A signal may have come to any of them; what depends on the clock is said by the first, and
        so is the end that a callback asks for, which is noted.
        """
        now, is_first = time.monotonic(), rank() == 0
        late = is_first and deadline is not None and now > deadline
        due = is_first and now - self.saved_at > 60 * self.config.save_minutes
        due = due or self.judged is not None
        heard = [interruption.heard == number for number in SIGNALS]
        flags = [float(flag) for flag in (*heard, late, due, self.is_to_end)]
        *signals, late_share, due_share, ended_share = mean(flags)
        self.ended = self.ended or ended_share > 0
        number = next((n for n, share in zip(SIGNALS, signals, strict=True) if share > 0), None)
        return number, late_share > 0, due_share > 0

    def advance(self) -> None:
        """Do one step and whatever is due after it."""
        self.judged = None
        torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 1_009 + rank())
        measured = self.updater.measure(self.step)
        self.unread.append(measured)
        if self._is_to_read():
            self._read(self.step)
        self.updater.update(self.step, measured["gradient_norm"])
        self._update_average()
        self.step += 1
        self._after_step()

    def _is_to_read(self) -> bool:
        """Whether a step's numbers are read before it: a GPU that is asked for them waits."""
        done = self.step + 1
        often = self.config.log_every, self.config.evaluate_every
        is_due = done == self.config.steps or any(done % every == 0 for every in often)
        return is_due or _is_at_hand(self.task.device)

    def _read(self, last: int) -> None:
        """Check and add up what the steps until `last` have measured.

        Raises:
            InputError: a number of theirs is not finite.
        """
        taken, self.unread = self.unread, []
        values = [value.float() for measured in taken for value in measured.values()]
        numbers = iter(mean(torch.stack(values).tolist()) if values else ())
        for step, measured in enumerate(taken, start=last + 1 - len(taken)):
            of_step = dict(zip(measured, numbers, strict=False))
            self._check(of_step["loss"], "loss", step)
            if self.scaler.get_scale() <= 1.0:  # as without a scaler: it is not the scale's fault
                self._check(of_step["gradient_norm"], "gradient's norm", step)
            for name, value in of_step.items():
                self.sums.setdefault(name, []).append(value)
            self.keeper.accept()

    def _check(self, value: float, name: str, step: int) -> None:
        if not math.isfinite(value):
            self._stop(f"The {name} of step {step} is {value}")

    def _stop(self, problem: str) -> NoReturn:
        """End the run for weights or a batch that are no good, without a checkpoint of them."""
        advice = "lower the learning rate or look at this batch"
        if self.step == 0:  # no rate has had a part in it
            advice = "look at this batch, and at the weights that the run starts from"
        raise InputError(f"{problem}; {advice}. {self.keeper.withdraw()}")

    def _after_step(self) -> None:
        is_due = self.step % self.config.log_every == 0
        values = self._row() if is_due else {}
        self._tell(lambda callback: callback.on_step(self.step, values))
        if self.step % self.config.evaluate_every == 0 or self.step == self.config.steps:
            with self._not_counted():
                self._evaluate()

    def _tell(self, tell: Callable[[Callback], bool | None]) -> None:
        """Call every callback; one that returns True ends the run."""
        for callback in self.callbacks:
            self.is_to_end = bool(tell(callback)) or self.is_to_end

    @contextlib.contextmanager
    def _not_counted(self) -> Iterator[None]:
        """Leave the time of a block out of the pictures per second."""
        started = time.monotonic()
        yield
        self.paused += time.monotonic() - started

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
        with whole_weights(self.updater.network):
            measured, drawn = self.task.evaluate(self.step), self.task.pictures(self.step)
        self.task.module.train()
        self._swap_average()
        judged = self.task.judge(measured)
        self.judged = judged if self.keeper.is_better(judged) else None
        if self.callbacks and (measured or drawn):
            sheets = {
                name: part if isinstance(part, Sheet) else Sheet(images=part)
                for name, part in drawn.items()
            }
            self._tell(lambda callback: callback.on_evaluation(self.step, measured, sheets))

    def _row(self) -> dict[str, float]:
        """Return a row of the log: the means since the last one, and how the run goes."""
        now, images = time.monotonic(), (self.step - self.logged_step) * self.config.batch_size
        row = {name: sum(values) / len(values) for name, values in self.sums.items()}
        row |= self.updater.rates(self.step - 1)
        if self.task.epoch_images:
            row["epoch"] = self.step * self.config.batch_size / self.task.epoch_images
        row["images_per_second"] = images / (now - self.logged_at - self.paused)
        if self.task.image_tokens:
            row["tokens_per_second"] = row["images_per_second"] * self.task.image_tokens
        row |= {"memory_gb": used_memory(self.task.device) / 1e9, "time": time.time()}
        self.sums, self.logged_at, self.logged_step, self.paused = {}, now, self.step, 0.0
        return row

    def save(self) -> None:
        """Write the state of the run, atomically, unless the disk is full."""
        self._read(self.step - 1)
        if someone(not self._is_finite()):
            self._stop(f"The weights after step {self.step - 1} are not finite numbers")
        with self._not_counted():
            path = self.keeper.save(
                is_last=self.is_done,
                judged=self.judged,
                step=self.step,
                module=self.task.module,
                average=self.average,
                optimizers=self.optimizers,
                progress=self._progress(),
            )
            if path is not None:
                self._tell(lambda callback: callback.on_checkpoint(self.step, path))
        self.saved_at = time.monotonic()

    @torch.no_grad()
    def _is_finite(self) -> bool:
        """Tell whether all that a checkpoint keeps is finite, and its squares are."""
        values = [*self.average.values(), *self.task.module.state_dict().values()]
        for optimizer in self.optimizers:
            values += [v for state in optimizer.state.values() for v in state.values()]
        floats = (local(v) for v in values if isinstance(v, Tensor) and v.is_floating_point())
        return all(math.isfinite(float(value.float().norm())) for value in floats)

    def _progress(self) -> dict[str, Any]:
        settings = {"config": self.config.to_dict(), "task": self.task.fixed}
        state = {"sums": self.sums, "scaler": self.scaler.state_dict(), "ended": self.ended}
        return {"step": self.step} | state | settings

    def _tell_changes(self, before: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
        refuse_changes(before, self.config, path)
        found = changes(before, self.config)
        if found and rank() == 0:
            told = ", ".join(
                f"{name} {show(old)} -> {show(new)}" for name, (old, new) in found.items()
            )
            _logger.info("Going on from %s with other settings: %s.", path, told)
        return found

    def _fix_warmup(self, before: Mapping[str, Any]) -> None:
        """Let the settings, of the steps too, say how long the rates rise."""
        self.config = self.updater.config = with_warmup(self.config, before)

    def resume(self) -> None:
        """Go on from the folder's checkpoint or the one that is named, if there is one."""
        path = starting_point(self.folder, self.config.resume_from)
        if path is None:
            self._fix_warmup({})
            return
        progress = checkpoint.read_progress(path, needed=("step", "sums", "scaler"))
        before = progress.get("config", {})
        found = self._tell_changes(before, path)
        self._fix_warmup(before)
        refuse_changed(progress.get("task", {}), self.task.fixed, path)
        decays = [[g["weight_decay"] for g in o.param_groups] for o in self.optimizers]
        checkpoint.load(
            path, module=self.task.module, average=self.average, optimizers=self.optimizers
        )
        for optimizer, of_groups in zip(self.optimizers, decays, strict=True):
            for group, decay in zip(optimizer.param_groups, of_groups, strict=True):
                group["weight_decay"] = decay  # this run's, not the checkpoint's
        self.keeper.go_on_from(path)
        self.step, self.sums = progress["step"], progress["sums"]
        # one that stopped early stays so, unless it is asked for more
        self.ended = progress.get("ended", False) and not found.keys() & {"steps", "patience"}
        if progress["scaler"]:
            self.scaler.load_state_dict(progress["scaler"])
        if rank() == 0 and self.is_done:
            _logger.info(
                "%s holds a finished run of %d steps; for more, raise steps (or patience, if that "
                "ended it), for another, take another folder.",
                self.folder,
                self.step,
            )


def _is_at_hand(device: torch.device) -> bool:
    """Whether numbers of a device can be read without waiting for what it computes."""
    return device.type == "cpu"
