"""The optimisers: Muon or SOAP for matrices and convolutions, AdamW for everything else.

Source: "Muon: An optimizer for hidden layers in neural networks" (Jordan et al. 2024). torch has a
Muon of its own since 2.9, for matrices only; this one also takes convolutions, which the VQGAN is
made of, and works with older versions of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from ..errors import InputError, MissingDependencyError
from ..models.precision import has_native_bfloat16
from .config import TrainingConfig
from .distributed import full, split_like

# Quintic iteration of the source: steep at zero, so that five steps suffice in bfloat16.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MOST_TOGETHER = 2**25  # numbers of matrices that are orthogonalised at once


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
            for parameters in _alike([p for p in group["params"] if p.grad is not None]):
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape, whose directions are orthogonalised together."""
        # of weights that are split over processes, each process orthogonalises the whole
        directions = [full(self._direction(p, group["momentum"])).flatten(1) for p in parameters]
        matrices = orthogonalize(torch.stack(directions))
        scale = max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
        for parameter, matrix in zip(parameters, matrices, strict=True):
            update = split_like(matrix.view(parameter.shape).to(parameter.dtype), parameter)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update, alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, share: float) -> Tensor:
        """Return the gradient and its running average in the shares of Nesterov."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum"].lerp_(parameter.grad, 1 - share)
        return parameter.grad.lerp(momentum, share)


def _alike(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield parameters of one shape together, as many as their products should take memory for."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        by_shape.setdefault(parameter.shape, []).append(parameter)
    for shape, several in by_shape.items():
        most = max(1, _MOST_TOGETHER // shape.numel())
        yield from (several[start : start + most] for start in range(0, len(several), most))


def orthogonalize(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Return a matrix with the singular vectors of f[M,N] and singular values near 1.

    Several f[K,M,N] are done at once. The dtype is bfloat16 where that is fast, and float32 on
    the other processors, which take many times as long to multiply bfloat16.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    is_fast = matrix.device.type != "cpu" or has_native_bfloat16()
    result = (matrix.mT if tall else matrix).to(torch.bfloat16 if is_fast else torch.float32)
    result = result / (result.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    result = result.reshape(-1, *result.shape[-2:])
    first, second, third = _COEFFICIENTS
    for _ in range(steps):
        gram = result @ result.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=second, alpha=third)
        result = torch.baddbmm(result, mixed, result, beta=first)
    result = result.view(*matrix.shape[:-2], *result.shape[1:])
    restored: Tensor = result.mT if tall else result
    return restored


def make_optimizers(module: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Give matrices and convolutions to the optimiser that the config names, the rest to AdamW.

    The rest are embeddings, heads, norms and biases, and the matrices of LoRA, whose narrow updates
    are no use to orthogonalise; only heads and the matrices of LoRA among them decay.

    Raises:
        InputError: no parameter wants a gradient.
        MissingDependencyError: "soap" without the package that has it.
    """
    matrices, heads, others = _sort_parameters(module)
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "adamw":
        heads, matrices = heads + matrices, []
    if matrices:
        optimizers.append(_matrix_optimizer(matrices, config))
    groups = [
        {"params": heads, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if groups := [group for group in groups if group["params"]]:
        # in one pass over the weights; on a CPU it gains little and rounds otherwise in each split
        fused = {parameter.device.type for parameter in heads + others} == {"cuda"}
        optimizers.append(
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=fused)
        )
    if not optimizers:
        raise InputError("There is nothing to train: no parameter wants a gradient.")
    return optimizers


def _sort_parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the matrices of hidden layers, those of heads and LoRA, and all else trained."""
    matrices: list[Tensor] = []
    heads: list[Tensor] = []
    others: list[Tensor] = []
    embeddings = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in embeddings:
            others.append(parameter)
        else:
            is_head = "lm_head" in name or name.endswith(("lora_a", "lora_b"))
            (heads if is_head else matrices).append(parameter)
    return matrices, heads, others


def _matrix_optimizer(matrices: list[Tensor], config: TrainingConfig) -> torch.optim.Optimizer:
    rate, decay = config.matrix_learning_rate, config.weight_decay
    if config.optimizer == "muon":
        return Muon(matrices, lr=rate, weight_decay=decay)
    made: torch.optim.Optimizer = find_soap()(matrices, lr=rate, weight_decay=decay)
    return made


def find_soap() -> Any:
    """Return the class of the optimiser SOAP.

    Raises:
        MissingDependencyError: the package that has it is not installed.
    """
    try:
        from pytorch_optimizer import SOAP
    except ImportError as error:
        raise MissingDependencyError(
            'optimizer="soap" comes from a package of its own: pip install ".[train]".'
        ) from error
    return SOAP


def rate_factor(step: int, config: TrainingConfig) -> float:
    """Return the share of the learning rate at a step: linear warm-up, then the schedule."""
    warmup = config.warmup
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    progress = min(1.0, progress)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "constant_then_decay":
        return min(1.0, (1 - progress) / config.decay_share)
    return 1.0
