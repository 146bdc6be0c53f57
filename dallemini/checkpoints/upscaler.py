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
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from ..errors import CheckpointError
from ..foreign import check_file, show, show_names
from ..hub.packaged import PACKAGED
from ..hub.source import Source
from .formats import Component, LazyCheckpoint, read_weights
from .lazy import MOST_TENSORS, LazyTensor
from .mapped import Span, as_tensor
from .rules import Rule, Table, assemble
from .shapes import count, shape_of

_ENDS = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
_FOLDED = {3: 4, 12: 2, 48: 1}  # inputs of the first convolution -> scale
TABLE: Table = [
    Rule(f"network.{name}.{{rest}}", (f"{name}.{{rest}}",))
    for name in (
        "conv_first",
        *_ENDS,
        *(f"body.{{i}}.rdb{{j}}.conv{number}" for number in range(1, 6)),
        "body.{i}",
    )
]

_MAGIC = "7767517"
_HALF, _FLOAT = 0x01306B47, 0  # what stands before the weights of a convolution
_LARGEST_LIST = 1 << 20  # bytes of a list of layers; the longest that is known has 120,000
_SQUARE = {"1": "3", "2": "1", "3": "1", "4": "1", "5": "1"}  # 3x3, plain, padded, with biases
_DEFAULTS = {"2": "1", "3": "1", "9": "0"}  # of what a line leaves out
_LINEAR, _RECTIFIER = {"9": "0"}, {"9": "2", "-23310": "1,2.000000e-01"}
_BLOCK = [f"rdb{block}.conv{number}" for block in (1, 2, 3) for number in (1, 2, 3, 4, 5)]
_RECTIFIED = re.compile(r".*rdb\d\.conv[1-4]|conv_up[12]|conv_hr")
_KINDS = {  # which layers there are besides those with weights
    "compact": {"Input", "Split", "PixelShuffle", "Interp", "BinaryOp"},
    "rrdb": {"Input", "Split", "Concat", "Eltwise", "Interp", "BinaryOp"},
}


class RealESRGAN:
    """A `.pth` file of Real-ESRGAN, or the same tensors as safetensors."""

    name = "Real-ESRGAN"
    component: Component = "upscaler"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the file that was named, or the only `.pth` file."""
        if source.selected is not None:
            known = source.selected.endswith((".pth", ".pt", ".safetensors"))
            return (source.selected,) if known else None
        return _only(source, ".pth")

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the network; its sizes are told by the shapes."""
        ((file, path),) = paths.items()
        tensors = assemble(read_weights(path), TABLE, origin=source.name)
        return _described(tensors, source, file)


class NCNN:
    """A list of layers in `.param`, and their weights in `.bin`."""

    name = "Real-ESRGAN (ncnn)"
    component: Component = "upscaler"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return both files: those that were named by one of them, or the only ones."""
        if source.selected is None:
            found = _only(source, ".param")
        else:
            stem, dot, ending = source.selected.rpartition(".")
            found = (f"{stem}{dot}param",) if ending in ("param", "bin") else None
        if not found or found[0] not in source.files():
            return None
        weights = found[0].removesuffix("param") + "bin"
        if weights not in source.files():
            raise CheckpointError(
                f"{source.name} has {found[0]} but no {weights}. Copy or download both."
            )
        return (*found, weights)

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the network by the names of the released `.pth` files."""
        file, weights = paths
        tensors = assemble(read_ncnn(paths[file], paths[weights]), TABLE, origin=source.name)
        return _described(tensors, source, file)


