"""Pickled checkpoints (`.pt`, `.ckpt`, `.bin`), read without running what is in them.

Three layouts of torch are known: the zip archive, TorchScript's archive, which holds the same, and
the plain stream of the time before. `inert_pickle` reads their structure; the bytes of a tensor are
touched when it is loaded. Source: `torch/serialization.py` of github.com/pytorch/pytorch.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..foreign import check_file, show
from .inert_pickle import Global, Inert, read_pickle
from .lazy import MOST_TENSORS, LazyTensor
from .mapped import Span, as_tensor, is_shape

_T = TypeVar("_T")

_LARGEST_PICKLE = 32 << 20
_LARGEST_DIRECTORY = 16 << 20
_MOST_VISITS = 200_000
_DEEPEST = 64
_LONGEST_NAME = 300
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    **{"HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16},
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64},
    **{"LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16},
    **{"CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
    **{"ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128},
    "UntypedStorage": torch.uint8,
}


def read_torch(path: Path, *, allowed: re.Pattern[str] | None = None) -> dict[str, LazyTensor]:
    """Describe the tensors of a pickled file by their dotted names.

    A module that was pickled whole gives the names of its state dict.

    Args:
        path: the file.
        allowed: the only names that its pickle may ask for, as in `read_pickle`.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is corrupt, asks for code to be run, or holds no tensors.
    """
    tensors = _opened(path, lambda values: _flatten(values, path), allowed)
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict. Use a file of weights.")
    return tensors


def read_settings(path: Path, key: str) -> dict[str, Any] | None:
    """Return what a pickled file holds under a key beside its tensors, such as "hparams".

    Returns:
        Texts and numbers, and lists of them, by their names; None where there is no such key.

    Raises:
        As `read_torch`.
    """

    def find(values: Any) -> dict[str, Any] | None:
        found = values.get(key) if isinstance(values, dict) else None
        return {str(name): found[name] for name in found} if isinstance(found, dict) else None

    return _opened(path, find)


def _opened(path: Path, take: Callable[[Any], _T], allowed: re.Pattern[str] | None = None) -> _T:
    """Return what `take` finds in the structure of a file."""
    size = check_file(path)
    try:
        with path.open("rb") as file:
            return take(_read(file, path, size, allowed))
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, "its structure cannot be read") from error


def _read(file: BinaryIO, path: Path, size: int, allowed: re.Pattern[str] | None) -> Any:
    if file.read(2) == b"PK":
        return _read_zip(file, path, size, allowed)
    file.seek(0)
    return _read_stream(file, path, size, allowed)


# Storages: where the bytes of tensors lie


@dataclass(eq=False)
class _Storage:
    """The bytes of tensors; in a plain stream their place is known only at its end."""

    path: Path
    dtype: torch.dtype
    count: int
    span: Span | None = None
    checksum: int = 0  # 0 where the writer noted none
    _checked: list[bool] = field(default_factory=list)

    def tensor(self, offset: int, shape: Any, stride: Any, dtype: torch.dtype) -> LazyTensor:
        """Describe a tensor that lies in these bytes."""
        if not (is_shape(shape) and is_shape(stride) and len(shape) == len(stride)):
            raise _damaged(self.path, f"a tensor has the shape {show(shape)}")
        count = self.count * self.dtype.itemsize // dtype.itemsize
        numbers = torch.Size(shape).numel()
        last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if type(offset) is not int or offset < 0 or (numbers and offset + last >= count):
            raise _damaged(self.path, "a tensor reaches beyond its bytes")
        if numbers > count:
            raise CheckpointError(
                f"{self.path} holds a tensor of the shape {show(shape)} with only {count} numbers. "
                "Save it again after .contiguous()."
            )

        def load() -> Tensor:
            if not numbers:
                return torch.empty(shape, dtype=dtype, device="cpu")
            content = self._bytes(count * dtype.itemsize)
            return as_tensor(content, dtype, (count,)).as_strided(shape, stride, offset)

        return LazyTensor("", tuple(shape), dtype, load)

    def _bytes(self, size: int) -> Any:
        if self.span is None:
            raise _damaged(self.path, "the bytes of a tensor are missing")
        if self.checksum and not self._checked:
            if self.span.checksum() != self.checksum:
                raise _damaged(self.path, "Bad CRC-32 of a tensor")
            self._checked.append(True)
        return self.span.read(0, size)


def _strange(path: Path, kind: str) -> LazyTensor:
    """Describe a tensor of a kind that weights are not, such as a sparse one."""

    def load() -> Tensor:
        raise CheckpointError(f"{path} holds a tensor that is {kind}. Save dense tensors.")

    return LazyTensor("", (), torch.float32, load, problem=f"is {kind}")


def _maker(path: Path) -> Callable[[str, tuple[Any, ...]], LazyTensor | None]:
    """Return a function that tells which tensor a call in a pickle stands for."""

    def make(name: str, values: tuple[Any, ...]) -> LazyTensor | None:
        module, _, function = name.partition(" ")
        if module not in ("torch._utils", "torch._tensor") or not function.startswith("_rebuild_"):
            return None
        kind = function.removeprefix("_rebuild_")
        match kind, values:
            case ("parameter" | "parameter_with_state", (LazyTensor() as tensor, *_)):
                return tensor
            case ("tensor" | "tensor_v2", (_Storage() as storage, offset, shape, stride, *rest)):
                dtype = storage.dtype
            case ("tensor_v3", (_Storage() as storage, offset, shape, stride, *rest)):
                dtype = _dtype(rest.pop(2) if len(rest) > 2 else None)
            case _:
                words = kind.replace("_no_storage", "").replace("_tensor", "").replace("_", " ")
                return _strange(path, f"not an ordinary tensor ({words})")
        if any(rest[2:]):
            return _strange(path, "marked as negated or conjugated")
        return storage.tensor(offset, shape, stride, dtype)

    return make


def _dtype(kind: Any) -> torch.dtype:
    name = kind.name.removeprefix("torch ") if isinstance(kind, Global) else ""
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise ValueError("an unknown dtype")
    return found


def _storage_kind(kind: Any) -> torch.dtype:
    name = kind.name.rpartition(" ")[2] if isinstance(kind, Global) else ""
    if name not in _STORAGES:
        raise ValueError("an unknown kind of storage")
    return _STORAGES[name]


# Layouts


def _read_zip(file: BinaryIO, path: Path, size: int, allowed: re.Pattern[str] | None) -> Any:
    """Read an archive of torch or TorchScript."""
    _check_directory(file, path, size)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise _damaged(path, "a name is in it twice")
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(f"{path} is a zip archive, but not one of torch: it has no data.pkl.")
    folder = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{folder}byteorder")
    if order is not None and _content(file, path, order, size) == b"big":
        raise CheckpointError(f"{path} was written on a big-endian machine. Save it again here.")
    content = _content(file, path, entries[pickles[0]], size)
    storages: dict[tuple[str, torch.dtype, int], _Storage] = {}

    def storage(pid: Any) -> _Storage:
        match pid:
            case ("storage", kind, str(key), _, int(count), *_) if 0 <= count <= size:
                if known := storages.get((key, _storage_kind(kind), count)):
                    return known
                found = _Storage(path, _storage_kind(kind), count)
                storages[key, found.dtype, count] = found
                entry = entries[f"{folder}data/{key}"]
                found.span, found.checksum = _span(file, path, entry, size), entry.CRC
                if found.span.size < count * found.dtype.itemsize:
                    raise _damaged(path, "the bytes of a tensor are too few")
                return found
        raise CheckpointError(f"{path} has an unknown kind of storage. Download it again.")

    return read_pickle(
        io.BytesIO(content), origin=path, make=_maker(path), storage=storage, allowed=allowed
    )


def _check_directory(file: BinaryIO, path: Path, size: int) -> None:
    """Refuse a list of entries that would take minutes to read."""
    file.seek(max(size - (64 << 10), 0))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise _damaged(path, "it ends too early")
    (length,) = struct.unpack("<I", tail[at + 12 : at + 16])
    if (wide := tail.rfind(b"PK\x06\x06", 0, at)) >= 0 and at >= wide + 56:
        length = max(length % 0xFFFFFFFF, *struct.unpack("<Q", tail[wide + 40 : wide + 48]))
    if length > _LARGEST_DIRECTORY:
        raise CheckpointError(f"{path} lists {length} bytes of names, too many for weights.")


def _span(file: BinaryIO, path: Path, entry: zipfile.ZipInfo, size: int) -> Span:
    """Return where the bytes of an entry lie.

    Raises:
        CheckpointError: it is compressed, so that its size is only a claim, or cut off.
    """
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise CheckpointError(
            f"{path}: {show(entry.filename)} is compressed or encrypted, as torch never writes it. "
            "Unpack the archive and pack it again without compression (zip -0)."
        )
    file.seek(entry.header_offset)
    header = file.read(30)
    start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if header[:4] != b"PK\x03\x04" or start + entry.file_size > size:
        raise _damaged(path, "an entry lies behind its end")
    return Span(path, start, entry.file_size)


def _content(file: BinaryIO, path: Path, entry: zipfile.ZipInfo, size: int) -> bytes:
    """Return a small entry of an archive."""
    span = _span(file, path, entry, size)
    if span.size > _LARGEST_PICKLE:
        raise CheckpointError(
            f"{path} holds {span.size} bytes beside its tensors, at most {_LARGEST_PICKLE} are "
            "read. Save the state dict alone."
        )
    file.seek(span.start)
    content = file.read(span.size)
    if entry.CRC and zlib.crc32(content) != entry.CRC:
        raise _damaged(path, f"Bad CRC-32 of {show(entry.filename)}")
    return content


def _read_stream(file: BinaryIO, path: Path, size: int, allowed: re.Pattern[str] | None) -> Any:
    """Read the layout before zip: four pickles, one with the order of the storages, their bytes."""
    storages: dict[str, _Storage] = {}
    head = io.BytesIO(file.read(_LARGEST_PICKLE))

    def storage(pid: Any) -> _Storage | Global:
        match pid:
            case ("storage", kind, str(key), _, int(count), None) if count >= 0:
                if key not in storages:
                    storages[key] = _Storage(path, _storage_kind(kind), count)
                return storages[key]
            case ("module", Global() as named, _, _):  # a class, with its source text beside it
                return named
        raise CheckpointError(f"{path} has an unknown kind of storage. Download it again.")

    def following() -> Any:
        return read_pickle(head, origin=path, make=_maker(path), storage=storage, allowed=allowed)

    try:
        magic = following()
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise _damaged(path, "it is neither an archive nor a pickle of torch") from error
    if magic != _MAGIC:
        raise CheckpointError(
            f"{path} is a pickle, but not one of torch. Use weights that torch.save wrote."
        )
    following(), following()  # the version, and the sizes of numbers
    values, keys, at = following(), following(), head.tell()
    for key in keys:
        found = storages[key]
        file.seek(at)
        count = int.from_bytes(file.read(8), "little")
        start, at = at + 8, at + 8 + count * found.dtype.itemsize
        if count != found.count or at > size:
            raise _damaged(path, "it ends too early")
        found.span = Span(path, start, at - start)
    return values


# Names


def _flatten(values: Any, path: Path) -> dict[str, LazyTensor]:
    """List the tensors in nested containers by their dotted names.

    Raises:
        CheckpointError: they are too many or too deep, as in containers that hold themselves.
    """
    found: dict[str, LazyTensor] = {}
    for name, value in _leaves(values, path):
        if name in found:
            raise CheckpointError(f"{path} holds {show(name)} twice. Remove one of them.")
        found[name] = dataclasses.replace(value, name=name)
        if len(found) > MOST_TENSORS:
            raise CheckpointError(f"{path} holds more than {MOST_TENSORS} tensors.")
    return found


def _leaves(values: Any, path: Path) -> Iterator[tuple[str, LazyTensor]]:
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    visits = 0
    while waiting:
        name, value, depth = waiting.pop()
        visits += 1
        if visits + len(waiting) > _MOST_VISITS or depth > _DEEPEST or len(name) > _LONGEST_NAME:
            raise CheckpointError(
                f"{path} is nested too deeply, or holds itself, at {show(name)}. Save a flat state "
                "dict."
            )
        if isinstance(value, LazyTensor):
            yield name, value
            continue
        children = value.children if isinstance(value, Inert) else value
        if isinstance(children, list | tuple):
            children = dict(enumerate(children))
        if isinstance(children, Mapping):
            waiting += [
                (_inside(name, key, value), child, depth + 1)
                for key, child in reversed(list(children.items()))
                if isinstance(key, str | int) and isinstance(child, _HOLDING)
            ]


_HOLDING = (LazyTensor, Inert, dict, list, tuple)
_OF_MODULES = ("_modules", "_parameters", "_buffers")


def _inside(name: str, key: str | int, holder: Any) -> str:
    """Name what lies under a key; a pickled module keeps its parts in dictionaries of its own."""
    if isinstance(holder, Inert) and key in _OF_MODULES:
        return name
    return f"{name}.{key}" if name else str(key)


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged ({reason}). Delete it and download it again."
    )
