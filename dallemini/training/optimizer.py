"""The optimisers: Muon for matrices and convolutions, AdamW for everything else.

Source: "Muon: An optimizer for hidden layers in neural networks" (Jordan et al. 2024). torch has a
Muon of its own since 2.9, for matrices only; this one also takes convolutions, which the VQGAN is
made of, and works with older versions of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..errors import InputError

# Quintic iteration of the source: steep at zero, so that five steps suffice in bfloat16.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is orthogonalised, for parameters of two or more axes.

    Args:
        params: matrices [out, in], or convolutions [out, in, h, w] that are treated as matrices.
        lr: length of a step, in units of the root mean square of a row.
        momentum: of the gradient's running average (Nesterov).
        weight_decay: decoupled from the gradient.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
        update = orthogonalize(direction)
        scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.view_as(parameter).to(parameter), alpha=-group["lr"] * scale)


def orthogonalize(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Return a matrix with the singular vectors of f[M,N] and singular values near 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    result = (matrix.T if tall else matrix).bfloat16()
    result = result / (result.norm() + 1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(steps):
        gram = result @ result.T
        result = first * result + (second * gram + third * gram @ gram) @ result
    restored: Tensor = result.T if tall else result
    return restored


def make_optimizers(
    module: nn.Module,
    *,
    learning_rate: float,
    matrix_learning_rate: float,
    weight_decay: float,
) -> list[torch.optim.Optimizer]:
    """Give matrices and convolutions to Muon, embeddings, heads, norms and biases to AdamW.

    Raises:
        InputError: no parameter wants a gradient.
    """
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    embeddings = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        hidden = parameter.ndim >= 2 and id(parameter) not in embeddings and "lm_head" not in name
        (matrices if hidden else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay))
    if others:
        adam = torch.optim.AdamW(
            others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay
        )
        optimizers.append(adam)
    if not optimizers:
        raise InputError("There is nothing to train: no parameter wants a gradient.")
    return optimizers


def rate_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
