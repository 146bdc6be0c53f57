"""DALL-E Mini and Mega as released: Flax files of the DalleBart model and their `config.json`.

Names and defaults are those of `src/dalle_mini/model/{modeling,configuration}.py` of
github.com/borisdayma/dalle-mini. Layers are stacked along axis 0 (`use_scan`) or stored one by one;
both are read. Variants with another architecture are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import CONFIG_NAME
from ..errors import UnsupportedModelError
from ..foreign import show
from ..hub.source import Source
from .flax_msgpack import flax_files, read_flax_files
from .formats import Component, LazyCheckpoint, fetch_json
from .lazy import Op, transpose
from .rules import Rule, Table, assemble
from .settings import (
    TRANSFORMERS_INERT,
    account,
    flag,
    refuse_other_component,
    refuse_values,
    whole_number,
)
from .shapes import infer_transformer

_SIZES = {  # the name in config.json: the name here, and the default of DalleBartConfig
    "encoder_vocab_size": ("text_vocab_size", 50264),
    "image_vocab_size": ("image_vocab_size", 16384),
    "image_length": ("image_length", 256),
    "max_text_length": ("max_text_length", 64),
    "d_model": ("d_model", 1024),
    "encoder_layers": ("encoder_layers", 12),
    "decoder_layers": ("decoder_layers", 12),
    "encoder_attention_heads": ("encoder_attention_heads", 16),
    "decoder_attention_heads": ("decoder_attention_heads", 16),
    "encoder_ffn_dim": ("encoder_ffn_dim", 4096),
    "decoder_ffn_dim": ("decoder_ffn_dim", 4096),
}
_ARCHITECTURE = {  # the only values that this library computes; each is also the default
    "ln_positions": "normformer",
    "ln_type": "layernorm",
    "activation_function": "gelu",
    "use_glu": True,
    "use_bias": False,
    "use_head_scale": False,
    "head_scale": False,
    "force_ln_scale": False,
    "use_final_ln_encoder": True,
    "use_final_ln_decoder": True,
    "use_absolute_position_embeddings": True,
    "use_swin_position_embeddings": False,
    "use_cosine_attention": False,
    "use_deepnet_scaling": False,
    "use_alibi": False,
    "sinkhorn_iters": 1,
    "tie_word_embeddings": False,
}
_READ = ("model_type", "decoder_start_token_id", "scale_embedding")
_INERT: tuple[str, ...] = ("normalize_text",)  # the tokenizer reads it
_INERT += ("init_std", "use_subln_init", "tau_init")  # the values that training started from
_INERT += ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop")  # of training
_INERT += ("use_scan",)  # how the layers are stored, which their names tell
_OLDER_MODELS = ("flax-community/dalle-mini", "nev/dalle-mini-pytorch")
_LAYER = {  # the name here: names in a Flax layer, and what happens to them
    "self_attn_norm.bias": ("LayerNorm_0/bias",),
    "self_attn.qkv_proj.weight": tuple(f"FlaxBartAttention_0/{x}_proj/kernel" for x in "qkv"),
    "self_attn.out_proj.weight": ("FlaxBartAttention_0/out_proj/kernel",),
    "self_attn_post_norm.weight": ("LayerNorm_1/scale",),
    "self_attn_post_norm.bias": ("LayerNorm_1/bias",),
    "glu.norm_in.bias": ("GLU_0/LayerNorm_0/bias",),
    "glu.in_proj.weight": ("GLU_0/Dense_0/kernel", "GLU_0/Dense_1/kernel"),
    "glu.norm_mid.bias": ("GLU_0/LayerNorm_1/bias",),
    "glu.out_proj.weight": ("GLU_0/Dense_2/kernel",),
}
_CROSS_ATTENTION = {
    "cross_attn_norm.bias": ("LayerNorm_2/bias",),
    "cross_attn.q_proj.weight": ("FlaxBartAttention_1/q_proj/kernel",),
    "cross_attn.kv_proj.weight": tuple(f"FlaxBartAttention_1/{x}_proj/kernel" for x in "kv"),
    "cross_attn.out_proj.weight": ("FlaxBartAttention_1/out_proj/kernel",),
    "cross_attn_post_norm.weight": ("LayerNorm_3/scale",),
    "cross_attn_post_norm.bias": ("LayerNorm_3/bias",),
}


def _op(source: str) -> Op | None:
    return transpose if source.endswith("/kernel") else None


def _table() -> Table:
    rules = [Rule("lm_head.weight", ("lm_head/kernel",), transpose)]
    for side, layer in (("encoder", _LAYER), ("decoder", _LAYER | _CROSS_ATTENTION)):
        stem, flax = f"model/{side}", f"FlaxBart{side.title()}Layer"
        rules += [
            Rule(f"{side}.embed_tokens.weight", (f"{stem}/embed_tokens/embedding",)),
            Rule(f"{side}.embed_positions.weight", (f"{stem}/embed_positions/embedding",)),
            Rule(f"{side}.layernorm_embedding.weight", (f"{stem}/layernorm_embedding/scale",)),
            Rule(f"{side}.layernorm_embedding.bias", (f"{stem}/layernorm_embedding/bias",)),
            Rule(f"{side}.final_norm.bias", (f"{stem}/final_ln/bias",)),
        ]
        for name, sources in layer.items():
            target, op = f"{side}.layers.{{i}}.{name}", _op(sources[0])
            stacked = tuple(f"{stem}/layers/{flax}s/{source}" for source in sources)
            single = tuple(f"{stem}/layers/{flax}_{{i}}/{source}" for source in sources)
            rules += [Rule(target, stacked, op, unstack=True), Rule(target, single, op)]
    return rules


TABLE = _table()


class DalleBart:
    """The Flax folder of a DALL-E Mini or Mega transformer, in one file or in shards."""

    name = "DalleBart (Flax)"
    component: Component = "transformer"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return configuration and weights; the configuration is checked already."""
        _refuse_older_model(source)
        weights = flax_files(source)
        if weights is None:
            return None
        config = fetch_json(source)
        if config is None:
            return weights
        translate_config(config, origin=source.name)
        return (CONFIG_NAME, *weights)

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the transformer; without a configuration its sizes are told by the shapes."""
        tensors = assemble(read_flax_files(paths), TABLE, origin=source.name)
        found = fetch_json(source)
        if found is None:
            config = infer_transformer(tensors, origin=source.name)
        else:
            config = translate_config(found, origin=source.name)
        return LazyCheckpoint(config, tensors)


def refuse_older_name(name: object) -> None:
    """Refuse the BART models of July 2021 by their names, before anything is asked for.

    Raises:
        UnsupportedModelError: it is the name of one.
    """
    if name in _OLDER_MODELS:
        raise _older_model(str(name))


def _refuse_older_model(source: Source) -> None:
    """Refuse a BART model of July 2021, as they were before DalleBart."""
    refuse_older_name(source.name)
    if (fetch_json(source) or {}).get("model_type") == "bart":
        raise _older_model(source.name)


def _older_model(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} is a BART model (model_type 'bart'), as {' and '.join(_OLDER_MODELS)} are: the "
        "first DALL-E Mini, of 2021, whose architecture differs from that of model_type "
        "'dallebart'. Use dalle-mini/dalle-mini or dalle-mini/dalle-mega."
    )


def translate_config(
    config: Mapping[str, Any], *, origin: str, inferred: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Turn a DalleBart configuration into the fields of a `TransformerConfig`.

    Args:
        config: the values of its `config.json`; keys that are known to change nothing here are
            passed over.
        origin: where it comes from, for messages.
        inferred: values for absent sizes, instead of the defaults of DalleBart.

    Raises:
        UnsupportedModelError: it asks for an architecture that is not modelled, or has a setting
            that is not known here.
        CheckpointError: it belongs to another part of the pipeline.
        ConfigError: a size is not a whole number.
    """
    refuse_other_component(config, "transformer", origin)
    model_type = config.get("model_type", "dallebart")
    if model_type != "dallebart":
        raise UnsupportedModelError(
            f"{origin} has model_type {show(model_type)}, but only 'dallebart' is supported."
        )
    refuse_values(config, _ARCHITECTURE, origin=origin, model="the released DALL-E Mini and Mega")
    known_keys = (_SIZES, _ARCHITECTURE, _READ, _INERT, TRANSFORMERS_INERT)
    account(config, *known_keys, origin=origin, what="its configuration")
    known = inferred or {}
    fields: dict[str, Any] = {
        name: whole_number(config, key, known.get(name, default), origin=origin)
        for key, (name, default) in _SIZES.items()
    }
    start = known.get("decoder_start_token_id", fields["image_vocab_size"])
    fields["decoder_start_token_id"] = whole_number(
        config, "decoder_start_token_id", start, origin=origin
    )
    fields["scale_embedding"] = flag(config, "scale_embedding", origin=origin)
    return fields
