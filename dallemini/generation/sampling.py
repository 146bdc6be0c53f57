"""From logits to tokens: filters, the default sampler, and one random stream for each image.

Knows logits only. A sampler of one's own is any callable with the signature of `Sampler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .config import GenerationConfig


class Sampler(Protocol):
    """Chooses one token for each image."""

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Choose tokens.

        Args:
            logits: f[N,V], after guidance; ids without a picture are not among the V columns.
            generators: one random stream (on the CPU) for each image.

        Returns:
            i64[N].
        """


@dataclass(frozen=True, kw_only=True)
class TopSampler:
    """The sampler of the released models: temperature, then top-k, then top-p.

    Each image consumes one uniform number of its own stream for each token, so that it comes out
    the same in any batch.

    Raises:
        ConfigError: a setting is out of range, as in `GenerationConfig`.

    Example:
        >>> import torch
        >>> from dallemini.generation import TopSampler, make_generators
        >>> TopSampler(top_k=1)(torch.tensor([[0.0, 2.0, 1.0]]), make_generators([0]))
        tensor([1])
    """

    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = None

    def __post_init__(self) -> None:
        _check_settings(self.temperature, self.top_k, self.top_p)

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Choose tokens i64[N] from logits f[N,V] with one stream for each row."""
        scores, tokens = _candidates(logits, self.temperature, self.top_k, self.top_p)
        cumulative = scores.softmax(-1).cumsum(-1)
        drawn = [torch.rand(1, generator=generator) for generator in generators]
        # CUDA reads ordinary memory before the call returns, so there is nothing to wait for.
        uniform = torch.stack(drawn).to(cumulative.device, non_blocking=cumulative.is_cuda)
        threshold = uniform * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, threshold, right=True)
        last = (scores > -torch.inf).sum(-1, keepdim=True).clamp(min=1) - 1
        if tokens is None:
            return torch.minimum(chosen, torch.full_like(chosen, logits.shape[1] - 1))[:, 0]
        return tokens.gather(1, torch.minimum(chosen, last))[:, 0]


def filter_logits(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Scale by the temperature and set every token outside top-k and top-p to minus infinity.

    Args:
        logits: f[N,V].
        temperature: the logits are divided by it.
        top_k: keep exactly so many tokens a row (ties: the lower id).
        top_p: of these, keep the likeliest until they reach this probability, at least one.

    Returns:
        f32[N,V], the logits of the tokens that may be drawn.

    Raises:
        ConfigError: a setting is out of range, as in `GenerationConfig`.
    """
    _check_settings(temperature, top_k, top_p)
    scores, tokens = _candidates(logits, temperature, top_k, top_p)
    if tokens is None:
        return scores
    return torch.full(logits.shape, -torch.inf, device=logits.device).scatter(1, tokens, scores)


def make_generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """Return one random stream on the CPU for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _check_settings(temperature: float, top_k: int | None, top_p: float | None) -> None:
    GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p)


def _candidates(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor | None]:
    """Return the scores that are left, likeliest first, with their ids; None for all in order."""
    scores = logits.float() / temperature
    if top_k is None and top_p is None:
        return scores, None
    width = scores.shape[1]
    scores, tokens = scores.topk(min(top_k or width, width), dim=-1)
    if top_p is not None:
        before = scores.softmax(-1).cumsum(-1).roll(1, dims=-1)
        before[:, 0] = 0.0  # the likeliest token is always kept
        scores = scores.masked_fill(before >= top_p, -torch.inf)
    return scores, tokens
