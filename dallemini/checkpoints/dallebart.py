"""DALL-E Mini and Mega: Flax files of the DalleBart model and their `config.json`.

Names and defaults are those of `src/dalle_mini/model/configuration.py` of
github.com/borisdayma/dalle-mini, version 0.1.5, with all the switches that it can compute; the
others are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..architecture import CHOICES
from ..config import CONFIG_NAME
from ..errors import UnsupportedModelError
from ..foreign import show
from ..hub.source import Source
from .dallebart_names import flax_table
from .flax_msgpack import flax_files, read_flax_files
from .formats import Component, LazyCheckpoint, fetch_json
from .rules import assemble
from .settings import (
    TRANSFORMERS_INERT,
    account,
    choice,
    flag,
    number,
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
RELEASED: dict[str, Any] = {  # the switches, and their values where a configuration is silent
    "scale_embedding": False,
    "ln_positions": "normformer",
    "ln_type": "layernorm",
    "force_ln_scale": False,
    "use_final_ln_encoder": True,
    "use_final_ln_decoder": True,
    "use_bias": False,
    "use_glu": True,
    "activation_function": "gelu",
    "use_cosine_attention": False,
    "tau_init": 0.05,
    "sinkhorn_iters": 1,
    "use_head_scale": False,
    "use_absolute_position_embeddings": True,
    "use_swin_position_embeddings": False,
    "use_deepnet_scaling": False,
    "use_subln_init": False,
}
_NEVER = {  # settings of the original that its own code cannot compute, or dropped
    "use_alibi": False,
    "tie_word_embeddings": False,
    "head_scale": False,
}
_READ = ("model_type", "decoder_start_token_id", "use_scan")
_INERT: tuple[str, ...] = ("normalize_text",)  # the tokenizer reads it
_INERT += ("init_std",)  # which training started from
_INERT += ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop")  # of training
_SAME_ACTIVATION = {"swish": "silu"}
_OLDER_MODELS = ("flax-community/dalle-mini", "nev/dalle-mini-pytorch")


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
        found, files = fetch_json(source), read_flax_files(paths)
        if found is None:
            tensors = assemble(files, flax_table(RELEASED), origin=source.name)
            return LazyCheckpoint(infer_transformer(tensors, origin=source.name), tensors)
        config = translate_config(found, origin=source.name)
        return LazyCheckpoint(config, assemble(files, flax_table(config), origin=source.name))


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
    refuse_values(
        config, _NEVER, origin=origin, model="DalleBart, whose own code computes nothing else"
    )
    known_keys = (_SIZES, RELEASED, _NEVER, _READ, _INERT, TRANSFORMERS_INERT)
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
    return fields | _switches(config, origin)


def _switches(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Read the switches, each with the kind of value that its default has."""
    given = dict(config)
    if given.get("ln_positions") == "deepnet":  # an older word for both
        given = {"use_deepnet_scaling": True, **given, "ln_positions": "postln"}
    given["activation_function"] = _SAME_ACTIVATION.get(
        str(given.get("activation_function")), given.get("activation_function", "gelu")
    )
    fields: dict[str, Any] = {}
    for key, default in RELEASED.items():
        if key in CHOICES:
            fields[key] = choice(given, key, CHOICES[key], default, origin=origin)
        elif isinstance(default, bool):
            fields[key] = flag(given, key, default, origin=origin)
        elif isinstance(default, int):
            fields[key] = whole_number(given, key, default, origin=origin)
        else:
            fields[key] = number(given, key, default, origin=origin)
    if fields["ln_positions"] == "swinv2" and flag(given, "use_scan", origin=origin):
        raise UnsupportedModelError(
            f"{origin} has use_scan True with ln_positions 'swinv2', whose layers differ, so that "
            "they cannot be stacked (in the original neither); set use_scan to false."
        )
    if fields["ln_positions"] == "postln":  # has no final norms, whatever these say
        fields |= {"use_final_ln_encoder": True, "use_final_ln_decoder": True}
    return fields
