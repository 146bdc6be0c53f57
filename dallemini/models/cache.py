"""What passes between the parts of the transformer: tokenized text, encoder states, the cache.

Shapes: B prompts, R decoder rows, T text tokens, L image tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from ..kernels import extend_and_attend

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
    """Keys and values of the tokens decoded so far, and of the text.

    Made by `Transformer.init_cache`, filled by `decode_step`; it belongs to one decoding loop.
    This one reads only what is filled, so that shapes grow; `StaticCache` keeps them fixed.

    Attributes:
        self_keys: per layer f[R,H,L,D/H], filled up to `length`; `self_values` likewise.
        cross_keys: per layer f[R,H,T,D/H]; `cross_values` likewise.
        cross_mask: bool[R,1,1,T], True on real text.
        length: number of image positions already decoded.
    """

    self_keys: list[Tensor]
    self_values: list[Tensor]
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    cross_mask: Tensor
    length: int = 0

    @property
    def rows(self) -> int:
        """Number of rows R decoded together."""
        return self.cross_mask.shape[0]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write key and value f[R,H,1,D/H] at the current position; attend from `query`."""
        keys, values = self.self_keys[layer], self.self_values[layer]
        return extend_and_attend(query, key, value, keys, values, position=self.length)

    def take_position(self, table: Tensor) -> Tensor:
        """Return the row f[1,D] of f[L,D] for the current position."""
        return table[self.length : self.length + 1]

    def run(self, step: DecodingStep, image_tokens: Tensor) -> Tensor:
        """Let `step` decode the current position of tokens i64[R]; return its logits f[R,V]."""
        return step(image_tokens, self)


DecodingStep: TypeAlias = Callable[[Tensor, DecoderCache], Tensor]


def pad_text(input_ids: Tensor, attention_mask: Tensor, *, limit: int) -> tuple[Tensor, Tensor]:
    """Lengthen i64[B,T] and bool[B,T] by padding to the next multiple of 16, `limit` at most.

    The length of the longest prompt in a batch decides in which order sums over the text are added
    up. What comes of it are last digits in float32, but steps of the rounding where activations
    are integers; at multiples of the processor's vectors the order stays.
    """
    length = input_ids.shape[1]
    more = max(0, min(-length % TEXT_STEP, limit - length))
    return F.pad(input_ids, (0, more)), F.pad(attention_mask, (0, more), value=False)
