"""CLIP as OpenAI stores it, and open_clip with the same names.

OpenAI's `.pt` is a TorchScript archive or a plain state dict without configuration; open_clip's
folder has `open_clip_config.json`. Sources: `clip/model.py` of github.com/openai/CLIP and
`src/open_clip/model.py` of github.com/mlfoundations/open_clip. Only vision transformers are read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, DalleMiniWarning, UnsupportedModelError
from ..foreign import show, show_names
from ..hub.source import Source, list_files
from .formats import Component, LazyCheckpoint, fetch_json, pick, read_weights
from .lazy import LazyTensor, scalar, transpose
from .rules import Ignore, Rule, Table, assemble, known_names
from .settings import (
    account,
    flag,
    number,
    picture_size,
    refuse_values,
    section,
    square_side,
    whole_number,
)
from .shapes import HEAD_WIDTH, count, shape_of
from .wrappers import unwrap

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_SAFE_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_OPEN_CLIP_FILES = (*OPEN_CLIP_SAFE_FILES, "open_clip_pytorch_model.bin")

_NO_VARIANT: dict[str, Any] = {  # the only values that this library computes, also the defaults
    **{"act_kwargs": None, "norm_kwargs": None, "ls_init_value": None, "block_type": None},
    **{"final_ln_after_pool": False, "qk_norm": False, "scaled_cosine_attn": False},
    **{"scale_heads": False, "scale_attn_inner": False, "scale_attn": False, "scale_fc": False},
    **{"output_tokens": False},
}
_VISION = _NO_VARIANT | {
    "timm_model_name": None,
    "attentional_pool": False,
    "global_average_pool": False,
    "input_patchnorm": False,
    "no_ln_pre": False,
    "pool_type": "tok",
    "pos_embed_type": "learnable",
}
_VISION_READ = ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size")
_VISION_INERT: tuple[str, ...] = ("patch_dropout", "attn_pooler_queries", "attn_pooler_heads")
_VISION_INERT += ("timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias")
_VISION_INERT += ("timm_drop", "timm_drop_path")  # of a timm model, which is refused
_TEXT = _NO_VARIANT | {
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_kwargs": None,
    "tokenizer_mode": None,
    "embed_cls": False,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
}
_TEXT_READ = ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio")
_TEXT_INERT = ("pad_id", "eos_id", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type")
_WHOLE = {"custom_text": False, "multimodal_cfg": None, "init_logit_bias": None}
_WHOLE_READ = ("embed_dim", "text_cfg", "vision_cfg", "quick_gelu", "preprocess_cfg", "model_cfg")
_WHOLE_INERT = ("init_logit_scale", "nonscalar_logit_scale", "output_dict", "cast_dtype", "version")
_PREPROCESSING = {"interpolation": "bicubic", "resize_mode": "shortest", "mode": "RGB"}
_PREPROCESSING_READ = ("size", "mean", "std", "fill_color")  # nothing is filled: the rest is cut


def _table() -> Table:
    rules: list[Rule | Ignore] = [
        Rule("logit_scale", ("logit_scale",), scalar),
        Rule("text.token_embedding.weight", ("token_embedding.weight",)),
        Rule("text.position_embedding.weight", ("positional_embedding",)),
        Rule("text.final_norm.{rest}", ("ln_final.{rest}",)),
        Rule("text.projection.weight", ("text_projection",), transpose),
        Rule("vision.class_embedding", ("visual.class_embedding",)),
        Rule("vision.patch_embedding.weight", ("visual.conv1.weight",)),
        Rule("vision.position_embedding.weight", ("visual.positional_embedding",)),
        Rule("vision.pre_norm.{rest}", ("visual.ln_pre.{rest}",)),
        Rule("vision.post_norm.{rest}", ("visual.ln_post.{rest}",)),
        Rule("vision.projection.weight", ("visual.proj",), transpose),
        Ignore("input_resolution|context_length|vocab_size", "told by the shapes"),
        Ignore(
            r"(visual\.|transformer\.)?attn_mask", "the mask of the text, which is always causal"
        ),
    ]
    for tower, stem in (("text", ""), ("vision", "visual.")):
        layer, here = f"{stem}transformer.resblocks.{{i}}", f"{tower}.layers.{{i}}"
        rules += [
            Rule(f"{here}.attn.qkv_proj.{{rest}}", (f"{layer}.attn.in_proj_{{rest}}",)),
            Rule(f"{here}.attn.out_proj.{{rest}}", (f"{layer}.attn.out_proj.{{rest}}",)),
            Rule(f"{here}.norm1.{{rest}}", (f"{layer}.ln_1.{{rest}}",)),
            Rule(f"{here}.norm2.{{rest}}", (f"{layer}.ln_2.{{rest}}",)),
            Rule(f"{here}.mlp.fc1.{{rest}}", (f"{layer}.mlp.c_fc.{{rest}}",)),
            Rule(f"{here}.mlp.fc2.{{rest}}", (f"{layer}.mlp.c_proj.{{rest}}",)),
        ]
    return rules


TABLE = _table()


class OpenAICLIP:
    """One `.pt` file; heads are 64 wide and the activation is quick_gelu, as in all of OpenAI's."""

    name = "CLIP (OpenAI)"
    component: Component = "clip"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the named file, or the only `.pt` file."""
        names = [name for name in source.files() if name.endswith(".pt")]
        if source.selected is not None:
            return (source.selected,) if source.selected in names else None
        if len(names) > 1:
            raise CheckpointError(
                f"{source.name} has several .pt files: {list_files(names, most=8)}. Name one of "
                "them."
            )
        return tuple(names) or None

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model; its sizes are told by the shapes."""
        (path,) = paths.values()
        return _describe(path, None, origin=source.name)


