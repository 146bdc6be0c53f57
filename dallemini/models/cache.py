"""What passes between the parts of the transformer: tokenized text, encoder states, the cache.

Shapes: B prompts, R decoder rows, T text tokens, S positions of one step, L image tokens, D width,
H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError
from ..kernels import extend_and_attend
from ..kernels.layer import Words, cache_words

TEXT_STEP = 16


class TokenizedText(Protocol):
    """What `Transformer.encode` reads of `TextTokens`."""

    @property
    def input_ids(self) -> Tensor:
        """i64[B,T] token ids."""

    @property
    def attention_mask(self) -> Tensor:
        """bool[B,T], True on real tokens."""


@dataclass(frozen=True, eq=False)
class EncoderOutput:
    """What the encoder says about B prompts.

    Attributes:
        hidden_states: f[B,T,D].
        attention_mask: bool[B,T], True on real tokens.
    """

    hidden_states: Tensor
    attention_mask: Tensor


@dataclass(eq=False)
class DecoderCache:
    """Keys and values of the tokens decoded so far, and of the text; rows come and go.

    Made by `Transformer.init_cache`, filled by `decode_step` and `extend`; it belongs to one
    decoding loop. This one reads only what is filled, so that shapes grow; `StaticCache` keeps them
    fixed.

    Attributes:
        self_keys: per layer f[R,H,L,D/H], filled up to the row's position; `self_values` likewise.
        cross_keys: per layer f[R,H,T,D/H]; `cross_values` likewise.
        cross_mask: bool[R,1,1,T], True on real text.
        positions: of each row, the number of image positions already decoded.
        place: the same as one number, or as i64[R] on the CPU where rows differ.
    """

    self_keys: list[Tensor]
    self_values: list[Tensor]
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    cross_mask: Tensor
    positions: list[int] = field(default_factory=list)
    place: int | Tensor = field(default=0, init=False, repr=False)
    _words: tuple[list[Tensor], Words | None] = field(default=([], None), init=False, repr=False)

    def __post_init__(self) -> None:
        self.stand(self.positions or [0] * self.rows)

    @property
    def rows(self) -> int:
        """Number of rows R decoded together."""
        return self.cross_mask.shape[0]

    @property
    def length(self) -> int:
        """Number of image positions decoded in the row that is furthest."""
        return max(self.positions, default=0)

    def advance(self, count: int = 1) -> None:
        """Count positions that were decoded; a negative number takes back the last ones."""
        self.stand([position + count for position in self.positions])

    def append(self, other: DecoderCache) -> None:
        """Take over the rows of another cache, behind those that are there."""
        longest = max(self.cross_mask.shape[-1], other.cross_mask.shape[-1])
        for cache in (self, other):
            more = longest - cache.cross_mask.shape[-1]
            cache.cross_mask = F.pad(cache.cross_mask, (0, more), value=False)
            for tensors in (cache.cross_keys, cache.cross_values) if more else ():
                tensors[:] = [F.pad(tensor, (0, 0, 0, more)) for tensor in tensors]
        for mine, others in zip(self._tensors(), other._tensors(), strict=True):
            for layer, tensor in enumerate(others):
                mine[layer] = torch.cat([mine[layer], tensor])
        self.cross_mask = torch.cat([self.cross_mask, other.cross_mask])
        self.stand([*self.positions, *other.positions])

    def keep(self, rows: list[int]) -> None:
        """Keep these rows in this order, any of them several times, and forget the others."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.cross_mask.device)
        for tensors in self._tensors():
            for layer, tensor in enumerate(tensors):
                tensors[layer] = tensor.index_select(0, index)
        self.cross_mask = self.cross_mask.index_select(0, index)
        self.stand([self.positions[row] for row in rows])

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None
    ) -> Tensor:
        """Write key and value f[R,H,S,D/H] from the rows' positions on; attend from `query`.

        Args:
            layer: number of the decoder layer.
            query: f[R,H,S,D/H].
            key: f[R,H,S,D/H].
            value: f[R,H,S,D/H].
            bias: added to the scores: f[H,S,L], or f[R,H,1,L] of uneven rows.

        Returns:
            f[R,H,S,D/H].
        """
        keys, values = self.self_keys[layer], self.self_values[layer]
        if bias is None:
            return extend_and_attend(query, key, value, keys, values, position=self.place)
        count, start = query.shape[2], self.place
        if isinstance(start, Tensor):
            if count > 1:
                raise InputError(
                    "With position embeddings in the scores, several positions at once are for "
                    "rows that all stand at one position, not at "
                    f"{sorted(set(self.positions))}."
                )
            return self._attend_unevenly(start, query, key, value, keys, values, bias)
        end = start + count
        keys[:, :, start:end], values[:, :, start:end] = key, value
        seen = torch.ones(count, end, dtype=torch.bool, device=query.device).tril(start)
        mask = mask_bias(bias[..., :end], seen)
        return F.scaled_dot_product_attention(
            query, keys[:, :, :end], values[:, :, :end], attn_mask=mask
        )

    def _attend_unevenly(
        self,
        places: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        keys: Tensor,
        values: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """Attend row by row, each up to its own position."""
        attended = []
        for row, place in enumerate(places.tolist()):
            keys[row, :, place], values[row, :, place] = key[row, :, 0], value[row, :, 0]
            seen = slice(row, row + 1), slice(None), slice(place + 1)
            attended.append(
                F.scaled_dot_product_attention(
                    query[row : row + 1],
                    keys[seen],
                    values[seen],
                    attn_mask=bias[row : row + 1, ..., : place + 1],
                )
            )
        return torch.cat(attended)

    def take_positions(self, table: Tensor, count: int) -> Tensor:
        """Return the rows f[S,D] of f[L,D] for the next positions; f[R,S,D] of uneven rows."""
        if isinstance(self.place, Tensor):
            next_ones = torch.arange(count, dtype=torch.int64, device=self.place.device)
            return table[(self.place[:, None] + next_ones).to(table.device)]
        return table[self.place : self.place + count]

    def stand(self, positions: list[int]) -> None:
        """Let each row be at its position, with what is written before it."""
        self.positions = positions
        if positions and positions.count(positions[0]) == len(positions):
            self.place = positions[0]  # one number stands for all
        else:
            self.place = torch.tensor(positions, dtype=torch.int64, device="cpu")

    def words(self) -> Words | None:
        """Return where everything lies, for the library; None where it does not read it."""
        known, words = self._words
        now = [*chain.from_iterable(self._tensors())]
        if len(known) != len(now) or not all(map(is_, known, now)):
            words = cache_words(self._tensors())
            self._words = now, words
        return words

    def _tensors(self) -> list[list[Tensor]]:
        return [self.self_keys, self.self_values, self.cross_keys, self.cross_values]


def mask_bias(bias: Tensor, seen: Tensor | None) -> Tensor:
    """Return what is added to scores: a bias f[..., S, T], -inf where bool[..., S, T] is False."""
    if seen is None:
        return bias
    nothing = torch.full((), -torch.inf, dtype=bias.dtype, device=bias.device)
    return torch.where(seen, bias, nothing)


def pad_text(input_ids: Tensor, attention_mask: Tensor, *, limit: int) -> tuple[Tensor, Tensor]:
    """Lengthen i64[B,T] and bool[B,T] by padding to the next multiple of 16, `limit` at most.

    The length of the longest prompt in a batch decides in which order sums over the text are added
    up. What comes of it are last digits in float32, but steps of the rounding where activations
    are integers; at multiples of the processor's vectors the order stays.
    """
    length = input_ids.shape[1]
    more = max(0, min(-length % TEXT_STEP, limit - length))
    return F.pad(input_ids, (0, more)), F.pad(attention_mask, (0, more), value=False)


def text_ends(mask: Tensor) -> list[int]:
    """Return where the real tokens of each row of bool[B,T] end."""
    numbers = torch.arange(1, mask.shape[1] + 1, dtype=torch.int64, device=mask.device)
    ends: list[int] = (mask * numbers).amax(1).tolist()
    return ends
