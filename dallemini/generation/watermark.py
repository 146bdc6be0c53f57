"""A mark in the tokens: which codes a key favours, the sampler that leans to them, the evidence.

Near codes are put into groups, because encoding a picture again often gives a neighbour of the
code that was drawn; near groups are put into pairs, of which the key favours one, so that there is
always something near to draw instead. Which one it is, is a coin of the key for each pair and each
place in squares of 4x4 tokens. The tokens before play no part. Without the mark all coins are fair,
so the chance of what was found can be counted exactly. Green and red lists are from "A Watermark
for Large Language Models" (Kirchenbauer et al. 2023); that groups of near codes survive encoding
better is in "Towards Robust Red-Green Watermarking for Autoregressive Image Generators" (Lukovnikov
et al. 2025).

Knows codes, not pictures; `pipeline.detecting` looks for the mark in pictures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import plain_number
from ..errors import InputError, InputTypeError
from .sampling import Sampler, SamplerState, TopSampler

SCHEME = "dallemini-codes-1"
GROUP_SIZE = 8  # codes on average; it takes more errors of encoding than 4, and leans as far as 16
PERIOD = 4  # tokens along each side of the square of places
MOST_STRENGTH = 20.0
_ROWS_AT_ONCE = 1024
_STEPS = 16  # of the weight of one token, so that sums are whole numbers


@dataclass(frozen=True)
class Watermark:
    """A secret key, and how strongly pictures are drawn towards it.

    Args:
        key: text or bytes that only you know. Whoever has it finds the mark, and can remove or fake
            it.
        strength: favoured codes become `exp(strength)` times likelier beside the others; 0 draws as
            without a mark. It plays no part in finding it.

    Raises:
        InputTypeError: the key is neither text nor bytes, or the strength is no number.
        InputError: the key is empty, or the strength is not from 0 to 20.

    Example:
        >>> from dallemini import Watermark
        >>> Watermark("a long secret of your own")
        Watermark(strength=6.0)
    """

    key: str | bytes = field(repr=False)
    strength: float = 6.0

    def __post_init__(self) -> None:
        if not isinstance(self.key, str | bytes):
            raise InputTypeError(
                f"The key of a watermark is text or bytes, not {type(self.key).__name__}."
            )
        if not self.key.strip():
            raise InputError(
                "The key of a watermark is empty; take a long secret, such as secrets.token_hex()."
            )
        strength = plain_number(self.strength)
        if isinstance(strength, bool) or not isinstance(strength, int | float):
            raise InputTypeError(
                f"The strength of a watermark is a number, not {type(self.strength).__name__}."
            )
        if not 0 <= strength <= MOST_STRENGTH:
            raise InputError(
                f"The strength of a watermark is from 0 to {MOST_STRENGTH:g}, not {strength}."
            )
        object.__setattr__(self, "strength", float(strength))

    def favours(self, groups: CodeGroups) -> Tensor:
        """Return which codes are favoured at each place: bool[16,V], on the CPU."""
        secret = self.key.encode(errors="surrogatepass") if isinstance(self.key, str) else self.key
        key = hashlib.blake2b(secret, digest_size=32, person=b"dallemini mark 1").digest()
        coins = {
            pair: hashlib.blake2b(pair.to_bytes(8, "little"), key=key, digest_size=2).digest()
            for pair in set(groups.pairs.tolist())
        }
        tossed = np.array([list(coins[pair]) for pair in groups.pairs.tolist()], dtype=np.uint8)
        heads = np.unpackbits(tossed, axis=1).T  # a coin for each of the 16 places
        favoured: Tensor = torch.from_numpy(heads.astype(np.int64)) != groups.sides
        return favoured

    def lean(self, sampler: Sampler, groups: CodeGroups, *, side: int) -> MarkedSampler:
        """Return a sampler that leans to the favoured codes.

        What is added to the logits is the strength, times the temperature where it is known.

        Args:
            sampler: chooses tokens.
            groups: of the codebook.
            side: columns of the model's own grid.
        """
        heat = sampler.temperature if isinstance(sampler, TopSampler) else 1.0
        bias = self.favours(groups).float() * (self.strength * heat)
        return MarkedSampler(sampler=sampler, bias=bias, side=side)


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkedSampler:
    """Adds a bias to the guided logits, then asks another sampler.

    Attributes:
        sampler: chooses.
        bias: f32[16,V], for each place.
        side: columns of the model's own grid.
    """

    sampler: Callable[[Tensor, SamplerState], Tensor]
    bias: Tensor
    side: int

    def __call__(self, logits: Tensor, state: SamplerState) -> Tensor:
        """Choose tokens i64[N] from logits f[N,V]."""
        row, column = divmod(state.position, self.side)
        places = [place(row + top, column + left) for top, left in state.corners]
        bias = self.bias[places[0]] if len(set(places)) == 1 else self.bias[places]
        return self.sampler(logits + bias.to(logits.device), state)


def place(row: int, column: int) -> int:
    """Return which of the 16 places in squares of 4x4 tokens this is."""
    return row % PERIOD * PERIOD + column % PERIOD


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeGroups:
    """Which codes share a coin.

    Attributes:
        pairs: i64[V], for each code the lowest code of its pair of groups.
        sides: i64[V], 0 or 1: the coin decides which side is favoured.
    """

    pairs: Tensor
    sides: Tensor


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What codes say about a key.

    Attributes:
        p_value: the chance that a key that has nothing to do with the codes fits as well.
        score: share of the votes for the key, 0.5 on average without its mark.
        votes: number of coins that voted.
    """

    p_value: float
    score: float
    votes: int


