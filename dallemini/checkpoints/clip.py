"""CLIP as Hugging Face transformers stores it: `config.json` with safetensors or a pickled file.

Names and defaults are those of `transformers/models/clip` in github.com/huggingface/transformers;
a configuration leaves out what is at its default, which is ViT-B/32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import CONFIG_NAME
from ..errors import UnsupportedModelError
from ..foreign import show
from ..hub.source import Source
from .clip_openai import OPEN_CLIP_SAFE_FILES
from .formats import Component, LazyCheckpoint, fetch_json, pick, read_weights
from .lazy import scalar
from .rules import Ignore, Rule, Table, assemble
from .safetensors_file import WEIGHTS_FILE
from .settings import (
    TRANSFORMERS_INERT,
    account,
    number,
    refuse_other_component,
    refuse_values,
    section,
    whole_number,
)

PREPROCESSOR_FILE = "preprocessor_config.json"
_PICKLED_FILE = "pytorch_model.bin"
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
_LEGACY_EOS = 2  # a wrong id in the released files; transformers then pools at the highest id

_TEXT = {  # the name in text_config: the name here, and the default
    "vocab_size": ("vocab_size", 49408),
    "hidden_size": ("text_width", 512),
    "intermediate_size": ("text_mlp_dim", 2048),
    "num_hidden_layers": ("text_layers", 12),
    "num_attention_heads": ("text_heads", 8),
    "max_position_embeddings": ("context_length", 77),
    "eos_token_id": ("eos_token_id", 49407),
    "pad_token_id": ("pad_token_id", 1),
}
_VISION = {
    "hidden_size": ("vision_width", 768),
    "intermediate_size": ("vision_mlp_dim", 3072),
    "num_hidden_layers": ("vision_layers", 12),
    "num_attention_heads": ("vision_heads", 12),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 32),
}
_SHARED = {"hidden_act": ("activation", "quick_gelu"), "layer_norm_eps": ("layer_norm_eps", 1e-5)}
_ROOT = ("projection_dim", "text_config", "vision_config", "text_config_dict", "vision_config_dict")
_ROOT_INERT = ("model_type", "logit_scale_init_value", "initializer_factor")
_TOWER_INERT = ("projection_dim",)  # that of the whole model counts
_TEXT_ARCHITECTURE = {"model_type": "clip_text_model", "pruned_heads": {}}
_VISION_ARCHITECTURE = {
    "model_type": "clip_vision_model",
    "pruned_heads": {},
    "num_channels": 3,
}

_PREPROCESSING = {  # the only values that this library computes; each is also the default
    "resample": _BICUBIC,
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_convert_rgb": True,
    "do_pad": False,
    "default_to_square": False,
    "use_square_size": False,
}
_PREPROCESSORS = ("CLIPFeatureExtractor", "CLIPImageProcessor", "CLIPImageProcessorFast")
_PREPROCESSING_READ: tuple[str, ...] = (
    "image_mean",
    "image_std",
    "size",
    "crop_size",
    "rescale_factor",
)
_PREPROCESSING_READ += ("image_processor_type", "feature_extractor_type")
_PREPROCESSING_INERT: tuple[str, ...] = (
    "_name_or_path",
    "_valid_processor_keys",
    "data_format",
    "device",
)
_PREPROCESSING_INERT += (
    "disable_grouping",
    "input_data_format",
    "processor_class",
    "return_tensors",
)


def _table() -> Table:
    rules: list[Rule | Ignore] = [
        Rule("logit_scale", ("logit_scale",), scalar),
        Rule("text.projection.weight", ("text_projection.weight",)),
        Rule("vision.projection.weight", ("visual_projection.weight",)),
        Rule("vision.class_embedding", ("vision_model.embeddings.class_embedding",)),
        Rule("vision.pre_norm.{rest}", ("vision_model.pre_layrnorm.{rest}",)),  # sic
        Rule("vision.post_norm.{rest}", ("vision_model.post_layernorm.{rest}",)),
        Rule("text.final_norm.{rest}", ("text_model.final_layer_norm.{rest}",)),
        Ignore(r"(text|vision)_model\.embeddings\.position_ids", "a range of numbers"),
    ]
    for tower, embeddings in (
        ("text", ("token_embedding", "position_embedding")),
        ("vision", ("patch_embedding", "position_embedding")),
    ):
        for name in embeddings:
            source = f"{tower}_model.embeddings.{name}.weight"
            rules.append(Rule(f"{tower}.{name}.weight", (source,)))
        layer, here = f"{tower}_model.encoder.layers.{{i}}", f"{tower}.layers.{{i}}"
        for part in ("weight", "bias"):
            fused = tuple(f"{layer}.self_attn.{x}_proj.{part}" for x in "qkv")
            rules.append(Rule(f"{here}.attn.qkv_proj.{part}", fused))
        rules += [
            Rule(f"{here}.attn.out_proj.{{rest}}", (f"{layer}.self_attn.out_proj.{{rest}}",)),
            Rule(f"{here}.norm1.{{rest}}", (f"{layer}.layer_norm1.{{rest}}",)),
            Rule(f"{here}.norm2.{{rest}}", (f"{layer}.layer_norm2.{{rest}}",)),
            Rule(f"{here}.mlp.{{rest}}", (f"{layer}.mlp.{{rest}}",)),
        ]
    return rules


TABLE = _table()


class HuggingFaceCLIP:
    """A CLIPModel of transformers; safetensors are preferred to the pickled file."""

    name = "CLIP (transformers)"
    component: Component = "clip"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return configuration, weights, and the preprocessor's settings where there are some."""
        weights = pick(source, (WEIGHTS_FILE, _PICKLED_FILE))
        names = source.files()
        if weights is None or CONFIG_NAME not in names:
            return None
        if weights == _PICKLED_FILE and set(names).intersection(OPEN_CLIP_SAFE_FILES):
            return None  # the same model lies there in a safer format
        config = fetch_json(source) or {}
        refuse_other_component(config, "clip", source.name)
        if config.get("model_type") != "clip":
            return None
        _translate(config, {}, origin=source.name)
        extra = (PREPROCESSOR_FILE,) if PREPROCESSOR_FILE in names else ()
        return (CONFIG_NAME, weights, *extra)

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the model."""
        (weights,) = (path for name, path in paths.items() if not name.endswith(".json"))
        tensors = assemble(read_weights(weights), TABLE, origin=source.name)
        preprocessor = fetch_json(source, PREPROCESSOR_FILE) or {}
        config = _translate(fetch_json(source) or {}, preprocessor, origin=source.name)
        return LazyCheckpoint(config, tensors)


def _translate(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any], *, origin: str
) -> dict[str, Any]:
    """Turn the configurations of transformers into the fields of a `CLIPConfig`.

    Raises:
        UnsupportedModelError: they ask for an architecture that is not modelled.
        ConfigError: a size is not a whole number.
    """
    account(config, _ROOT, _ROOT_INERT, TRANSFORMERS_INERT, origin=origin, what=CONFIG_NAME)
    text = _tower(config, "text_config", (_TEXT, _TEXT_ARCHITECTURE), origin=origin)
    vision = _tower(config, "vision_config", (_VISION, _VISION_ARCHITECTURE), origin=origin)
    fields: dict[str, Any] = {
        "embed_dim": whole_number(config, "projection_dim", 512, origin=origin)
    }
    for tower, names in ((text, _TEXT), (vision, _VISION)):
        for key, (name, default) in names.items():
            fields[name] = whole_number(tower, key, default, origin=origin)
    for key, (name, standard) in _SHARED.items():
        values = text.get(key, standard), vision.get(key, standard)
        if values[0] != values[1]:
            raise UnsupportedModelError(
                f"{origin} has {key} {show(values[0])} for text and {show(values[1])} for "
                "pictures, but only one value for both is supported."
            )
        fields[name] = values[0]
    if fields["activation"] not in ("quick_gelu", "gelu"):
        raise UnsupportedModelError(
            f"{origin} has hidden_act {show(fields['activation'])}, but only 'quick_gelu' and "
            "'gelu' are supported."
        )
    legacy = fields["eos_token_id"] == _LEGACY_EOS
    fields["pooling"] = "argmax" if legacy else "first_eos"
    if legacy:
        fields["eos_token_id"] = fields["vocab_size"] - 1
    return fields | _preprocessing(preprocessor, fields["image_size"], origin=origin)


def _tower(
    config: Mapping[str, Any], key: str, known: tuple[Mapping[str, Any], ...], *, origin: str
) -> Mapping[str, Any]:
    """Return the settings of one tower, every key accounted for."""
    # Older files repeat a tower's settings under this name, and there they win.
    repeated = section(config, f"{key}_dict", origin=origin)
    values = repeated or section(config, key, origin=origin)
    account(values, *known, _SHARED, _TOWER_INERT, TRANSFORMERS_INERT, origin=origin, what=key)
    refuse_values(values, known[1], origin=origin, model="CLIP")
    ids = ("eos_token_id", "pad_token_id")  # null where the default is meant
    return {name: value for name, value in values.items() if value is not None or name not in ids}


def _preprocessing(settings: Mapping[str, Any], image_size: int, *, origin: str) -> dict[str, Any]:
    """Return mean and deviation, after everything else was found to be what is computed here."""
    known = (_PREPROCESSING, _PREPROCESSING_READ, _PREPROCESSING_INERT)
    account(settings, *known, origin=origin, what=PREPROCESSOR_FILE)
    given = {key: value for key, value in settings.items() if value is not None}
    refuse_values(given, _PREPROCESSING, origin=origin, model="CLIP's preprocessing")
    for key in ("image_processor_type", "feature_extractor_type"):
        if given.get(key, _PREPROCESSORS[0]) not in _PREPROCESSORS:
            raise UnsupportedModelError(
                f"{origin} has {key} {show(given[key])}, but only {', '.join(_PREPROCESSORS)} are "
                "supported."
            )
    sizes = {
        "size": ({"shortest_edge": image_size}, image_size),
        "crop_size": ({"height": image_size, "width": image_size}, image_size),
    }
    for key, fitting in sizes.items():
        if given.get(key, image_size) not in fitting:
            raise UnsupportedModelError(
                f"{origin} has {key} {show(given[key])}, but only the model's image_size "
                f"{image_size} is supported."
            )
    if abs(number(given, "rescale_factor", 1 / 255, origin=origin) - 1 / 255) > 1e-6:
        raise UnsupportedModelError(
            f"{origin} has rescale_factor {show(given['rescale_factor'])}, but only 1/255 is "
            "supported."
        )
    return {key: given[key] for key in ("image_mean", "image_std") if key in given}
