"""The weights of min-dalle: `encoder.pt` and `decoder.pt`, and its VQGAN decoder `detoker.pt`.

github.com/kuprel/min-dalle stores DalleBart as two torch state dicts without configuration; mega
has plain names, mini `_mini`, another mega snapshot `_v26`. Only the files are read here: its start
token, its guidance and its missing text clean-up are not taken over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import CONFIG_NAME
from ..errors import MissingFileError
from ..hub.source import Source
from .dallebart import RELEASED, translate_config
from .formats import Component, LazyCheckpoint, fetch_json
from .lazy import LazyTensor
from .rules import Ignore, Rule, Table, assemble
from .settings import refuse_values
from .shapes import infer_transformer, infer_vqgan
from .torch_file import read_torch

DETOKENIZER_FILE = "detoker.pt"
_ONLY = {  # the others change no tensor, or nothing without these
    key: value
    for key, value in RELEASED.items()
    if key not in ("scale_embedding", "tau_init", "use_subln_init")
}
_SUFFIXES = ("", "_mini", "_v26")  # in the order of preference where a folder has several
_PART = re.compile(r"(encoder|decoder)(_\w+)?\.pt")

_LAYER = {
    "self_attn_norm.bias": ("pre_self_attn_layer_norm.bias",),
    "self_attn.qkv_proj.weight": tuple(f"self_attn.{x}_proj.weight" for x in "qkv"),
    "self_attn.out_proj.weight": ("self_attn.out_proj.weight",),
    "self_attn_post_norm.weight": ("self_attn_layer_norm.weight",),
    "self_attn_post_norm.bias": ("self_attn_layer_norm.bias",),
    "cross_attn_norm.bias": ("pre_encoder_attn_layer_norm.bias",),
    "cross_attn.q_proj.weight": ("encoder_attn.q_proj.weight",),
    "cross_attn.kv_proj.weight": tuple(f"encoder_attn.{x}_proj.weight" for x in "kv"),
    "cross_attn.out_proj.weight": ("encoder_attn.out_proj.weight",),
    "cross_attn_post_norm.weight": ("encoder_attn_layer_norm.weight",),
    "cross_attn_post_norm.bias": ("encoder_attn_layer_norm.bias",),
    "glu.norm_in.bias": ("glu.ln0.bias",),
    "glu.in_proj.weight": ("glu.fc0.weight", "glu.fc1.weight"),
    "glu.norm_mid.bias": ("glu.ln1.bias",),
    "glu.out_proj.weight": ("glu.fc2.weight",),
}
_SAME: tuple[str, ...] = ("embed_tokens.weight", "embed_positions.weight")
_SAME += ("layernorm_embedding.weight", "layernorm_embedding.bias")
_NEUTRAL_SCALES = Ignore(
    r"(final_ln|layers\.\d+\."
    r"(pre_self_attn_layer_norm|pre_encoder_attn_layer_norm|glu\.ln[01]))\.weight",
    "a norm in front of a projection has no scale in DalleBart",
    value=1.0,
)


def _table(side: str) -> Table:
    names: dict[str, tuple[str, ...]] = {"final_norm.bias": ("final_ln.bias",)}
    for name in _SAME:
        names[name] = (name,)
    names |= {
        f"layers.{{i}}.{name}": tuple(f"layers.{{i}}.{source}" for source in sources)
        for name, sources in _LAYER.items()
    }
    rules = [Rule(f"{side}.{name}", sources) for name, sources in names.items()]
    if side == "decoder":
        rules.append(Rule("lm_head.weight", ("lm_head.weight",)))
    return [*rules, _NEUTRAL_SCALES]


TABLES = {side: _table(side) for side in ("encoder", "decoder")}
DETOKENIZER_TABLE: Table = (
    Rule("quantize.embedding.weight", ("embedding.weight",)),
    Rule("decoder.{rest}", ("decoder.{rest}",)),
    Rule("post_quant_conv.{rest}", ("post_quant_conv.{rest}",)),
)


class MinDalle:
    """A transformer in two files; a DalleBart `config.json` beside them wins over the shapes."""

    name = "min-dalle"
    component: Component = "transformer"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return encoder, decoder, and the configuration where there is one."""
        suffix = _suffix(source)
        if suffix is None:
            return None
        names = _parts(suffix)
        present = source.files()
        if absent := [name for name in names if name not in present]:
            raise MissingFileError(
                f"{source.name} has {', '.join(set(names) - set(absent))} but no {absent[0]}. Both "
                "belong to one transformer; put them into one folder."
            )
        config = _config_name(source, suffix)
        return (*names, config) if config else names

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the transformer."""
        tensors: dict[str, LazyTensor] = {}
        given: dict[str, Any] = {}
        for name, path in paths.items():
            if found := _PART.fullmatch(name):
                origin = f"{source.name}: {name}"
                tensors |= assemble(read_torch(path), TABLES[found[1]], origin=origin)
            else:
                given = fetch_json(source, name) or {}
        return LazyCheckpoint(_config(given, tensors, source.name), tensors)


class Detokenizer:
    """The decoding half of the VQGAN; its pixels are those of DALL-E Mini, in [0, 1]."""

    name = "min-dalle detokenizer"
    component: Component = "vqgan"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the one file."""
        if DETOKENIZER_FILE in source.files() and source.selected in (None, DETOKENIZER_FILE):
            return (DETOKENIZER_FILE,)
        return None

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the decoder; its sizes are told by the shapes."""
        tensors = read_torch(paths[DETOKENIZER_FILE])
        native = assemble(tensors, DETOKENIZER_TABLE, origin=source.name)
        config = {**infer_vqgan(native, origin=source.name), "value_range": [0.0, 1.0]}
        return LazyCheckpoint(config, native)


def _suffix(source: Source) -> str | None:
    """Return which transformer of a folder is meant: the one named, or the first whole one."""
    if source.selected is not None:
        found = _PART.fullmatch(source.selected)
        return found and (found[2] or "")
    names = set(source.files())
    whole = [suffix for suffix in _SUFFIXES if names.issuperset(_parts(suffix))]
    begun = [suffix for suffix in _SUFFIXES if names.intersection(_parts(suffix))]
    return next(iter([*whole, *begun]), None)


def _parts(suffix: str) -> tuple[str, str]:
    return f"encoder{suffix}.pt", f"decoder{suffix}.pt"


def _config_name(source: Source, suffix: str) -> str | None:
    """Return the configuration that belongs to the files with this suffix."""
    names = set(source.files())
    if f"config{suffix}.json" in names:
        return f"config{suffix}.json"
    # A plain config.json beside plain weights describes those.
    alone = not names.intersection(_parts(""))
    return CONFIG_NAME if alone and CONFIG_NAME in names else None


def _config(
    given: Mapping[str, Any], tensors: Mapping[str, LazyTensor], origin: str
) -> dict[str, Any]:
    """Join a configuration, which may hold some of the keys only, with what the shapes tell."""
    refuse_values(given, _ONLY, origin=origin, model="min-dalle, which has no switches")
    heads = all(f"{side}_attention_heads" in given for side in ("encoder", "decoder"))
    inferred = infer_transformer(tensors, origin=origin, heads_known=heads)
    if "model_type" in given:  # a whole DalleBart configuration, which has a default of its own
        del inferred["decoder_start_token_id"]
    return translate_config(given, origin=origin, inferred=inferred)
