"""What may differ between transformers of the DalleBart family: names, and where norms stand.

One table of placements says which norms a layer has. The model builds its norms from it, and the
rename table of Flax checkpoints counts them by it, so that the two cannot disagree. Knows neither
tensors nor files. Source: `src/dalle_mini/model/{modeling,configuration}.py` of
github.com/borisdayma/dalle-mini, version 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

Side: TypeAlias = Literal["encoder", "decoder"]
NormPositions: TypeAlias = Literal["normformer", "preln", "postln", "cogview", "swinv2", "subln"]
NormType: TypeAlias = Literal["layernorm", "rmsnorm"]
Activation: TypeAlias = Literal["gelu", "gelu_new", "quick_gelu", "relu", "silu", "smelu"]

SIDES: tuple[Side, ...] = get_args(Side)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "ln_positions": get_args(NormPositions),
    "ln_type": get_args(NormType),
    "activation_function": get_args(Activation),
}
"""The switches that are words, and the words."""

NORMS: tuple[str, ...] = (
    "self_attn_norm",
    "self_attn.norm_mid",
    "self_attn_post_norm",
    "self_attn_sum_norm",
    "cross_attn_norm",
    "cross_attn_post_norm",
    "cross_attn_sum_norm",
    "feed_forward.norm_in",
    "feed_forward.norm_mid",
    "feed_forward.norm_out",
    "layer_norm",
)
"""Every norm that a layer can have, in the order in which a layer computes them."""

BARE_NORMS = frozenset(
    ["self_attn_norm", "cross_attn_norm", "feed_forward.norm_in", "feed_forward.norm_mid"]
)
"""Norms that feed a dense layer, which can absorb their scale: they have one only if forced."""

_BEFORE = {"self_attn_norm", "cross_attn_norm"}
_AFTER = {"self_attn_post_norm", "cross_attn_post_norm"}
_SUMS = {"self_attn_sum_norm", "cross_attn_sum_norm"}
_INSIDE = {"feed_forward.norm_in", "feed_forward.norm_mid"}


@dataclass(frozen=True)
class Placement:
    """Where the layers of a transformer have norms.

    Attributes:
        norms: those of every layer, of either side as far as it has the block.
        encoder_only: norms that the decoder lacks.
        every: a `layer_norm` stands behind each so manyth layer; 0 for none.
        closing: whether one stands behind the last layer too.
    """

    norms: frozenset[str]
    encoder_only: frozenset[str] = field(default=frozenset())
    every: int = 0
    closing: bool = False


PLACEMENTS: Mapping[str, Placement] = {
    "normformer": Placement(frozenset(_BEFORE | _AFTER | _INSIDE)),
    "preln": Placement(frozenset(_BEFORE | {"feed_forward.norm_in"})),
    "cogview": Placement(
        frozenset(_BEFORE | _AFTER | {"feed_forward.norm_in", "feed_forward.norm_out"})
    ),
    "subln": Placement(
        frozenset(_INSIDE | {"self_attn_norm", "self_attn.norm_mid"}),
        encoder_only=frozenset(["self_attn_norm"]),
    ),
    "swinv2": Placement(frozenset(_AFTER | {"feed_forward.norm_out"}), every=6),
    "postln": Placement(frozenset(_SUMS), every=1, closing=True),
}


def layer_norms(ln_positions: str, side: Side) -> tuple[str, ...]:
    """Return the norms that the layers of one side have, in the order in which they compute.

    `layer_norm` is among them if some layer has it; `has_layer_norm` tells which.

    Example:
        >>> from dallemini.architecture import layer_norms
        >>> layer_norms("preln", "encoder")
        ('self_attn_norm', 'feed_forward.norm_in')
    """
    placement = PLACEMENTS[ln_positions]
    lacking = placement.encoder_only if side == "decoder" else frozenset[str]()
    found = (placement.norms - lacking) | ({"layer_norm"} if placement.every else set())
    return tuple(
        name
        for name in NORMS
        if name in found and (side == "decoder" or not name.startswith("cross_attn"))
    )


def has_layer_norm(ln_positions: str, index: int, layers: int) -> bool:
    """Tell whether a norm stands behind the layer `index` of so many."""
    placement = PLACEMENTS[ln_positions]
    last = index == layers - 1
    return (
        bool(placement.every)
        and (index + 1) % placement.every == 0
        and (placement.closing or not last)
    )