def weigh_evidence(
    codes: Sequence[Tensor],
    groups: CodeGroups,
    favoured: Tensor,
    *,
    shifts: Sequence[tuple[int, int]] = ((0, 0),),
) -> list[Evidence]:
    """Say how well the codes of pictures fit a key, if their grids begin at these rows and columns.

    Each coin that occurs has one vote, the sum over its tokens, for or against. A token weighs less
    the more often its pair of groups occurs, by the square root, so that a white background does
    not decide. Without the mark every vote is a fair coin, whatever the picture, and the chance of
    their sum is counted exactly.

    Args:
        codes: i64[h,w] of each picture.
        groups: of the codebook.
        favoured: bool[16,V], of `Watermark.favours`.
        shifts: rows and columns that are cut off.

    Example:
        >>> import torch
        >>> from dallemini.generation.watermark import CodeGroups, Watermark, weigh_evidence
        >>> groups = CodeGroups(pairs=torch.arange(64) // 2, sides=torch.arange(64) % 2)
        >>> favoured = Watermark("secret").favours(groups)
        >>> best = torch.stack([torch.where(row)[0] for row in favoured])[:, :16]
        >>> marked = torch.stack([best[n, n] for n in range(16)]).view(4, 4)
        >>> weigh_evidence([marked], groups, favoured)
        [Evidence(p_value=1.52587890625e-05, score=1.0, votes=16)]
    """
    flat = torch.cat([one.flatten() for one in codes]).cpu()
    rows, columns = _places([(one.shape[0], one.shape[1]) for one in codes])
    pairs = groups.pairs[flat]
    _, group, counts = pairs.unique(return_inverse=True, return_counts=True)
    parts = counts[group].double().rsqrt()
    coins = group * PERIOD**2 + (rows % PERIOD) * PERIOD + columns % PERIOD
    _, coin = coins.unique(return_inverse=True)  # a shift gives them other names only
    against = groups.sides[flat] * 2 - 1
    sums = torch.zeros(int(coin.max()) + 1, dtype=torch.float64, device="cpu")
    sums = sums.index_add(0, coin, parts * against)
    weights = (sums.abs() * _STEPS).round().long()
    chances = _tails(weights.numpy())
    first = torch.zeros(len(sums), dtype=torch.int64, device="cpu")
    first[coin] = torch.arange(len(coin), dtype=torch.int64, device="cpu")
    found = []
    for top, left in shifts:
        at = (rows + top) % PERIOD * PERIOD + (columns + left) % PERIOD
        heads = favoured[at[first], flat[first]] == (against[first] * sums > 0)
        reached, total = int(weights[heads].sum()), int(weights.sum())
        found.append(
            Evidence(
                p_value=float(chances[reached]),
                score=reached / total if total else 0.5,
                votes=int((weights > 0).sum()),
            )
        )
    return found


