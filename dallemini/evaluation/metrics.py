"""The measures themselves: distances, ranks, shares and their intervals.

Knows tensors only, neither models nor files. Papers: Heusel et al. 2017, "GANs Trained by a Two
Time-Scale Update Rule" (section 4: the Frechet distance); Wilson 1927, "Probable inference" (the
interval of a share).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

Z_95 = 1.96
RESAMPLES = 2000
RESAMPLED_AT_ONCE = 10**6
LEAST_ERROR = 1e-8  # 80 dB, far below one of 256 levels
AMONG = 5


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measured value with its 95 % interval.

    Attributes:
        value: mean, or share in [0, 1].
        low: where the interval begins.
        high: where it ends.
        count: how many it was measured on.
    """

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """How often a caption's own picture is near to the one that was drawn.

    Attributes:
        first: share of captions whose own picture is the nearest of the gallery.
        among_five: share of captions whose own picture is among the five nearest.
        gallery: pictures in the smallest gallery, the own one among them.
        largest: pictures in the largest gallery.
    """

    first: Interval
    among_five: Interval
    gallery: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class CodebookUse:
    """How many codes a set of pictures takes.

    Attributes:
        used: distinct codes.
        size: codes in the codebook.
        perplexity: e to the entropy of the codes: so many equally frequent codes hold as much.
        tokens: how many tokens were counted.
    """

    used: int
    size: int
    perplexity: float
    tokens: int

    @property
    def share(self) -> float:
        """Share of the codebook in use."""
        return self.used / self.size


def wilson_interval(hits: int, *, count: int) -> Interval:
    """Return the share of hits with its 95 % Wilson interval.

    Raises:
        InputError: there is nothing to count, or more hits than trials.

    Example:
        >>> from dallemini.evaluation import wilson_interval
        >>> share = wilson_interval(153, count=200)
        >>> f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"
        '0.765 (0.702 to 0.818)'
    """
    if count < 1 or not 0 <= hits <= count:
        raise InputError(f"A share needs 0 <= hits <= count and a count from 1: {hits}, {count}.")
    rate, spread = hits / count, Z_95**2 / count
    middle = (rate + spread / 2) / (1 + spread)
    half = Z_95 * ((rate * (1 - rate) + spread / 4) / count) ** 0.5 / (1 + spread)
    return Interval(
        value=rate, low=max(0.0, middle - half), high=min(1.0, middle + half), count=count
    )


