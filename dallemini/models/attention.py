"""Attention of the encoder and decoder, with the switches of the family.

Knows hidden states, masks and the cache. Source: the Flax model of
github.com/borisdayma/dalle-mini; NormFormer (Shleifer et al. 2021, section 2) for the scale of
heads, Swin v2 (Liu et al. 2021, section 3.2) for cosine attention, Sinkformers (Sander et al. 2021,
section 3) for attention that is normalised in turns.

Shapes: B rows, R decoder rows, S positions, T keys, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..kernels import Linear
from .cache import DecoderCache, mask_bias
from .norms import normalize
from .outlines import empty_embedding

COSINE_EPS = 1e-8


@dataclass(frozen=True, kw_only=True)
class AttentionForm:
    """What attention computes beside the released architecture, which the defaults are.

    Attributes:
        bias: whether projections have biases.
        tau: what the cosines of queries and keys are divided by; None compares by dot products.
        head_scale: whether each head has a factor.
        positions: how many queries and keys there are a trained number for; None for none.
        sinkhorn_iters: how often scores are normalised, over keys and queries in turns.
    """

    bias: bool = False
    tau: float | None = None
    head_scale: bool = False
    positions: tuple[int, int] | None = None
    sinkhorn_iters: int = 1


class HeadScale(nn.Module):
    """A factor for what each head attends to."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, dtype=torch.float32))

    def forward(self, attended: Tensor) -> Tensor:
        """Scale f[B,H,S,D/H]."""
        return attended * self.weight.to(attended.dtype)[:, None, None]


