"""One step of the weights: gradients of a batch, and what the optimisers make of them.

Everything stays on the device: what a step measures is handed out as tensors, so that a GPU need
not wait for whoever reads them. Knows a task's losses, not what follows a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import InputError
from .config import TrainingConfig
from .distributed import full, share
from .optimizer import make_optimizers, rate_factor
from .task import Task

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class _Step(nn.Module):
    """The task as a module whose forward computes the losses, as DDP and FSDP want it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.trained = task.module
        self.task = [task]  # in a list: not a part of the module

    def forward(self, index: int) -> dict[str, Tensor]:
        return self.task[0].losses(index)


class Updater:
    """Changes the weights of a task's network, step by step.

    Args:
        task: what is trained; on its device.
        config: of the run.

    Attributes:
        network: what computes the losses of a batch, shared with the other processes.
        parameters: what is trained, by name.
        optimizers: of these.
        scaler: of the loss in float16.

    Raises:
        InputError: no parameter wants a gradient.
        MissingDependencyError: the config names an optimiser that is not installed.
    """

    def __init__(self, task: Task, config: TrainingConfig) -> None:
        self.task, self.config = task, config
        self.network = share(_Step(task), blocks=task.blocks, strategy=config.strategy)
        self.parameters = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        self.optimizers = make_optimizers(task.module, config)
        self._rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=config.precision == "float16")

    def rates(self, step: int) -> dict[str, float]:
        """Return the learning rate of each optimiser at a step."""
        factor = rate_factor(step, self.config)
        rates = {"learning_rate": factor * self._rates[-1][0]}
        if len(self._rates) > 1:
            rates["matrix_learning_rate"] = factor * self._rates[0][0]
        return rates

    def measure(self, step: int) -> dict[str, Tensor]:
        """Add up the gradients of a step.

        Returns:
            The means of its losses, and the norm of the gradients before they are clipped.

        Raises:
            InputError: a parameter takes no part in the loss.
        """
        parts, sums = self.config.accumulation, dict[str, Tensor]()
        with _multiplying(self.config.precision):
            for part in range(parts):
                with self._synchronised(last=part == parts - 1):
                    with self._autocast():
                        losses = self.network(step * parts + part)
                    self.scaler.scale(losses["loss"] / parts).backward()
                for name, value in losses.items():
                    sums[name] = value.detach() / parts + sums.get(name, 0.0)
        self._check_gradients()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return {**sums, "gradient_norm": full(torch.nn.utils.get_total_norm(gradients))}

    def update(self, step: int, norm: Tensor) -> None:
        """Follow the gradients, unless they overflowed in float16; the scale is lowered then."""
        factor = rate_factor(step, self.config)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        if self.config.clip_norm:
            parameters = self.parameters.values()
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

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
        dtype = _DTYPES.get(self.config.precision)
        return torch.autocast(self.task.device.type, dtype, enabled=dtype is not None)

    def _check_gradients(self) -> None:
        if idle := [name for name, p in self.parameters.items() if p.grad is None]:
            raise InputError(
                f"{len(idle)} parameters take no part in the loss, such as {idle[0]}: freeze them "
                "by requires_grad_(False), or add them times zero."
            )


@contextlib.contextmanager
def _multiplying(precision: str) -> Iterator[None]:
    """Let a GPU multiply in TF32, for the length of a block, if that is asked for."""
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if precision == "tf32":
            torch.set_float32_matmul_precision(before)