class OpenCLIP:
    """A folder of open_clip; safetensors are preferred to the pickled file."""

    name = "open_clip"
    component: Component = "clip"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return configuration and weights."""
        if OPEN_CLIP_CONFIG not in source.files():
            return None
        weights = _open_clip_weights(source)
        if weights is None:
            return None
        _translate(fetch_json(source, OPEN_CLIP_CONFIG) or {}, origin=source.name)
        return (OPEN_CLIP_CONFIG, weights)

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model."""
        found = fetch_json(source, OPEN_CLIP_CONFIG) or {}
        (path,) = (path for name, path in paths.items() if name != OPEN_CLIP_CONFIG)
        return _describe(path, _translate(found, origin=source.name), origin=source.name)


def _open_clip_weights(source: Source) -> str | None:
    """Return the named file, the released one, or the only one that a training run left."""
    endings = (".pt", ".bin", ".safetensors")
    if source.selected is not None and source.selected.endswith(endings):
        return source.selected
    if released := pick(source, _OPEN_CLIP_FILES):
        return released
    names = [name for name in source.files() if name.endswith(endings) and "/" not in name]
    if len(names) > 1 and source.selected in (None, OPEN_CLIP_CONFIG):
        raise CheckpointError(
            f"{source.name} has several files of weights: {show_names(names)}. Name one of them."
        )
    return next(iter(names), None)


def _describe(path: Path, config: Mapping[str, Any] | None, *, origin: str) -> LazyCheckpoint:
    """Describe a model with its configuration, or without one as OpenAI stores it."""
    tensors = read_weights(path)
    if any(".layer1." in name for name in tensors):
        raise UnsupportedModelError(
            f"{origin} has a ResNet for pictures, but only vision transformers are supported. Use "
            "ViT-B/32 or another ViT."
        )
    prefix, _ = unwrap(tensors, known_names(TABLE), origin=origin)
    if prefix and config is None:
        warnings.warn(
            f"{path.name} holds its weights under {show(prefix)}, which OpenAI's files do not: it "
            "is a checkpoint of training, as open_clip writes it, and does not tell its activation "
            "and its heads. It is read like OpenAI's (quick_gelu, heads 64 wide); if the model has "
            f"others, its features are wrong. Put its {OPEN_CLIP_CONFIG} beside it.",
            DalleMiniWarning,
            stacklevel=2,
        )
    native = assemble(tensors, TABLE, origin=origin)
    fields = {**_infer(native, origin=origin), **(config or {})}
    return LazyCheckpoint(fields, native)