class Attention(nn.Module):
    """What self-attention and attention to the text have in common; they add the projections.

    Args:
        heads: H.
        form: what is computed beside the released architecture.
    """

    out_proj: Linear
    head_scale: HeadScale | None
    rel_bias: nn.Embedding | None
    norm_mid: nn.Module | None

    def __init__(self, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.heads, self.form = heads, form
        # absent parts are plain attributes, which torch finds faster than those of a module
        self.head_scale = self.rel_bias = self.norm_mid = None

    def _finish(self, width: int, norm_mid: nn.Module | None) -> None:
        """Add what comes behind the projections of queries, keys and values."""
        self.out_proj = Linear(width, width, bias=self.form.bias)
        if self.form.head_scale:
            self.head_scale = HeadScale(self.heads)
        if self.form.positions is not None:
            queries, keys = self.form.positions
            self.rel_bias = empty_embedding(queries, keys * self.heads)
        if norm_mid is not None:
            self.norm_mid = norm_mid

    def position_bias(self, queries: int, cache: DecoderCache | None) -> Tensor | None:
        """Return what is added to scores, f[H,S,T] for all T keys there are, or f[R,H,1,T].

        Args:
            queries: S, from the first position on, or from those of the rows of the cache.
            cache: of a decoder that goes on.
        """
        if self.rel_bias is None:
            return None
        table = self.rel_bias.weight
        rows = table[:queries] if cache is None else cache.take_positions(table, queries)
        bias: Tensor = rows.unflatten(-1, (-1, self.heads)).movedim(-1, -3)
        return bias

    def merge(self, attended: Tensor) -> Tensor:
        """Join the heads f[B,H,S,D/H] and project to f[B,S,D]."""
        if self.head_scale is not None:
            attended = self.head_scale(attended)
        joined: Tensor = self.out_proj(
            normalize(self.norm_mid, attended.transpose(1, 2).flatten(2))
        )
        return joined

    def _turn_query(self, query: Tensor) -> Tensor:
        """Give f[B,H,S,D/H] the length with which scores over sqrt(D/H) are cosines over tau."""
        if self.form.tau is None:
            return query
        return _unit(query).mul(query.shape[-1] ** 0.5 / self.form.tau)

    def _turn_key(self, key: Tensor) -> Tensor:
        return key if self.form.tau is None else _unit(key)


class SelfAttention(Attention):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    Args:
        width: D.
        heads: H.
        form: what is computed beside the released architecture.
        norm_mid: applied to f[B,S,D] before the output projection.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        form: AttentionForm = AttentionForm(),
        *,
        norm_mid: nn.Module | None = None,
    ) -> None:
        super().__init__(heads, form)
        self.qkv_proj = Linear(width, 3 * width, bias=form.bias)
        self._finish(width, norm_mid)

    def forward(
        self,
        hidden_states: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        cache: DecoderCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attend among f[B,S,D], or from the next positions of a cache to all before them.

        Args:
            hidden_states: f[B,S,D].
            mask: bool[B,1,1,S], True where a key may be seen.
            causal: a position sees itself and those before it.
            cache: whose `layer` holds the positions before, and takes these.
            layer: number of the decoder layer that this is.

        Returns:
            f[B,S,D].
        """
        query, key, value = self.project(hidden_states)
        bias = self.position_bias(query.shape[2], cache)
        if cache is not None:
            return self.merge(cache.attend(layer, query, key, value, bias=bias))
        if bias is not None:
            bias = bias[..., : key.shape[2]]
        if self.form.sinkhorn_iters > 1:
            return self.merge(
                attend_in_turns(
                    query, key, value, mask=mask, bias=bias, iterations=self.form.sinkhorn_iters
                )
            )
        return self.merge(attend(query, key, value, mask=mask, causal=causal, bias=bias))

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each f[B,H,S,D/H]."""
        rows, length, width = hidden_states.shape
        fused = self.qkv_proj(hidden_states).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return self._turn_query(query), self._turn_key(key), value


class CrossAttention(Attention):
    """Multi-head attention of the decoder over the encoder's states.

    Args:
        width: D.
        heads: H.
        form: what is computed beside the released architecture.
    """

    def __init__(self, width: int, heads: int, form: AttentionForm = AttentionForm()) -> None:
        super().__init__(heads, form)
        self.q_proj = Linear(width, width, bias=form.bias)
        self.kv_proj = Linear(width, 2 * width, bias=form.bias)
        self._finish(width, None)

    def project_states(self, encoder_states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of f[B,T,D], each f[B,H,T,D/H]; they serve every step."""
        rows, length, width = encoder_states.shape
        fused = self.kv_proj(encoder_states).view(rows, length, 2, self.heads, width // self.heads)
        key, value = fused.permute(2, 0, 3, 1, 4).unbind(0)
        return self._turn_key(key), value

    def project_alone(self, states: Tensor, ends: list[int]) -> tuple[Tensor, Tensor]:
        """Do the same row by row, so that no row has a part in the rounding of another."""
        length = states.shape[1]
        alone = [self.project_states(states[row : row + 1, :end]) for row, end in enumerate(ends)]
        keys, values = (
            torch.cat([F.pad(one, (0, 0, 0, length - one.shape[2])) for one in side])
            for side in zip(*alone, strict=True)
        )
        return keys, values

    def forward(
        self,
        hidden_states: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        *,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Attend from f[B,S,D] to projected states.

        Args:
            hidden_states: f[B,S,D].
            key: f[B,H,T,D/H], as `project_states` gives them.
            value: f[B,H,T,D/H], likewise.
            mask: bool[B,1,1,T], True on real text.
            cache: tells at which positions the rows stand; at the first ones when None.

        Returns:
            f[B,S,D].
        """
        rows, length, width = hidden_states.shape
        query = self.q_proj(hidden_states).view(rows, length, self.heads, width // self.heads)
        bias = self.position_bias(length, cache)
        if bias is not None:
            bias = bias[..., : key.shape[2]]
        query = self._turn_query(query.transpose(1, 2))
        # of a few queries each has the bits that it has alone, which torch does not promise
        few = rows * length <= kernels.MOST_ROWS and not torch.is_grad_enabled()
        if few and bias is None:
            return self.merge(kernels.attend(query, key, value, mask=mask))
        return self.merge(attend(query, key, value, mask=mask, bias=bias))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend from f[B,H,S,D/H] to keys and values f[B,H,T,D/H], scores divided by sqrt(D/H).

    Args:
        query: f[B,H,S,D/H].
        key: f[B,H,T,D/H].
        value: f[B,H,T,D/H].
        mask: bool, broadcast to [B,H,S,T]; True where a key may be seen.
        causal: a position sees itself and those before it (S = T); without `mask`.
        bias: f, broadcast to [B,H,S,T]; added to the scores.

    Returns:
        f[B,H,S,D/H].
    """
    if query.shape[2] == 1 and not causal and bias is None:
        return kernels.attend(query, key, value, mask=mask)
    # The backward of torch's fused attention is the slower one on the CPU, four times in bfloat16
    # at 64 tokens.
    in_parts = torch.is_grad_enabled() and query.device.type == "cpu"
    if causal and (in_parts or bias is not None):
        mask, causal = _causal_mask(query, key), False
    if in_parts:
        weights = masked_scores(query, key, mask=mask, bias=bias).softmax(-1)
        attended: Tensor = weights.to(value.dtype) @ value
        return attended
    if bias is not None:
        mask = mask_bias(bias, mask).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def attend_in_turns(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None,
    bias: Tensor | None,
    iterations: int,
) -> Tensor:
    """Attend with weights that are normalised over keys and over queries in turns (Sinkhorn).

    Args:
        query: f[B,H,S,D/H].
        key: f[B,H,T,D/H].
        value: f[B,H,T,D/H].
        mask: bool, broadcast to [B,H,S,T]; True where a key may be seen.
        bias: f, broadcast to [B,H,S,T]; added to the scores.
        iterations: from 1; the odd ones normalise over keys.

    Returns:
        f[B,H,S,D/H].
    """
    scores = masked_scores(query, key, mask=mask, bias=bias)
    for number in range(iterations):
        scores = scores - scores.logsumexp(-2 if number % 2 else -1, keepdim=True)
        if mask is not None:  # a key that nobody sees has become what is not a number
            scores = scores.masked_fill(~mask, -torch.inf)
    attended: Tensor = scores.exp().to(value.dtype) @ value
    return attended


def masked_scores(
    query: Tensor, key: Tensor, *, mask: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Return the scores f[B,H,S,T] of keys, -inf where `mask` is False."""
    scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    shape = (query.shape[2], key.shape[2])
    return torch.ones(shape, dtype=torch.bool, device=query.device).tril()


def _unit(vectors: Tensor) -> Tensor:
    """Divide f[..., D/H] by its length."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors.div(length + COSINE_EPS)