def infer_config(tensors: Mapping[str, LazyTensor], *, origin: str) -> dict[str, Any]:
    """Return the `UpscalerConfig` fields that the shapes of native tensors speak of.

    Raises:
        CheckpointError: they are not those of a Real-ESRGAN network.
    """
    if "network.conv_first.weight" in tensors:
        width, folded = shape_of(tensors, "network.conv_first.weight", 4, origin=origin)[:2]
        first = "network.body.0.rdb1.conv1.weight"
        if folded not in _FOLDED:
            raise _not_one(origin, f"its first convolution takes {folded} channels")
        return {
            "architecture": "rrdb",
            "scale": _FOLDED[folded],
            "width": width,
            "num_blocks": count(tensors, r"network\.body\.(\d+)\.rdb.*", origin=origin),
            "growth": shape_of(tensors, first, 4, origin=origin)[0],
        }
    layers = count(tensors, r"network\.body\.(\d+)\.weight", origin=origin)
    last = shape_of(tensors, f"network.body.{layers - 1}.weight", 4, origin=origin)
    scale = math.isqrt(last[0] // 3)
    if layers < 5 or layers % 2 == 0 or last[0] != 3 * scale**2:
        raise _not_one(origin, f"{layers} layers end in {last[0]} channels")
    sizes = {"scale": scale, "width": last[1], "num_blocks": (layers - 3) // 2}
    return {"architecture": "compact", **sizes}


def read_ncnn(param: Path, binary: Path) -> dict[str, LazyTensor]:
    """Describe the tensors of an ncnn model by the names of the released files.

    Args:
        param: the list of layers.
        binary: their weights.

    Raises:
        MissingFileError: one of them does not exist.
        CheckpointError: they are damaged, do not belong together, or hold another network.
    """
    size = check_file(binary)
    layers = _read_layers(param)
    tensors: dict[str, LazyTensor] = {}
    place = 0
    with binary.open("rb") as file:
        for layer in layers:
            file.seek(place)
            tag = int.from_bytes(file.read(4), "little")
            end = place + layer.nbytes(tag)
            if end > size:
                raise CheckpointError(f"{binary} ends within {layer.name}; download it again.")
            for tensor in layer.tensors(Span(binary, place, end - place), tag):
                tensors[tensor.name] = tensor
            place = end
    if place != size:
        raise CheckpointError(
            f"{binary} has {size:,} bytes, but {param.name} describes {place:,}; use files that "
            "belong together."
        )
    return tensors


@dataclass(frozen=True)
class _Layer:
    """A layer with weights: a convolution of 3x3, or the slopes of a rectifier."""

    name: str
    is_convolution: bool
    outputs: int
    weights: int = 0

    def nbytes(self, tag: int) -> int:
        """Return how many bytes it takes where the first four of them are `tag`."""
        if not self.is_convolution:
            return 4 * self.outputs
        size = {_HALF: (2 * self.weights + 3) // 4 * 4, _FLOAT: 4 * self.weights}.get(tag)
        if size is None:
            raise CheckpointError(
                f"{self.name} of an ncnn model holds weights of kind {tag:#010x}; only float16 and "
                "float32 are read."
            )
        return 4 + size + 4 * self.outputs

    def tensors(self, span: Span, tag: int) -> Iterator[LazyTensor]:
        """Describe what lies in its bytes."""
        if not self.is_convolution:
            yield _lazy(f"{self.name}.weight", (self.outputs,), span, 0, torch.float32)
            return
        dtype = torch.float16 if tag == _HALF else torch.float32
        shape = (self.outputs, self.weights // (9 * self.outputs), 3, 3)
        yield _lazy(f"{self.name}.weight", shape, span, 4, dtype)
        start = span.size - 4 * self.outputs
        yield _lazy(f"{self.name}.bias", shape[:1], span, start, torch.float32)


def _lazy(
    name: str, shape: tuple[int, ...], span: Span, start: int, dtype: torch.dtype
) -> LazyTensor:
    size = math.prod(shape) * dtype.itemsize
    return LazyTensor(name, shape, dtype, lambda: as_tensor(span.read(start, size), dtype, shape))


def _read_layers(param: Path) -> list[_Layer]:
    """Read the list of layers; each must be one that the networks here compute.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: it is no such list, or that of another network.
    """
    check_file(param, largest=_LARGEST_LIST)
    try:
        lines = param.read_bytes().decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{param} cannot be read as ncnn's list of layers.") from error
    if lines[0].strip() != _MAGIC:
        raise CheckpointError(f"{param} is not ncnn's list of layers: it begins otherwise.")
    words = [line.split() for line in lines[2:] if line.strip()]
    if len(words) > MOST_TENSORS:
        raise CheckpointError(f"{param} has {len(words)} layers, more than any upscaler.")
    kinds = {line[0] for line in words}
    architecture = "compact" if "PReLU" in kinds else "rrdb"
    if other := kinds - _KINDS[architecture] - {"Convolution", "PReLU"}:
        raise _not_one(str(param), f"it has layers of the kinds {show_names(sorted(other))}")
    enlarging = [_values(line).get("0") for line in words if line[0] == "Interp"]
    if architecture == "compact" and len(enlarging) > 1:
        raise CheckpointError(
            f"{param} shrinks what its network made, by a last layer that is not computed here: "
            "take the x4 file of the same network, and upscale=2 or 3."
        )
    if enlarging != ["1"] * (1 if architecture == "compact" else 2):
        raise _not_one(str(param), "it enlarges otherwise than by repeating pixels")
    weighted = [line for line in words if line[0] in ("Convolution", "PReLU")]
    names = _names(len(weighted), architecture, origin=str(param))
    return [_layer(line, name, param) for line, name in zip(weighted, names, strict=True)]


def _names(layers: int, architecture: str, *, origin: str) -> list[str]:
    """Name the layers by their order: a chain, or the blocks of the larger network."""
    if architecture == "compact":
        return [f"body.{number}" for number in range(layers)]
    blocks, rest = divmod(layers - 1 - len(_ENDS), len(_BLOCK))
    if rest or blocks < 1:
        raise _not_one(origin, f"it has {layers} convolutions")
    inside = [f"body.{block}.{name}" for block in range(blocks) for name in _BLOCK]
    return ["conv_first", *inside, *_ENDS]


def _layer(words: list[str], name: str, param: Path) -> _Layer:
    """Read the line of a layer with weights."""
    values = _values(words)
    outputs, weights = (
        int(number) if (number := values.get(key, "0")).isdecimal() and len(number) < 10 else 0
        for key in ("0", "6")
    )
    place = name.removeprefix("body.")
    if not outputs or (place.isdecimal() and (words[0] == "PReLU") != int(place) % 2):
        raise _strange(words, param)
    if words[0] == "PReLU":
        return _Layer(name, False, outputs)
    wanted = _RECTIFIER if _RECTIFIED.fullmatch(name) else _LINEAR
    computed = {key: values.get(key) for key in _SQUARE | wanted} == _SQUARE | wanted
    if not computed or not weights or weights % (9 * outputs):
        raise _strange(words, param)
    return _Layer(name, True, outputs, weights)


def _values(words: list[str]) -> dict[str, str]:
    """Return what the line of a layer says by number, with what ncnn takes for granted."""
    found = (re.fullmatch(r"(-?\d{1,6})=([0-9.e+,-]{1,40})", word) for word in words)
    return _DEFAULTS | {match[1]: match[2] for match in found if match}


def _strange(words: list[str], param: Path) -> CheckpointError:
    line = show(" ".join(words)[:200])
    return CheckpointError(f"{param} has a layer that no upscaler has at its place: {line}.")


def _not_one(origin: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{origin} is not a network of Real-ESRGAN, the compact one or that of residual dense "
        f"blocks: {reason}. For other architectures, see docs/upscaling.md."
    )


def _only(source: Source, ending: str) -> tuple[str, ...] | None:
    names = [name for name in source.files() if name.endswith(ending)]
    if len(names) > 1:
        raise CheckpointError(
            f"{source.name} has several {ending} files: {show_names(names)}. Name one of them."
        )
    return tuple(names) or None


def _described(tensors: dict[str, LazyTensor], source: Source, file: str) -> LazyCheckpoint:
    config = infer_config(tensors, origin=source.name)
    config["name"] = source.name if source.name in PACKAGED else PurePosixPath(file).stem
    return LazyCheckpoint(config, tensors)
