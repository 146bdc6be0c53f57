"""VQGANs: Flax folders of vqgan-jax, and checkpoints of taming-transformers and its relatives.

The model uses taming's names; `taming` has the tables of the relatives. Sources:
github.com/CompVis/taming-transformers (`last.ckpt` with `model.yaml`, pixels in [-1, 1]) and
github.com/patil-suraj/vqgan-jax (`config.json` with `flax_model.msgpack`; DALL-E Mini feeds it
pixels in [0, 1]).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..config import CONFIG_NAME, MOST_LAYERS, read_yaml
from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..foreign import show, show_names
from ..hub.source import Source
from .flax_msgpack import flax_files, read_flax_files
from .formats import Component, LazyCheckpoint, fetch_json, read_weights
from .lazy import convolution, squeeze
from .rules import Rule, Table, assemble
from .safetensors_file import WEIGHTS_FILE
from .settings import (
    TRANSFORMERS_INERT,
    account,
    refuse_other_component,
    refuse_values,
    section,
    whole_number,
)
from .shapes import infer_vqgan
from .taming import find_family

_SIZES = {  # VQGANConfig of vqgan-jax has these defaults, and so has the DDPM code behind taming
    "ch": 128,
    "num_res_blocks": 2,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "z_channels": 256,
    "embed_dim": 256,
    "n_embed": 1024,
}
_LISTS = {"ch_mult": (1, 1, 2, 2, 4), "attn_resolutions": (16,)}
_ARCHITECTURE = {  # the only values that this library computes; each is also the default
    "double_z": False,
    "resamp_with_conv": True,
    "give_pre_end": False,
    "use_gumbel": False,
    "use_linear_attn": False,
    "tanh_out": False,
    "attn_type": "vanilla",
    "remap": None,
}
_INERT: tuple[str, ...] = (
    "dropout",
    "num_resolutions",
    "model_type",
    "monitor",
    "ckpt_path",
    "image_key",
)
_INERT += ("colorize_nlabels", "ignore_keys", "sane_index_shape", "lossconfig", "lr_g_factor")
_INERT += ("kl_weight", "temperature_scheduler_config")
_TAMING_TARGETS = ("taming.models.vqgan.VQModel", "taming.models.vqgan.GumbelVQ")
_LLAMAGEN = r"(.*/)?vq_ds\d+\w*\.pt"  # such as vq_ds16_c2i.pt
_BLOCK = {"norm1": squeeze, "conv1": convolution, "norm2": squeeze, "conv2": convolution}
_BLOCK |= {"nin_shortcut": convolution}
_ATTENTION = {"norm": squeeze} | dict.fromkeys(("q", "k", "v", "proj_out"), convolution)
_WEIGHT = {convolution: "kernel", squeeze: "scale"}


def _flax_table() -> Table:
    parts = {"conv_in": convolution, "norm_out": squeeze, "conv_out": convolution}
    for place, names in (("block_1", _BLOCK), ("attn_1", _ATTENTION), ("block_2", _BLOCK)):
        parts |= {f"mid/{place}/{name}": op for name, op in names.items()}
    for level in ("down", "up"):
        for place, names in (("block", _BLOCK), ("attn", _ATTENTION)):
            parts |= {f"{level}_{{i}}/{place}_{{j}}/{name}": op for name, op in names.items()}
        parts[f"{level}_{{i}}/{level}sample/conv"] = convolution
    layers = {f"{side}/{name}": op for side in ("encoder", "decoder") for name, op in parts.items()}
    layers |= {"quant_conv": convolution, "post_quant_conv": convolution}
    rules = [Rule("quantize.embedding.weight", ("quantize/embedding/embedding",))]
    for name, op in layers.items():
        target = name.replace("_{i}", ".{i}").replace("_{j}", ".{j}").replace("/", ".")
        rules += [
            Rule(f"{target}.weight", (f"{name}/{_WEIGHT[op]}",), op),
            Rule(f"{target}.bias", (f"{name}/bias",), squeeze),
        ]
    return rules


FLAX_TABLE = _flax_table()


class VQGANJax:
    """The Flax folder of a VQGAN, as used by DALL-E Mini."""

    name = "vqgan-jax (Flax)"
    component: Component = "vqgan"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return configuration and weights; the configuration is checked already."""
        weights = flax_files(source)
        if weights is None:
            return None
        config = fetch_json(source)
        if config is None:
            return weights
        _translate(config, origin=source.name)
        return (CONFIG_NAME, *weights)

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model; without a configuration its sizes are told by the shapes."""
        tensors = assemble(read_flax_files(paths), FLAX_TABLE, origin=source.name)
        found = fetch_json(source)
        if found is None:
            config = infer_vqgan(tensors, origin=source.name)
        else:
            config = _translate(found, origin=source.name)
        config["value_range"] = [0.0, 1.0]
        return LazyCheckpoint(config, tensors)


class Taming:
    """A checkpoint of taming-transformers, with its YAML file, of ruDALL-E, or of LlamaGen."""

    name = "taming-transformers"
    component: Component = "vqgan"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the checkpoint, and the YAML file where there is one."""
        checkpoint = _checkpoint_name(source)
        if checkpoint is None:
            return None
        config = _yaml_name(source, checkpoint)
        if config is None:
            return (checkpoint,)
        _read_yaml(source.fetch([config])[config], origin=source.name)
        return (checkpoint, config)

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model; without a YAML file its sizes are told by the shapes."""
        configs = {name: path for name, path in paths.items() if _is_yaml(name)}
        (checkpoint,) = (path for name, path in paths.items() if name not in configs)
        stored = read_weights(checkpoint)
        family = find_family(stored)
        tensors = assemble(stored, family.table, origin=source.name)
        if configs:
            config = _read_yaml(*configs.values(), origin=source.name)
        else:
            config = infer_vqgan(tensors, origin=source.name)
        return LazyCheckpoint({**config, **family.fields, "value_range": [-1.0, 1.0]}, tensors)


def _checkpoint_name(source: Source) -> str | None:
    """Return the selected file, `last.ckpt`, the only `.ckpt`, or safetensors beside a YAML."""
    files = source.files()
    with_yaml = any(map(_is_yaml, files)) and CONFIG_NAME not in files
    endings = (".ckpt", ".pt", ".pth", *((".bin", ".safetensors") if with_yaml else ()))
    if source.selected is not None:
        return source.selected if source.selected.endswith(endings) else None
    for pattern in (r".*\.ckpt", *((r".*\.safetensors",) if with_yaml else ()), _LLAMAGEN):
        names = [name for name in files if re.fullmatch(pattern, name)]
        usual = ("last.ckpt", WEIGHTS_FILE)
        names = [name for name in names if PurePosixPath(name).name in usual] or names
        if len(names) > 1:
            raise CheckpointError(
                f"{source.name} has several checkpoints: {show_names(names)}. Name one of them."
            )
        if names:
            return names[0]
    return None


def _yaml_name(source: Source, checkpoint: str) -> str | None:
    """Return `model.yaml`, or the YAML file named like the checkpoint, or the only one."""
    names = [name for name in source.files() if _is_yaml(name)]
    for stem in ("model", PurePosixPath(checkpoint).stem):
        if found := [name for name in names if PurePosixPath(name).stem == stem]:
            return found[0]
    return names[0] if len(names) == 1 else None


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _read_yaml(path: Path, *, origin: str) -> dict[str, Any]:
    """Read the configuration of a taming run: of a VQGAN, or of a model that contains one.

    Raises:
        ConfigError: the file is not YAML, or describes no model.
        UnsupportedModelError: it describes another model.
    """
    model = section(read_yaml(path), "model", origin=str(path))
    params = section(model, "params", origin=str(path))
    if "first_stage_config" in params:  # of a transformer over the codes of a VQGAN
        model = section(params, "first_stage_config", origin=str(path))
        params = section(model, "params", origin=str(path))
    if not isinstance(params.get("ddconfig"), dict):
        raise ConfigError(f"{path} has no model.params.ddconfig. Use the YAML file of a VQGAN.")
    target = model.get("target", _TAMING_TARGETS[0])
    if target not in _TAMING_TARGETS:
        raise UnsupportedModelError(
            f"{origin} is a {show(target)[1:-1]}, but only {' and '.join(_TAMING_TARGETS)} are "
            "supported."
        )
    flat = {key: value for key, value in params.items() if key != "ddconfig"}
    return _translate(flat | params["ddconfig"], origin=origin)


def _translate(config: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Turn the configuration of vqgan-jax or taming into the fields of a `VQGANConfig`.

    Raises:
        UnsupportedModelError: it asks for an architecture that is not modelled.
        CheckpointError: it belongs to another part of the pipeline.
        ConfigError: a size is not a whole number.
    """
    refuse_other_component(config, "vqgan", origin)
    refuse_values(config, _ARCHITECTURE, origin=origin, model="the released VQGAN")
    known = (_SIZES, _LISTS, _ARCHITECTURE, _INERT, TRANSFORMERS_INERT)
    account(config, *known, origin=origin, what="its configuration")
    fields: dict[str, Any] = {
        key: whole_number(config, key, default, origin=origin) for key, default in _SIZES.items()
    }
    for key, default in _LISTS.items():
        value = config.get(key, default)
        if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
            raise ConfigError(
                f"{origin}: {key} must be a list of whole numbers, not {show(value)}."
            )
        if len(value) > MOST_LAYERS:
            raise ConfigError(f"{origin}: {key} has {len(value)} numbers, too many for a model.")
        fields[key] = [whole_number({key: item}, key, 0, origin=origin) for item in value]
    levels = config.get("num_resolutions", len(fields["ch_mult"]))
    if levels != len(fields["ch_mult"]) or not fields["ch_mult"]:
        raise ConfigError(
            f"{origin}: num_resolutions is {show(levels)}, but ch_mult is "
            f"{show(fields['ch_mult'])}."
        )
    return {**fields, "has_encoder": True}
