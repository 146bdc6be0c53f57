"""Which tensors a configuration asks for, and which configuration tensors speak of.

`*_shapes` list the native names with their shapes, so that a foreign checkpoint is refused before
it is converted; `infer_*` go the other way for files without a configuration. Knows the names of
the models' parameters but no model: those are built by whoever loads the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..config import MOST_LAYERS
from ..errors import CheckpointError
from .lazy import LazyTensor

Shapes = dict[str, tuple[int, ...]]

HEAD_WIDTH = 64
"""Width of an attention head in every released checkpoint; nothing in the weights tells it."""

RELEASED_CODES = 16384
"""Codes of the released VQGAN; the released transformers start from this id."""


def transformer_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the tensors of a `TransformerConfig`."""
    width, rows = config["d_model"], config["image_vocab_size"] + 1
    shapes: Shapes = {"lm_head.weight": (rows, width)}
    sides = {
        "encoder": (config["text_vocab_size"], config["max_text_length"]),
        "decoder": (rows, config["image_length"]),
    }
    for side, (vocabulary, positions) in sides.items():
        shapes[f"{side}.embed_tokens.weight"] = (vocabulary, width)
        shapes[f"{side}.embed_positions.weight"] = (positions, width)
        shapes |= _norm(f"{side}.layernorm_embedding", width)
        shapes[f"{side}.final_norm.bias"] = (width,)
        for index in range(config[f"{side}_layers"]):
            prefix, ffn = f"{side}.layers.{index}", config[f"{side}_ffn_dim"]
            shapes[f"{prefix}.self_attn_norm.bias"] = (width,)
            shapes[f"{prefix}.self_attn.qkv_proj.weight"] = (3 * width, width)
            shapes[f"{prefix}.self_attn.out_proj.weight"] = (width, width)
            shapes |= _norm(f"{prefix}.self_attn_post_norm", width)
            if side == "decoder":
                shapes[f"{prefix}.cross_attn_norm.bias"] = (width,)
                shapes[f"{prefix}.cross_attn.q_proj.weight"] = (width, width)
                shapes[f"{prefix}.cross_attn.kv_proj.weight"] = (2 * width, width)
                shapes[f"{prefix}.cross_attn.out_proj.weight"] = (width, width)
                shapes |= _norm(f"{prefix}.cross_attn_post_norm", width)
            shapes[f"{prefix}.glu.norm_in.bias"] = (width,)
            shapes[f"{prefix}.glu.in_proj.weight"] = (2 * ffn, width)
            shapes[f"{prefix}.glu.norm_mid.bias"] = (ffn,)
            shapes[f"{prefix}.glu.out_proj.weight"] = (width, ffn)
    return shapes


def infer_transformer(
    tensors: Mapping[str, LazyTensor], *, origin: str, heads_known: bool = False
) -> dict[str, Any]:
    """Return the `TransformerConfig` fields that the shapes of native tensors speak of.

    Heads are taken to be 64 wide, for no shape tells their number; `heads_known` says that it does
    not matter. The start token is 16384, as in every released checkpoint, where the vocabulary has
    that id.

    Raises:
        CheckpointError: a tensor that tells a size is missing, or the width does not divide by 64.
    """
    rows, width = shape_of(tensors, "decoder.embed_tokens.weight", 2, origin=origin)
    if width % HEAD_WIDTH and not heads_known:
        raise CheckpointError(
            f"{origin} has no config.json that tells its attention heads, and its width {width} is "
            f"not a multiple of {HEAD_WIDTH}. Put the DalleBart config.json beside the weights."
        )
    config: dict[str, Any] = {
        "text_vocab_size": shape_of(tensors, "encoder.embed_tokens.weight", 2, origin=origin)[0],
        "image_vocab_size": rows - 1,
        "image_length": shape_of(tensors, "decoder.embed_positions.weight", 2, origin=origin)[0],
        "max_text_length": shape_of(tensors, "encoder.embed_positions.weight", 2, origin=origin)[0],
        "d_model": width,
        "decoder_start_token_id": min(rows - 1, RELEASED_CODES),
        "scale_embedding": False,
    }
    for side in ("encoder", "decoder"):
        config[f"{side}_layers"] = count(tensors, rf"{side}\.layers\.(\d+)\..*", origin=origin)
        config[f"{side}_attention_heads"] = width // HEAD_WIDTH
        norm = shape_of(tensors, f"{side}.layers.0.glu.norm_mid.bias", 1, origin=origin)
        config[f"{side}_ffn_dim"] = norm[0]
    return config