def mean_interval(values: Tensor, *, seed: int = 0) -> Interval:
    """Return the mean of f[N] with its 95 % bootstrap interval (percentiles, 2,000 resamples).

    Raises:
        InputError: there is no value, or one is not finite.
    """
    if values.ndim != 1 or not len(values) or not bool(values.isfinite().all()):
        raise InputError(f"A mean needs finite numbers f[N], not {list(values.shape)}.")
    exact, generator = values.double().cpu(), torch.Generator().manual_seed(seed)
    at_once = max(1, RESAMPLED_AT_ONCE // len(exact))  # bounds the memory
    means = torch.cat(
        [
            exact[
                torch.randint(
                    len(exact),
                    (len(rows), len(exact)),
                    generator=generator,
                    dtype=torch.int64,
                    device="cpu",
                )
            ].mean(1)
            for rows in torch.arange(RESAMPLES, dtype=torch.int64, device="cpu").split(at_once)
        ]
    )
    low, high = torch.quantile(
        means, torch.tensor([0.025, 0.975], dtype=torch.float64, device="cpu")
    ).tolist()
    return Interval(value=float(exact.mean()), low=low, high=high, count=len(exact))


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """Return the Frechet distance between the Gaussians that fit two sets of features.

    `|m - n|^2 + tr A + tr B - 2 tr (A^1/2 B A^1/2)^1/2` in float64, with A and B the covariances
    (divided by the count less one). The last trace is the sum of the singular values of `X Y^T` for
    any X, Y with `X^T X = A` and `Y^T Y = B`: so no covariance is formed, no root is taken of an
    eigenvalue that is rounding noise, and sets smaller than E are as exact as large ones. They
    are another thing than large ones all the same: the distance falls with the number of
    pictures, so compare only distances measured on equally many.

    Args:
        real: f[N,E], N at least 2.
        drawn: f[M,E], M at least 2.

    Raises:
        InputError: shapes that do not fit, fewer than two rows, or numbers that are not finite.

    Example:
        >>> import torch
        >>> from dallemini.evaluation import frechet_distance
        >>> features = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 2.0]])
        >>> round(frechet_distance(features, features + 1), 6)
        2.0
    """
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise InputError(
            "Features must have the shapes [N, E] and [M, E], not "
            f"{list(real.shape)} and {list(drawn.shape)}."
        )
    if min(len(real), len(drawn)) < 2:
        raise InputError(f"A covariance needs two pictures: {len(real)} real, {len(drawn)} drawn.")
    first, second = real.double().cpu(), drawn.double().cpu()
    if not (bool(first.isfinite().all()) and bool(second.isfinite().all())):
        raise InputError("The features hold numbers that are not finite.")
    factor, other = _covariance_factor(first), _covariance_factor(second)
    distance = (
        (first.mean(0) - second.mean(0)).square().sum()
        + factor.square().sum()
        + other.square().sum()
        - 2 * torch.linalg.svdvals(factor @ other.T).sum()
    )
    return max(0.0, float(distance))


def rank_of(drawn: Tensor, gallery: Tensor, *, right: int = 0) -> int:
    """Return how many of the gallery are nearer to a picture than the right one.

    Nearness is the cosine after the gallery's mean is taken off, which all pictures share.

    Args:
        drawn: f[E], features of the drawn picture.
        gallery: f[M,E], features of real ones.
        right: which of the gallery belongs to the caption.
    """
    center = gallery.mean(0)
    likeness = F.cosine_similarity(gallery - center, (drawn - center)[None])
    return int((likeness > likeness[right]).sum())


def retrieval(drawn: Tensor, real: Tensor, galleries: Sequence[Tensor]) -> Retrieval:
    """Measure whether drawn pictures are nearest to the real ones of their captions.

    Args:
        drawn: f[N,E], features of one drawn picture per caption.
        real: f[R,E], features of real pictures.
        galleries: for each caption i64[M] rows of `real`, the caption's own picture first; a
            caption with no other picture is left out.

    Raises:
        InputError: another number of galleries than pictures, or all without a rival.
    """
    if len(galleries) != len(drawn):
        raise InputError(f"{len(drawn)} pictures need as many galleries, not {len(galleries)}.")
    kept = [number for number, rows in enumerate(galleries) if len(rows) > 1]
    if not kept:
        raise InputError("Retrieval needs a second picture with another caption.")
    ranks = [rank_of(drawn[number], real[galleries[number]]) for number in kept]
    sizes = [len(galleries[number]) for number in kept]
    return Retrieval(
        first=wilson_interval(sum(rank < 1 for rank in ranks), count=len(ranks)),
        among_five=wilson_interval(sum(rank < AMONG for rank in ranks), count=len(ranks)),
        gallery=min(sizes),
        largest=max(sizes),
    )


def psnr(real: Tensor, drawn: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture in dB, f32[N], at most 80.

    Args:
        real: f[N,3,H,W] in [0, 1].
        drawn: the same shape.

    Raises:
        InputError: the shapes differ.
    """
    if real.shape != drawn.shape or real.ndim != 4:
        raise InputError(
            f"PSNR compares two f[N,3,H,W], not {list(real.shape)} and {list(drawn.shape)}."
        )
    errors = (real.float() - drawn.float()).square().mean(dim=(1, 2, 3))
    return -10 * errors.clamp(min=LEAST_ERROR).log10()


def codebook_use(image_tokens: Tensor, *, codebook_size: int) -> CodebookUse:
    """Count the codes among i64[N,L].

    Raises:
        InputError: there is none.
    """
    if not image_tokens.numel():
        raise InputError("There are no tokens to count.")
    counts = torch.bincount(image_tokens.flatten().cpu(), minlength=codebook_size).double()
    shares = counts[counts > 0] / counts.sum()
    return CodebookUse(
        used=len(shares),
        size=codebook_size,
        perplexity=float((-(shares * shares.log()).sum()).exp()),
        tokens=image_tokens.numel(),
    )


def token_nats(logits: Tensor, image_tokens: Tensor) -> Tensor:
    """Return the mean surprise of each picture's tokens, f32[B], in nats per token.

    Args:
        logits: f[B,L,V], as `Transformer.forward` gives them.
        image_tokens: i64[B,L].
    """
    losses = F.cross_entropy(logits.float().transpose(1, 2), image_tokens, reduction="none")
    return losses.mean(dim=1)


def _covariance_factor(features: Tensor) -> Tensor:
    """Return f64[K,E], K at most E, whose Gram matrix over rows is the covariance of f64[N,E]."""
    factor: Tensor = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    if len(factor) > factor.shape[1]:
        _, factor = torch.linalg.qr(factor, mode="r")
    return factor