def _places(shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Return i64[M] and i64[M], row and column of every token of pictures of these shapes."""
    grids = [np.indices(shape, dtype=np.int64).reshape(2, -1) for shape in shapes]
    both = torch.from_numpy(np.concatenate(grids, axis=1))
    return both[0], both[1]


def _tails(weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each sum from 0 up the chance that fair coins of these weights reach it."""
    chances = np.ones(1)
    for weight in weights.tolist():
        longer = np.zeros(len(chances) + weight)
        longer[: len(chances)] = chances / 2
        longer[weight:] += chances / 2
        chances = longer
    tails: NDArray[np.float64] = np.minimum(chances[::-1].cumsum()[::-1], 1.0)
    return tails


def group_codes(codebook: Tensor, *, size: int = GROUP_SIZE) -> CodeGroups:
    """Put near codes into groups, `size` in one on average, and near groups into pairs.

    Round after round, all groups that are nearest to each other by Ward's criterion are joined;
    then each gets one neighbour, the nearest that is left. The vectors are rounded to bfloat16
    first, so that a codebook in either dtype gives the same.

    Args:
        codebook: f[V,E].
        size: codes of a group.

    Example:
        >>> import torch
        >>> from dallemini.generation.watermark import group_codes
        >>> near = torch.tensor([[0.0], [10.0], [0.1], [10.1], [3.0], [13.0], [3.1], [13.1]])
        >>> groups = group_codes(near, size=2)
        >>> groups.pairs.tolist(), groups.sides.tolist()
        ([0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1, 1])
    """
    vectors = codebook.detach().to(torch.bfloat16).float().cpu()
    joined = _Joined(vectors)
    joined.join(max(1, math.ceil(len(vectors) / size)))
    names, partners = joined.names, joined.partners()
    pairs, sides = torch.minimum(names, partners), (names > partners).long()
    index = torch.searchsorted(names, joined.labels)
    return CodeGroups(pairs=pairs[index], sides=sides[index])


class _Joined:
    """Groups of vectors f32[V,E] that are joined, and the lowest vector of each: its name."""

    def __init__(self, vectors: Tensor) -> None:
        self._centres = vectors.clone()
        self.labels = self.names = torch.arange(len(vectors), dtype=torch.int64, device="cpu")
        self._counts = torch.ones(len(vectors), dtype=torch.float32, device="cpu")

    def join(self, wanted: int) -> None:
        """Join groups until there are so many."""
        while len(self.names) > wanted:
            firsts, others = self._couples()
            left = len(self.names) - wanted
            self._merge(firsts[:left], others[:left])

    def partners(self) -> Tensor:
        """Return for each group the name of another one near it, its own where none is left."""
        found, rest = self.names.clone(), self
        while len(rest.names) > 1:
            firsts, others = rest._couples()
            for one, other in ((firsts, others), (others, firsts)):
                found[torch.searchsorted(self.names, rest.names[one])] = rest.names[other]
            kept = torch.ones(len(rest.names), dtype=torch.bool, device="cpu")
            kept[firsts] = kept[others] = False
            rest = rest._only(kept)
        return found

    def _only(self, kept: Tensor) -> _Joined:
        rest = _Joined(self._centres[kept])
        rest.names, rest._counts = self.names[kept], self._counts[kept]
        return rest

    def _couples(self) -> tuple[Tensor, Tensor]:
        """Return the groups that are nearest to each other, the nearest first; at least two."""
        distances, nearest = self._nearest()
        rows = torch.arange(len(nearest), dtype=torch.int64, device="cpu")
        firsts = rows[(nearest[nearest] == rows) & (rows < nearest)]
        if not len(firsts):  # equal distances, which rounding made unequal
            row = distances.argmin()[None]
            return torch.minimum(row, nearest[row]), torch.maximum(row, nearest[row])
        firsts = firsts[distances[firsts].argsort(stable=True)]
        return firsts, nearest[firsts]

    def _merge(self, firsts: Tensor, others: Tensor) -> None:
        weights = torch.stack([self._counts[firsts], self._counts[others]])[..., None]
        sums = (weights * self._centres[torch.stack([firsts, others])]).sum(0)
        self._centres[firsts] = sums / weights.sum(0)
        self._counts[firsts] += self._counts[others]
        target = torch.arange(len(self.names), dtype=torch.int64, device="cpu")
        target[others] = firsts
        self.labels = self.names[target][torch.searchsorted(self.names, self.labels)]
        kept = target == torch.arange(len(target), dtype=torch.int64, device="cpu")
        self._centres, self._counts = self._centres[kept], self._counts[kept]
        self.names = self.names[kept]

    def _nearest(self) -> tuple[Tensor, Tensor]:
        """Return f32[M] and i64[M]: how near the nearest other group is, and which it is."""
        squares = self._centres.square().sum(1)
        found = []
        for start in range(0, len(self._centres), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            between = torch.addmm(squares, self._centres[part], self._centres.T, alpha=-2.0)
            between = (between + squares[part, None]).clamp(min=0)
            both = self._counts[part, None] + self._counts
            between *= self._counts[part, None] * self._counts / both
            own = torch.arange(len(between), dtype=torch.int64, device="cpu")
            between[own, own + start] = math.inf
            found.append(between.min(dim=1))
        return torch.cat([one.values for one in found]), torch.cat([one.indices for one in found])
