"""The feed-forward block, with a gate or without, and its activation functions.

Knows hidden states only. Source: the Flax model of github.com/borisdayma/dalle-mini; GLU variants
(Shazeer 2020, section 2), NormFormer (Shleifer et al. 2021, section 2), SmeLU (Shamir et al. 2022,
section 3).

Shapes: B rows, S positions, D width, F inner width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import Activation
from ..kernels import Linear
from .norms import normalize

NormMaker = Callable[[str, int], nn.Module | None]
"""Makes the norm of a name and a width, or None where a placement has none."""


class FeedForward(nn.Module):
    """`norm_out(out(norm_mid(activation(in(norm_in h)))))`, with the norms that a placement has.

    Args:
        width: D.
        ffn_width: F.
        norm: makes "norm_in", "norm_mid" and "norm_out".
        activation: name of the function.
        bias: whether the dense layers have biases.
    """

    inputs = 1  # inner widths that `in_proj` computes

    norm_in: nn.Module | None
    norm_mid: nn.Module | None
    norm_out: nn.Module | None

    def __init__(
        self,
        width: int,
        ffn_width: int,
        *,
        norm: NormMaker,
        activation: Activation = "gelu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.norm_in = norm("norm_in", width)
        self.in_proj = Linear(width, self.inputs * ffn_width, bias=bias)
        self.norm_mid = norm("norm_mid", ffn_width)
        self.out_proj = Linear(ffn_width, width, bias=bias)
        self.norm_out = norm("norm_out", width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map f[B,S,D] to f[B,S,D]."""
        inner = self._activated(self.in_proj(normalize(self.norm_in, hidden_states)))
        return normalize(self.norm_out, self.out_proj(normalize(self.norm_mid, inner)))

    def _activated(self, projected: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](projected)


class GLU(FeedForward):
    """A block whose inner values are multiplied by an activated gate: the released models' one.

    `in_proj` holds the gate first, then the values.
    """

    inputs = 2

    def _activated(self, projected: Tensor) -> Tensor:
        gate, value = projected.chunk(2, dim=-1)
        # One row's half is contiguous, that of several is not, and torch rounds the two otherwise.
        if not gate.requires_grad:  # in training a copy would be kept for the gradient
            gate = gate.contiguous()
        return ACTIVATIONS[self.activation](gate) * value


def quick_gelu(inputs: Tensor) -> Tensor:
    """Approximate GELU by a sigmoid, f[...] to f[...]."""
    return inputs * torch.sigmoid(1.702 * inputs)


def smelu(inputs: Tensor) -> Tensor:
    """Return a quarter below -1, the inputs above 1, and a parabola between, f[...] to f[...].

    The function of the source is 0 below -1; the original sets the inputs there to 0 before the
    parabola, so that its models were trained with a quarter.
    """
    inputs = torch.where(inputs <= -1, torch.zeros_like(inputs), inputs)
    return torch.where(inputs >= 1, inputs, (inputs + 1).square() / 4)


ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "smelu": smelu,
}
