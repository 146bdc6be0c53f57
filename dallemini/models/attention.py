"""Attention and feed-forward blocks of the encoder and decoder (NormFormer with GLU).

Knows hidden states and masks only. Source: the Flax model of github.com/borisdayma/dalle-mini;
NormFormer (Shleifer et al. 2021, section 2), GLU variants (Shazeer 2020, section 2).

Shapes: B rows, S positions, T text tokens, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..kernels import Linear

LAYER_NORM_EPS = 1e-5


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
        return F.layer_norm(hidden_states, bias.shape, None, bias, LAYER_NORM_EPS)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = Linear(width, 3 * width)
        self.out_proj = Linear(width, width)

    def forward(
        self, hidden_states: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend among f[B,S,D]; `mask` bool[B,1,1,S] is True where a key may be seen."""
        query, key, value = self.project(hidden_states)
        return self.merge(attend(query, key, value, mask=mask, causal=causal))

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each f[B,H,S,D/H]."""
        rows, length, width = hidden_states.shape
        fused = self.qkv_proj(hidden_states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def merge(self, attended: Tensor) -> Tensor:
        """Join the heads f[B,H,S,D/H] and project to f[B,S,D]."""
        joined: Tensor = self.out_proj(_join_heads(attended))
        return joined


class CrossAttention(nn.Module):
    """Multi-head attention of the decoder over the encoder's states."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.kv_proj = Linear(width, 2 * width)
        self.out_proj = Linear(width, width)

    def project_states(self, encoder_states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of f[B,T,D], each f[B,H,T,D/H]; they serve every step."""
        rows, length, width = encoder_states.shape
        fused = self.kv_proj(encoder_states).view(rows, length, 2, self.heads, width // self.heads)
        key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return key, value

    def project_alone(self, states: Tensor, ends: list[int]) -> tuple[Tensor, Tensor]:
        """Do the same row by row, so that no row has a part in the rounding of another."""
        length = states.shape[1]
        alone = [self.project_states(states[row : row + 1, :end]) for row, end in enumerate(ends)]
        keys, values = (
            torch.cat([F.pad(one, (0, 0, 0, length - one.shape[2])) for one in side])
            for side in zip(*alone, strict=True)
        )
        return keys, values

    def forward(self, hidden_states: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend from f[B,S,D] to projected states; `mask` bool[B,1,1,T] is True on real text."""
        rows, length, width = hidden_states.shape
        query = self.q_proj(hidden_states).view(rows, length, self.heads, width // self.heads)
        # of a few queries each has the bits that it has alone, which torch does not promise
        few = rows * length <= kernels.MOST_ROWS and not torch.is_grad_enabled()
        query = query.transpose(1, 2)
        attended = (
            kernels.attend(query, key, value, mask=mask)
            if few
            else attend(query, key, value, mask=mask)
        )
        joined: Tensor = self.out_proj(_join_heads(attended))
        return joined


class GLU(nn.Module):
    """Gated feed-forward block: `out(norm_mid(gelu(gate(norm_in h)) * value(norm_in h)))`."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.norm_in = BiasNorm(width)
        self.in_proj = Linear(width, 2 * ffn_width)
        self.norm_mid = BiasNorm(ffn_width)
        self.out_proj = Linear(ffn_width, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map f[B,S,D] to f[B,S,D]."""
        gate, value = self.in_proj(self.norm_in(hidden_states)).chunk(2, dim=-1)
        # One row's half is contiguous, that of several is not, and torch rounds the two otherwise.
        if not gate.requires_grad:  # in training a copy would be kept for the gradient
            gate = gate.contiguous()
        hidden: Tensor = self.out_proj(self.norm_mid(F.gelu(gate) * value))
        return hidden


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Attend from f[B,H,S,D/H] to keys and values f[B,H,T,D/H], scores divided by sqrt(D/H).

    Args:
        query: f[B,H,S,D/H].
        key: f[B,H,T,D/H].
        value: f[B,H,T,D/H].
        mask: bool, broadcast to [B,H,S,T]; True where a key may be seen.
        causal: a position sees itself and those before it (S = T); without `mask`.

    Returns:
        f[B,H,S,D/H].
    """
    if query.shape[2] == 1 and not causal:
        return kernels.attend(query, key, value, mask=mask)
    if not (torch.is_grad_enabled() and query.device.type == "cpu"):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    # Training on the CPU: the backward of torch's fused attention is the slower one there, four
    # times in bfloat16 at 64 tokens.
    if causal:
        shape = (query.shape[2], key.shape[2])
        mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    attended: Tensor = scores.softmax(-1).to(value.dtype) @ value
    return attended


def _join_heads(attended: Tensor) -> Tensor:
    """Bring f[B,H,S,D/H] to f[B,S,D]."""
    return attended.transpose(1, 2).flatten(2)
