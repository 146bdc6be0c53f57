"""The norms of the transformer: layer norm with scale and bias or a bias alone, and RMS norm.

Source: the Flax model of github.com/borisdayma/dalle-mini; "Root Mean Square Layer Normalization"
(Zhang and Sennrich 2019, section 4). Shapes: D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..architecture import NormType

NORM_EPS = 1e-5


class BiasNorm(nn.Module):
    """Layer norm with a bias and no scale, as the released models have before every projection.

    A scale there would be redundant: the dense layer that follows can absorb it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(width, dtype=torch.float32))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise f[..., D] over the last axis."""
        # the cast does nothing but under autocast, whose layer norm wants one dtype
        bias = self.bias.to(hidden_states.dtype)
        return F.layer_norm(hidden_states, bias.shape, None, bias, NORM_EPS)


class RMSNorm(nn.Module):
    """Division by the root mean square, times a scale where it has one; never a bias."""

    weight: nn.Parameter | None

    def __init__(self, width: int, *, scale: bool) -> None:
        super().__init__()
        self.width = width
        weight = nn.Parameter(torch.empty(width, dtype=torch.float32)) if scale else None
        self.register_parameter("weight", weight)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalise f[..., D] over the last axis."""
        weight = None if self.weight is None else self.weight.to(hidden_states.dtype)
        return F.rms_norm(hidden_states, (self.width,), weight, NORM_EPS)


def make_norm(kind: NormType, width: int, *, scale: bool = True) -> nn.Module:
    """Return a norm over f[..., D].

    Args:
        kind: "layernorm" or "rmsnorm".
        width: D.
        scale: whether it has one; a layer norm always has a bias, an RMS norm never.
    """
    if kind == "rmsnorm":
        return RMSNorm(width, scale=scale)
    return nn.LayerNorm(width, eps=NORM_EPS) if scale else BiasNorm(width)


def normalize(norm: nn.Module | None, hidden_states: Tensor) -> Tensor:
    """Apply a norm to f[..., D], or nothing where a placement has none."""
    if norm is None:
        return hidden_states
    normed: Tensor = norm(hidden_states)
    return normed