def vqgan_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the tensors of a `VQGANConfig` without `pixel_shuffle`."""
    latent, code = config["z_channels"], config["embed_dim"]
    shapes: Shapes = {"quantize.embedding.weight": (config["n_embed"], code)}
    shapes |= _conv("post_quant_conv", code, latent, 1)
    shapes |= _vqgan_side("decoder", config)
    if config["has_encoder"]:
        shapes |= _conv("quant_conv", latent, code, 1)
        shapes |= _vqgan_side("encoder", config)
    return shapes


def _vqgan_side(side: str, config: Mapping[str, Any]) -> Shapes:
    """List one half; the decoder runs from the deepest level to level 0 and has a block more."""
    decodes = side == "decoder"
    widths = [config["ch"] * factor for factor in config["ch_mult"]]
    levels, deepest, latent = len(widths), widths[-1], config["z_channels"]
    first = (latent, deepest) if decodes else (config["in_channels"], config["ch"])
    shapes = _conv(f"{side}.conv_in", *first, 3)
    shapes |= _resnet_block(f"{side}.mid.block_1", deepest, deepest)
    shapes |= _attention(f"{side}.mid.attn_1", deepest)
    shapes |= _resnet_block(f"{side}.mid.block_2", deepest, deepest)
    width = deepest if decodes else config["ch"]
    for level in reversed(range(levels)) if decodes else range(levels):
        prefix = f"{side}.{'up' if decodes else 'down'}.{level}"
        for block in range(config["num_res_blocks"] + decodes):
            shapes |= _resnet_block(f"{prefix}.block.{block}", width, widths[level])
            width = widths[level]
            if config["resolution"] // 2**level in config["attn_resolutions"]:
                shapes |= _attention(f"{prefix}.attn.{block}", width)
        if level != (0 if decodes else levels - 1):
            resample = "upsample" if decodes else "downsample"
            shapes |= _conv(f"{prefix}.{resample}.conv", width, width, 3)
    shapes |= _norm(f"{side}.norm_out", width)
    return shapes | _conv(f"{side}.conv_out", width, config["out_ch"] if decodes else latent, 3)


def infer_vqgan(tensors: Mapping[str, LazyTensor], *, origin: str) -> dict[str, Any]:
    """Return the `VQGANConfig` fields that the shapes of native tensors speak of.

    Where attention sits is told by the tensors; the resolution it is written down for is not, and
    is taken to be 256.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
    """
    resolution, has_encoder = 256, any(name.startswith("encoder.") for name in tensors)
    codes, width = shape_of(tensors, "quantize.embedding.weight", 2, origin=origin)
    levels = count(tensors, r"decoder\.up\.(\d+)\..*", origin=origin)
    widths = [
        shape_of(tensors, f"decoder.up.{level}.block.0.conv1.weight", 4, origin=origin)[0]
        for level in range(levels)
    ]
    # A decoder alone does not tell `ch` from the first multiplier, which is 1 in every release.
    first = "encoder.conv_in.weight" if has_encoder else "decoder.up.0.block.0.conv1.weight"
    channels = shape_of(tensors, first, 4, origin=origin)[0]
    attention = [
        level for level in range(levels) if f"decoder.up.{level}.attn.0.norm.weight" in tensors
    ]
    pixels = shape_of(tensors, first, 4, origin=origin)[1] if has_encoder else 3
    return {
        "ch": channels,
        "ch_mult": [width // channels for width in widths],
        "num_res_blocks": count(tensors, r"decoder\.up\.0\.block\.(\d+)\..*", origin=origin) - 1,
        "attn_resolutions": [resolution // 2**level for level in attention],
        "resolution": resolution,
        "in_channels": pixels,
        "out_ch": shape_of(tensors, "decoder.conv_out.weight", 4, origin=origin)[0],
        "z_channels": shape_of(tensors, "decoder.conv_in.weight", 4, origin=origin)[1],
        "embed_dim": width,
        "n_embed": codes,
        "has_encoder": has_encoder,
    }


def clip_shapes(config: Mapping[str, Any]) -> Shapes:
    """Return the tensors of a `CLIPConfig`."""
    text, vision, shared = config["text_width"], config["vision_width"], config["embed_dim"]
    patch, patches = config["patch_size"], (config["image_size"] // config["patch_size"]) ** 2
    shapes: Shapes = {
        "logit_scale": (),
        "text.token_embedding.weight": (config["vocab_size"], text),
        "text.position_embedding.weight": (config["context_length"], text),
        "text.projection.weight": (shared, text),
        "vision.class_embedding": (vision,),
        "vision.patch_embedding.weight": (vision, 3, patch, patch),
        "vision.position_embedding.weight": (patches + 1, vision),
        "vision.projection.weight": (shared, vision),
    }
    shapes |= _norm("text.final_norm", text)
    shapes |= _norm("vision.pre_norm", vision) | _norm("vision.post_norm", vision)
    for tower, width in (("text", text), ("vision", vision)):
        for index in range(config[f"{tower}_layers"]):
            prefix, inner = f"{tower}.layers.{index}", config[f"{tower}_mlp_dim"]
            shapes |= _norm(f"{prefix}.norm1", width) | _norm(f"{prefix}.norm2", width)
            shapes |= _linear(f"{prefix}.attn.qkv_proj", width, 3 * width)
            shapes |= _linear(f"{prefix}.attn.out_proj", width, width)
            shapes |= _linear(f"{prefix}.mlp.fc1", width, inner)
            shapes |= _linear(f"{prefix}.mlp.fc2", inner, width)
    return shapes


def shape_of(
    tensors: Mapping[str, LazyTensor], name: str, axes: int, *, origin: str
) -> tuple[int, ...]:
    """Return the shape of a tensor that tells a size.

    Raises:
        CheckpointError: there is no such tensor, or it has another number of axes.
    """
    if name not in tensors:
        raise CheckpointError(
            f"{origin} lacks the tensor that becomes {name!r}. It belongs to another model, or the "
            "download is incomplete."
        )
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise CheckpointError(
            f"{origin}: {tensors[name].name!r} has the shape {shape}, but {name!r} has {axes} axes."
            " It belongs to another model."
        )
    return shape


def count(tensors: Mapping[str, LazyTensor], pattern: str, *, origin: str) -> int:
    """Return how many numbers the group of a pattern takes, from 0 on.

    Raises:
        CheckpointError: there is none, or a number is higher than any layer's.
    """
    found = {match[1] for name in tensors if (match := re.fullmatch(pattern, name))}
    if not found:
        raise CheckpointError(
            f"{origin} has no tensors like {pattern}. It belongs to another model."
        )
    highest = max(found, key=lambda digits: (len(digits), digits))
    if len(highest) > 6 or int(highest) >= MOST_LAYERS:
        raise CheckpointError(
            f"{origin} numbers its layers up to {highest[:20]}, but no model has more than "
            f"{MOST_LAYERS}. It is damaged; download it again."
        )
    return int(highest) + 1


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, width_in: int, width_out: int) -> Shapes:
    return {f"{name}.weight": (width_out, width_in), f"{name}.bias": (width_out,)}


def _conv(name: str, width_in: int, width_out: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (width_out, width_in, kernel, kernel), f"{name}.bias": (width_out,)}


def _resnet_block(name: str, width_in: int, width_out: int) -> Shapes:
    shapes = _norm(f"{name}.norm1", width_in) | _conv(f"{name}.conv1", width_in, width_out, 3)
    shapes |= _norm(f"{name}.norm2", width_out) | _conv(f"{name}.conv2", width_out, width_out, 3)
    if width_in != width_out:
        shapes |= _conv(f"{name}.nin_shortcut", width_in, width_out, 1)
    return shapes


def _attention(name: str, width: int) -> Shapes:
    shapes = _norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.{part}", width, width, 1)
    return shapes
