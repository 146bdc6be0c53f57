"""Whether tensors are those that a configuration asks for, and which one they speak of.

`check_tensors` compares them with shapes that whoever knows the model gives; `infer_*` tell the
configuration of files that come without one. Knows the names of the models' parameters but no
model: those are built by whoever loads the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .lazy import LazyTensor

Shapes = Mapping[str, tuple[int, ...]]

HEAD_WIDTH = 64
"""Width of an attention head in every released checkpoint; nothing in the weights tells it."""

RELEASED_CODES = 16384
"""Codes of the released VQGAN; the released transformers start from this id."""


def check_tensors(
    tensors: Mapping[str, LazyTensor | Tensor], expected: Shapes, *, origin: str
) -> None:
    """Compare tensors with the names and shapes that a configuration asks for.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape; the message names the
            first ones.
    """
    if problem := find_misfit(tensors, expected):
        raise CheckpointError(
            f"{origin} {problem}. Use the configuration that belongs to these weights, or download "
            "both again."
        )


def find_misfit(tensors: Mapping[str, LazyTensor | Tensor], expected: Shapes) -> str | None:
    """Say what is wrong with tensors, to be read after "model.safetensors"; None if they fit."""
    if absent := [name for name in expected if name not in tensors]:
        return f"lacks tensors that its configuration asks for ({_some(absent)})"
    if unknown := [name for name in tensors if name not in expected]:
        return f"has unknown tensors that its configuration does not ask for ({_some(unknown)})"
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            stored = tensor.name if isinstance(tensor, LazyTensor) else name
            known = name if stored == name else f"{name} (from {stored!r})"
            found = tuple(tensor.shape)
            return f"holds {known} with shape {found}, but its configuration asks for {shape}"
    return None


def _some(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


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
    if len(shape) != axes:
        raise CheckpointError(
            f"{origin}: {tensors[name].name!r} has the shape {shape}, but {name!r} has {axes} axes."
            " It belongs to another model."
        )
    return shape


def count(tensors: Mapping[str, LazyTensor], pattern: str, *, origin: str) -> int:
    """Return how many numbers the group of a pattern takes, from 0 on.

    Raises:
        CheckpointError: there is none.
    """
    found = {int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))}
    if not found:
        raise CheckpointError(
            f"{origin} has no tensors like {pattern}. It belongs to another model."
        )
    return max(found) + 1