def _infer(tensors: Mapping[str, LazyTensor], *, origin: str) -> dict[str, Any]:
    """Return the `CLIPConfig` fields that shapes speak of, by the rules of OpenAI's files."""
    vocabulary, text = shape_of(tensors, "text.token_embedding.weight", 2, origin=origin)
    patch = shape_of(tensors, "vision.patch_embedding.weight", 4, origin=origin)
    places = shape_of(tensors, "vision.position_embedding.weight", 2, origin=origin)[0]
    fields: dict[str, Any] = {
        "embed_dim": shape_of(tensors, "text.projection.weight", 2, origin=origin)[0],
        "image_size": math.isqrt(places - 1) * patch[3],
        "patch_size": patch[3],
        "context_length": shape_of(tensors, "text.position_embedding.weight", 2, origin=origin)[0],
        "vocab_size": vocabulary,
        "activation": "quick_gelu",
        "pooling": "argmax",
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 0,
        "crop_rounding": "even",
    }
    for tower, width in (("text", text), ("vision", patch[0])):
        layers = count(tensors, rf"{tower}\.layers\.(\d+)\..*", origin=origin)
        inner = shape_of(tensors, f"{tower}.layers.0.mlp.fc1.bias", 1, origin=origin)[0]
        fields |= {f"{tower}_width": width, f"{tower}_layers": layers, f"{tower}_mlp_dim": inner}
        fields[f"{tower}_heads"] = max(1, width // HEAD_WIDTH)  # narrower only in tests
    return fields


def _translate(config: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Turn the configuration of open_clip into fields of a `CLIPConfig`.

    Raises:
        UnsupportedModelError: it asks for an architecture that is not modelled.
        ConfigError: it is incomplete, or a size is not a whole number.
    """
    model = section(config, "model_cfg", origin=origin) if "model_cfg" in config else config
    preprocessing = section(config, "preprocess_cfg", origin=origin)
    if not isinstance(model.get("text_cfg"), dict) or not isinstance(model.get("vision_cfg"), dict):
        raise ConfigError(f"{origin}: {OPEN_CLIP_CONFIG} needs text_cfg and vision_cfg.")
    text, vision = model["text_cfg"], model["vision_cfg"]
    for values, supported, read, what in (
        (config, {}, (*_WHOLE, *_WHOLE_READ, *_WHOLE_INERT), OPEN_CLIP_CONFIG),
        (model, _WHOLE, (*_WHOLE_READ, *_WHOLE_INERT), "model_cfg"),
        (text, _TEXT, (*_TEXT_READ, *_TEXT_INERT), "text_cfg"),
        (vision, _VISION, (*_VISION_READ, *_VISION_INERT), "vision_cfg"),
        (preprocessing, _PREPROCESSING, _PREPROCESSING_READ, "preprocess_cfg"),
    ):
        refuse_values(values, supported, origin=origin, model=f"CLIP ({what})")
        account(values, supported, read, origin=origin, what=what)
    if isinstance(vision.get("layers"), list):
        raise UnsupportedModelError(
            f"{origin} has vision layers {show(vision['layers'])}, a ResNet, but only vision "
            "transformers are supported."
        )
    widths = {
        "text": whole_number(text, "width", 512, origin=origin),
        "vision": whole_number(vision, "width", 768, origin=origin),
    }
    fields: dict[str, Any] = {
        "embed_dim": whole_number(model, "embed_dim", 512, origin=origin),
        "context_length": whole_number(text, "context_length", 77, origin=origin),
        "vocab_size": whole_number(text, "vocab_size", 49408, origin=origin),
        "image_size": picture_size(vision, "image_size", 224, origin=origin),
        "patch_size": whole_number(vision, "patch_size", 16, origin=origin),
        "text_heads": whole_number(text, "heads", 8, origin=origin),
        "vision_heads": widths["vision"]
        // (whole_number(vision, "head_width", 64, origin=origin) or 1),
        "activation": "quick_gelu" if flag(model, "quick_gelu", origin=origin) else "gelu",
    }
    for tower, values in (("text", text), ("vision", vision)):
        fields[f"{tower}_width"] = widths[tower]
        fields[f"{tower}_layers"] = whole_number(values, "layers", 12, origin=origin)
        ratio = number(values, "mlp_ratio", 4.0, origin=origin)
        fields[f"{tower}_mlp_dim"] = int(widths[tower] * ratio)
    own = fields["image_size"]
    read_size: Any = square_side if isinstance(own, int) else picture_size
    if read_size(preprocessing, "size", own, origin=origin) != own:
        raise UnsupportedModelError(
            f"{origin} has size {show(preprocessing['size'])} in preprocess_cfg, but only the "
            f"model's image_size {fields['image_size']} is supported."
        )
    names = {"mean": "image_mean", "std": "image_std"}
    return fields | {
        here: preprocessing[key] for key, here in names.items() if key in preprocessing
    }
