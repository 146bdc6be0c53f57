"""Flax checkpoints (msgpack) without Flax, read leaf by leaf from a memory map.

`read_flax` walks over the file once and notes where each array lies; the bytes of an array are
touched when it is loaded, and mapped only while it is in use. Format: `flax/serialization.py` of
github.com/google/flax, a msgpack map in which extension type 1 is an array and 3 a numpy scalar,
both packed as (shape, dtype name, C-order bytes); arrays above 2**30 bytes are stored in chunks.
Knows nothing about the names of the arrays.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import read_json
from ..errors import CheckpointError, ConfigError
from ..foreign import check_file, show
from ..hub.source import Source
from .lazy import MOST_TENSORS, LazyTensor
from .mapped import Bytes, Span, as_tensor, is_shape

FLAX_FILE = "flax_model.msgpack"
FLAX_INDEX = "flax_model.msgpack.index.json"

_SHARD = re.compile(r"(?!\.)[^/\\\0]+")
_CHUNKED = "__msgpack_chunked_array__"
_MAX_DEPTH, _MOST_VALUES = 64, 500_000
_ARRAY, _SCALAR = 1, 3
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    )
}


def flax_files(source: Source) -> tuple[str, ...] | None:
    """Return the Flax weights of a source: one file, or an index with its shards; else None."""
    names = source.files()
    if FLAX_FILE in names and source.selected != FLAX_INDEX:
        return (FLAX_FILE,)
    if FLAX_INDEX not in names:
        return None
    return (FLAX_INDEX, *shard_names(source.fetch([FLAX_INDEX])[FLAX_INDEX]))


def read_flax_files(paths: Mapping[str, Path]) -> dict[str, LazyTensor]:
    """Describe the arrays in the files that `flax_files` named."""
    if FLAX_INDEX in paths:
        return read_sharded_flax(paths[FLAX_INDEX], paths)
    return read_flax(paths[FLAX_FILE])


def read_flax(path: Path) -> dict[str, LazyTensor]:
    """Describe the arrays of a Flax file by their '/'-joined keys.

    Python numbers, strings and None in the file are passed over.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is truncated or corrupt; the message says where.
    """
    check_file(path)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
    ):
        return _Scanner(view, path).scan()


def read_sharded_flax(index: Path, shards: Mapping[str, Path]) -> dict[str, LazyTensor]:
    """Describe the arrays of a checkpoint that an index spreads over several Flax files.

    Args:
        index: the `flax_model.msgpack.index.json`.
        shards: where each of the files that it names lies.

    Raises:
        MissingFileError: a shard is missing.
        CheckpointError: a file is corrupt, or the index and the shards disagree.
    """
    weight_map = read_weight_map(index)
    files = {name: read_flax(shards[name]) for name in shard_names(index)}
    for key, name in weight_map.items():
        if key not in files[name]:
            raise CheckpointError(
                f"{index} says that {name} holds {show(key)}, but it does not. Download both again."
            )
    tensors = {key: files[name][key] for key, name in weight_map.items()}
    for name, found in files.items():
        if extra := sorted(found.keys() - tensors.keys()):
            raise CheckpointError(
                f"{name} holds {show(extra[0])}, which {index} does not list. Download both again."
            )
    return tensors


def shard_names(index: Path) -> tuple[str, ...]:
    """Return the files that an index names, sorted."""
    return tuple(sorted(set(read_weight_map(index).values())))


def read_weight_map(index: Path) -> dict[str, str]:
    """Return which file holds which array.

    Raises:
        MissingFileError: the index does not exist.
        CheckpointError: it is not an index, or names files elsewhere.
    """
    try:
        weight_map = read_json(index).get("weight_map")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no 'weight_map'. Download it again.")
    for name in weight_map.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise CheckpointError(
                f"{index} names {show(name)}, which is not a file beside it. Download it again."
            )
    return weight_map


@dataclass(frozen=True)
class _Leaf:
    """An array in a file: dtype, shape, and the spans that hold its bytes in order."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    spans: tuple[Span, ...]

    def lazy(self, name: str) -> LazyTensor:
        return LazyTensor(name, self.shape, self.dtype, self.load, self.load_row)

    def load(self) -> Tensor:
        return self._tensor(0, self.shape)

    def load_row(self, index: int) -> Tensor:
        shape = self.shape[1:]
        return self._tensor(index * math.prod(shape) * self.dtype.itemsize, shape)

    def _tensor(self, start: int, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape) * self.dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=self.dtype, device="cpu")
        parts = list(self._read(start, size))
        content = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return as_tensor(content, self.dtype, shape)

    def _read(self, start: int, size: int) -> Iterator[Bytes]:
        for span in self.spans:
            length = min(span.size - start, size)
            if length > 0:
                yield span.read(start, length)
                start, size = start + length, size - length
            if not size:
                return
            start = max(start - span.size, 0)


