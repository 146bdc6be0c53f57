"""Upscalers: the files of Real-ESRGAN, and ncnn's form of the same networks.

Sources: github.com/xinntao/Real-ESRGAN (`.pth` with `params` or `params_ema`) and the format of
github.com/Tencent/ncnn (`.param`, a list of layers as text, beside `.bin`, their weights one after
the other).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import CheckpointError
from .lazy import LazyTensor

PREFIX = "network."

_MAGIC = "7767517"
_HALF, _FLOAT = 0x01306B47, 0  # what stands before the weights of a convolution
_LARGEST_LIST = 4_000_000  # bytes of a list of layers; the longest that is known has 120,000
_WEIGHTED = ("Convolution", "PReLU")
_BLOCK = [f"rdb{block}.conv{number}" for block in (1, 2, 3) for number in (1, 2, 3, 4, 5)]
_ENDS = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")


def infer_config(tensors: Mapping[str, LazyTensor], *, origin: str) -> dict[str, Any]:
    """Tell the sizes of an upscaler by its tensors, which have the names of the released files.

    Raises:
        CheckpointError: they are not those of a Real-ESRGAN network.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    try:
        if "conv_first.weight" in shapes:
            width, folded = shapes["conv_first.weight"][:2]
            blocks = _count(shapes, r"body\.(\d+)\.rdb1\.conv1\.weight")
            scale = {3: 4, 12: 2, 48: 1}[folded]
            growth = shapes["body.0.rdb1.conv1.weight"][0]
            return {
                "architecture": "rrdb",
                "scale": scale,
                "width": width,
                "blocks": blocks,
                "growth": growth,
            }
        layers = _count(shapes, r"body\.(\d+)\.weight")
        outputs, width = shapes[f"body.{layers - 1}.weight"][:2]
        scale = math.isqrt(outputs // 3)
        if layers < 5 or layers % 2 == 0 or outputs != 3 * scale**2:
            raise KeyError
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{origin} is not an upscaler of Real-ESRGAN: neither its compact network nor the one "
            "of residual dense blocks has tensors of these names and shapes."
        ) from error
    return {"architecture": "compact", "scale": scale, "width": width, "blocks": (layers - 3) // 2}


def read_ncnn(param: Path) -> dict[str, LazyTensor]:
    """Describe the tensors of an ncnn model by the names of the released files.

    Args:
        param: the list of layers; the weights lie beside it, with the ending `.bin`.

    Raises:
        CheckpointError: the files are damaged, do not belong together, or hold another network.
    """
    layers = list(_read_layers(param))
    binary = param.with_suffix(".bin")
    try:
        content = np.memmap(binary, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{binary} cannot be read beside {param.name}: {error}.") from error
    names = _names(layers, origin=str(param))
    tensors: dict[str, LazyTensor] = {}
    place = 0
    for layer, name in zip(layers, names, strict=True):
        for tensor in _read_weights(layer, name, content, place):
            tensors[tensor.name] = tensor
        place += layer.nbytes(content, place)
        if place > len(content):
            raise CheckpointError(f"{binary} ends within {name}; download it again.")
    if place != len(content):
        raise CheckpointError(
            f"{binary} has {len(content):,} bytes, but {param.name} describes {place:,}; use files "
            "that belong together."
        )
    return tensors


@dataclass(frozen=True)
class _Layer:
    """A layer with weights: a convolution of 3x3, or the slopes of a rectifier."""

    kind: str
    outputs: int
    weights: int

    def nbytes(self, content: np.ndarray[Any, Any], place: int) -> int:
        if self.kind == "PReLU":
            return 4 * self.outputs
        tag = int.from_bytes(content[place : place + 4].tobytes(), "little")
        size = {_HALF: (2 * self.weights + 3) // 4 * 4, _FLOAT: 4 * self.weights}.get(tag)
        if size is None:
            raise CheckpointError(
                f"An ncnn model holds weights of kind {tag:#010x}; only float16 and float32 are "
                "read."
            )
        return 4 + size + 4 * self.outputs


def _read_layers(param: Path) -> Iterator[_Layer]:
    try:
        with param.open("rb") as file:
            lines = file.read(_LARGEST_LIST + 1).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{param} cannot be read as ncnn's list of layers.") from error
    if not lines or lines[0].strip() != _MAGIC:
        raise CheckpointError(f"{param} is not ncnn's list of layers: it begins otherwise.")
    for line in lines[2:]:
        words = line.split()
        if not words or words[0] not in _WEIGHTED:
            continue
        values = dict(re.findall(r"\b(\d{1,2})=(\d{1,9})\b", line))
        outputs, weights = int(values.get("0", 0)), int(values.get("6", 0))
        square = words[0] == "PReLU" or (
            values.get("1") == "3" and weights % (9 * outputs or 1) == 0
        )
        if outputs < 1 or not square:
            raise CheckpointError(f"{param} has a layer that no upscaler has: {line[:80]!r}.")
        yield _Layer(words[0], outputs, weights)


def _names(layers: list[_Layer], *, origin: str) -> list[str]:
    """Name the layers by their order: a chain, or the blocks of the larger network."""
    if any(layer.kind == "PReLU" for layer in layers):
        return [f"body.{number}" for number in range(len(layers))]
    blocks, rest = divmod(len(layers) - 1 - len(_ENDS), len(_BLOCK))
    if rest or blocks < 1:
        raise CheckpointError(
            f"{origin} has {len(layers)} convolutions, which is not the number of an upscaler of "
            "Real-ESRGAN."
        )
    inside = [f"body.{block}.{name}" for block in range(blocks) for name in _BLOCK]
    return ["conv_first", *inside, *_ENDS]


def _read_weights(
    layer: _Layer, name: str, content: np.ndarray[Any, Any], place: int
) -> Iterator[LazyTensor]:
    if layer.kind == "PReLU":
        yield _lazy(f"{name}.weight", (layer.outputs,), content, place, np.float32)
        return
    size = layer.nbytes(content, place)
    kind = np.float16 if size < 4 + 4 * layer.weights else np.float32
    shape = (layer.outputs, layer.weights // (9 * layer.outputs), 3, 3)
    yield _lazy(f"{name}.weight", shape, content, place + 4, kind)
    yield _lazy(f"{name}.bias", shape[:1], content, place + size - 4 * layer.outputs, np.float32)


def _lazy(
    name: str, shape: tuple[int, ...], content: np.ndarray[Any, Any], place: int, kind: type[Any]
) -> LazyTensor:
    count = math.prod(shape) * np.dtype(kind).itemsize

    def load() -> torch.Tensor:
        values = content[place : place + count].tobytes()
        array = np.frombuffer(values, kind).astype(np.float32).reshape(shape)
        return torch.from_numpy(array)

    return LazyTensor(name, shape, torch.float32, load)


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    found = [match for name in shapes if (match := re.fullmatch(pattern, name))]
    highest = max(int(match[1][:9]) for match in found)
    if highest >= len(shapes):
        raise ValueError(highest)
    return highest + 1
