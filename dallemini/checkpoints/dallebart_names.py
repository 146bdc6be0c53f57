"""The names of a DalleBart model in Flax, generated from the placement of its norms.

Flax names an unnamed norm or dense layer by its class and counts them in the order of their calls,
so that every switch moves the numbers. Layers are stacked along axis 0 (`use_scan`) or stored one
by one; the table has rules for both. Source: `src/dalle_mini/model/modeling.py` of
github.com/borisdayma/dalle-mini, version 0.1.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..architecture import BARE_NORMS, PLACEMENTS, SIDES, Side, layer_norms
from .lazy import Op, flat, transpose
from .rules import Fill, Rule, Table

Names = Iterator[tuple[str, tuple[str, ...]]]
"""Names here, each with the names in Flax that it is made of."""

_OPS: Mapping[str, Op] = {"kernel": transpose, "head_scale": flat}
_CLASSES = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
_NO_SCALE = "the last layer, stored by itself, ends in a norm without scale"


def flax_table(config: Mapping[str, Any]) -> Table:
    """Return the rename table of a DalleBart model in Flax.

    Args:
        config: the fields of its `TransformerConfig`.
    """
    rules = [Rule("lm_head.weight", ("lm_head/kernel",), transpose)]
    fills: list[Fill] = []
    for side in SIDES:
        rules += [
            Rule(f"{side}.{name}", tuple(f"model/{side}/{source}" for source in sources))
            for name, sources in _outside(config, side)
        ]
        for name, sources in _layer(config, side):
            rules += _layer_rules(side, name, sources)
        fills += _fills(config, side)
    return [*rules, *fills]


def _layer_rules(side: Side, name: str, sources: tuple[str, ...]) -> list[Rule]:
    """Return the rules for one tensor of a layer, stacked and by itself."""
    target, stem = f"{side}.layers.{{i}}.{name}", f"model/{side}/layers/FlaxBart{side.title()}Layer"
    op = _OPS.get(sources[0].rpartition("/")[2])
    stacked = tuple(f"{stem}s/{source}" for source in sources)
    single = tuple(f"{stem}_{{i}}/{source}" for source in sources)
    return [Rule(target, stacked, op, unstack=True), Rule(target, single, op)]


def _fills(config: Mapping[str, Any], side: Side) -> list[Fill]:
    """Return the scale that the last layer lacks if it was stored by itself."""
    if not PLACEMENTS[config["ln_positions"]].closing:
        return []
    name = f"{side}.layers.{config[f'{side}_layers'] - 1}.layer_norm.weight"
    return [Fill(name, (config["d_model"],), 1.0, _NO_SCALE)]


def _outside(config: Mapping[str, Any], side: Side) -> Names:
    """Give the tensors of a side that are in no layer."""
    yield "embed_tokens.weight", ("embed_tokens/embedding",)
    if config["use_absolute_position_embeddings"]:
        yield "embed_positions.weight", ("embed_positions/embedding",)
    yield from _norm(config, "layernorm_embedding", "layernorm_embedding", scale=True)
    if config[f"use_final_ln_{side}"] and config["ln_positions"] != "postln":
        yield from _norm(config, "final_norm", "final_ln", scale=config["force_ln_scale"])


def _layer(config: Mapping[str, Any], side: Side) -> Names:
    """Give the tensors of a layer; norms are counted in the order in which they compute."""
    norms = layer_norms(config["ln_positions"], side)
    own = [name for name in norms if "." not in name]
    for number, name in enumerate(own):
        flax = f"{_CLASSES[config['ln_type']]}_{number}"
        yield from _norm(config, name, flax, scale=_has_scale(config, name))
    yield from _attention(config, "self_attn", "FlaxBartAttention_0", "qkv_proj")
    if "self_attn.norm_mid" in norms:
        flax = "FlaxBartAttention_0/mid_layernorm"
        yield from _norm(config, "self_attn.norm_mid", flax, scale=True)
    if side == "decoder":
        yield from _attention(config, "cross_attn", "FlaxBartAttention_1", "q_proj", "kv_proj")
    inner = [name for name in norms if name.startswith("feed_forward.")]
    yield from _feed_forward(config, inner)


def _attention(config: Mapping[str, Any], name: str, flax: str, *projections: str) -> Names:
    for projection in (*projections, "out_proj"):
        letters = ["out"] if projection == "out_proj" else projection.removesuffix("_proj")
        dense = [f"{flax}/{letter}_proj" for letter in letters]
        yield from _dense(config, f"{name}.{projection}", dense)
    if config["use_head_scale"]:
        yield f"{name}.head_scale.weight", (f"{flax}/head_scale",)
    if config["use_swin_position_embeddings"]:
        yield f"{name}.rel_bias.weight", (f"{flax}/rel_bias/embedding",)


def _feed_forward(config: Mapping[str, Any], norms: list[str]) -> Names:
    name, flax = ("glu", "GLU_0") if config["use_glu"] else ("ffn", "FFN_0")
    for number, norm in enumerate(norms):
        here = norm.replace("feed_forward", name)
        there = f"{flax}/{_CLASSES[config['ln_type']]}_{number}"
        yield from _norm(config, here, there, scale=_has_scale(config, norm))
    inputs = [f"{flax}/Dense_{number}" for number in range(2 if config["use_glu"] else 1)]
    yield from _dense(config, f"{name}.in_proj", inputs)
    yield from _dense(config, f"{name}.out_proj", [f"{flax}/Dense_{len(inputs)}"])


def _dense(config: Mapping[str, Any], name: str, flax: list[str]) -> Names:
    yield f"{name}.weight", tuple(f"{one}/kernel" for one in flax)
    if config["use_bias"]:
        yield f"{name}.bias", tuple(f"{one}/bias" for one in flax)


def _norm(config: Mapping[str, Any], name: str, flax: str, *, scale: bool) -> Names:
    if scale:
        yield f"{name}.weight", (f"{flax}/scale",)
    if config["ln_type"] == "layernorm":
        yield f"{name}.bias", (f"{flax}/bias",)


def _has_scale(config: Mapping[str, Any], name: str) -> bool:
    return bool(config["force_ln_scale"]) or name not in BARE_NORMS