class _Scanner:
    """Walks over the msgpack structure without reading what is in the arrays."""

    def __init__(self, view: mmap.mmap, path: Path) -> None:
        self.view = view
        self.path = path
        self.at = 0
        self.end = len(view)
        self.keys: list[str] = []
        self.depth = self.values = 0

    def scan(self) -> dict[str, LazyTensor]:
        """Return the arrays of the whole file."""
        tree = self.value()
        if self.at != self.end:
            raise self.corrupt(f"has {self.end - self.at} bytes behind its end")
        if not isinstance(tree, dict):
            raise self.corrupt("does not hold a tree of arrays")
        found: dict[str, LazyTensor] = {}
        for keys, leaf in _leaves(tree):
            name = "/".join(keys)
            if name in found:
                raise self.corrupt(f"holds {show(name)} twice")
            if len(found) >= MOST_TENSORS:
                raise self.corrupt(f"holds more than {MOST_TENSORS} arrays")
            found[name] = leaf.lazy(name)
        return found

    def value(self) -> Any:
        """Read one value: a dict, a list, an array as `_Leaf`, or a Python scalar."""
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > _MAX_DEPTH:
            raise self.corrupt("is nested too deeply")
        if self.values > _MOST_VALUES:
            raise self.corrupt(f"holds more than {_MOST_VALUES} values")
        value = self.next_value()
        self.depth -= 1
        return value

    def next_value(self) -> Any:
        """Read the value whose type code comes next."""
        code = self.take(1)[0]
        if code < 0x80:
            return code
        if code < 0x90:
            return self.mapping(code & 0x0F)
        if code < 0xA0:
            return self.sequence(code & 0x0F)
        if code < 0xC0:
            return self.text(code & 0x1F)
        if code >= 0xE0:
            return code - 0x100
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self.number(_NUMBERS[code])
        if code in _SIZED:
            kind, form = _SIZED[code]
            return getattr(self, kind)(self.number(form))
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4))
        raise self.corrupt(f"has the invalid type code 0x{code:02x}")

    def mapping(self, count: int) -> dict[str, Any] | _Leaf:
        """Read a map of `count` entries; a chunked array becomes one `_Leaf`."""
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self.value()
            if not isinstance(key, str | int):
                raise self.corrupt("has a key that is not a string")
            if str(key) in values:
                raise self.corrupt(f"holds the key {show(key)} twice")
            self.keys.append(str(key))
            values[str(key)] = self.value()
            self.keys.pop()
        return self.join_chunks(values) if values.get(_CHUNKED) else values

    def sequence(self, count: int) -> list[Any]:
        """Read a list of `count` values."""
        return [self.value() for _ in range(count)]

    def text(self, size: int) -> str:
        """Read `size` bytes of UTF-8."""
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt("has text that is not UTF-8") from error

    def binary(self, size: int) -> Span:
        """Pass over `size` bytes and say where they are."""
        start = self.at
        self.skip(size)
        return Span(self.path, start, size)

    def extension(self, size: int) -> Any:
        """Read an array or scalar of Flax; pass over any other extension."""
        kind = self.take(1)[0]
        end = self.at + size
        if kind not in (_ARRAY, _SCALAR):
            self.skip(size)
            return None
        if end > self.end:
            raise self.truncated(end - self.end)
        leaf = self.array()
        if self.at != end:
            raise self.corrupt("has an array of the wrong size")
        return leaf

    def array(self) -> _Leaf:
        """Read shape and dtype of an array, and where its bytes are."""
        packed = self.value()
        match packed:
            case [list(shape), str(name), Span() as span]:
                pass
            case _:
                raise self.corrupt("has an array without shape, dtype and data")
        if not is_shape(shape):
            raise self.corrupt(f"has an array of the shape {show(shape)}")
        if name not in _DTYPES:
            raise self.corrupt(f"has an array of the unknown dtype {show(name)}")
        leaf = _Leaf(_DTYPES[name], tuple(shape), (span,))
        return self.check_size(leaf)

    def join_chunks(self, values: dict[str, Any]) -> _Leaf:
        """Make one array of a chunked one: {shape: {"0": rows, ...}, chunks: {"0": array, ...}}."""
        match values.get("shape"), values.get("chunks"):
            case (dict() as shape, dict() as chunks) if chunks:
                sizes, parts = _in_order(shape), _in_order(chunks)
            case _:
                raise self.corrupt("has a chunked array without shape and chunks")
        if not is_shape(sizes):
            raise self.corrupt(f"has a chunked array of the shape {show(sizes)}")
        leaves = [part for part in parts if isinstance(part, _Leaf)]
        if len(leaves) != len(parts) or len({leaf.dtype for leaf in leaves}) != 1:
            raise self.corrupt("has a chunked array with chunks of different kinds")
        spans = tuple(span for leaf in leaves for span in leaf.spans)
        return self.check_size(_Leaf(leaves[0].dtype, tuple(sizes), spans))

    def check_size(self, leaf: _Leaf) -> _Leaf:
        """Return an array whose bytes are as many as shape and dtype ask for."""
        wanted = math.prod(leaf.shape) * leaf.dtype.itemsize
        found = sum(span.size for span in leaf.spans)
        if wanted != found:
            raise self.corrupt(f"has {found} bytes for an array {leaf.shape} of {leaf.dtype}")
        return leaf

    def number(self, form: str) -> Any:
        """Read one number in a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        start = self.at
        self.skip(size)
        return self.view[start : self.at]

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        if self.at + size > self.end:
            raise self.truncated(self.at + size - self.end)
        self.at += size

    def truncated(self, lacking: int) -> CheckpointError:
        """Return the error for a file that ends too early."""
        return CheckpointError(
            f"{self.path} is cut off after {self.end} bytes{self.place()}: at least {lacking} "
            "bytes are missing. Delete it and download it again."
        )

    def corrupt(self, problem: str) -> CheckpointError:
        """Return the error for a file that is no Flax checkpoint."""
        return CheckpointError(
            f"{self.path} {problem}, at byte {self.at}{self.place()}. It is not a Flax checkpoint, "
            "or it is damaged; delete it and download it again."
        )

    def place(self) -> str:
        return f" in {show('/'.join(self.keys))}" if self.keys else ""


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_SIZED = {
    **{0xC4: ("binary", ">B"), 0xC5: ("binary", ">H"), 0xC6: ("binary", ">I")},
    **{0xC7: ("extension", ">B"), 0xC8: ("extension", ">H"), 0xC9: ("extension", ">I")},
    **{0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I")},
    **{0xDC: ("sequence", ">H"), 0xDD: ("sequence", ">I")},
    **{0xDE: ("mapping", ">H"), 0xDF: ("mapping", ">I")},
}


def _in_order(values: Mapping[str, Any]) -> list[Any]:
    """Return the values of {"0": ..., "1": ...} by number."""
    return [values[key] for key in sorted(values, key=lambda key: (len(key), key))]


def _leaves(tree: Mapping[str, Any]) -> Iterable[tuple[tuple[str, ...], _Leaf]]:
    for key, value in tree.items():
        if isinstance(value, _Leaf):
            yield (key,), value
        elif isinstance(value, dict):
            yield from (((key, *keys), leaf) for keys, leaf in _leaves(value))
