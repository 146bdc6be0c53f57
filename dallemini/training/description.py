"""Reading the description of a checkpoint, `.metadata`, without running what it says.

`torch.distributed.checkpoint` pickles it, and reads it with a plain `pickle.load`. Here every class
that it may name is replaced by an inert stand-in, so there is nothing that unpickling could call;
PyTorch's objects are made of what was found, once it has been checked. Knows files, not training.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem

from ..foreign import show

NAME = ".metadata"
MOST_BYTES = 1 << 25  # the largest model of the family, split over 8 processes, takes 6 MB
_MOST_CHUNKS = 1_000_000
_MOST_AXES = 8
_DATA_FILE = re.compile(r"__\d+_\d+\.distcp")
_CLASSES = {  # what PyTorch 2.6 to 2.13 name in a description
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, v in vars(torch).items() if isinstance(v, torch.dtype))},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
# pickle's own words for these; the others can take memory without end, or look things up by name
_OPCODES = {
    *("APPEND", "APPENDS", "BINGET", "BININT", "BININT1", "BININT2", "BINUNICODE", "BUILD"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "FRAME", "LONG1", "LONG_BINGET", "MARK"),
    *("MEMOIZE", "NEWFALSE", "NEWOBJ", "NEWTRUE", "NONE", "PROTO", "REDUCE", "SETITEM", "SETITEMS"),
    *("SHORT_BINUNICODE", "STACK_GLOBAL", "STOP", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
}


class _Found:
    """Stands for an object of PyTorch: keeps what it would be made of."""

    made_of: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *made_of: Any) -> None:
        if len(made_of) <= _MOST_AXES:  # of more, such as the parts of a path, no copy is kept
            self.made_of = made_of

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Makes stand-ins only, of classes that are its own and forgotten with it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._made: dict[str, type[_Found]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if name not in _CLASSES.get(module, ()):
            raise pickle.UnpicklingError(
                f"it holds {f'{module}.{name}'[:100]}, which no checkpoint needs"
            )
        return self._made.setdefault(name, type(name, (_Found,), {}))


class SafeReader(FileSystemReader):
    """PyTorch's reader, but for what it would unpickle.

    Files that only one process would look at (`__0.metadata`) are never read.

    Args:
        path: of the checkpoint.

    Raises:
        ValueError: the description or a file that it names is not what PyTorch writes; and whatever
            Python and PyTorch raise for broken ones.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.description = _read(path)

    def read_metadata(self) -> Metadata:  # no rank: never a file of one
        """Return what was read and checked."""
        return self.description

    def _slice_file(self, file: IO[bytes], sinfo: _StorageInfo) -> IO[bytes]:
        """Return the bytes of a value; refuse those that would be unpacked to many more."""
        file.seek(sinfo.offset)
        part = io.BytesIO(file.read(sinfo.length))
        with zipfile.ZipFile(part) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, which no checkpoint is")
        part.seek(0)
        return part


class SafePlanner(DefaultLoadPlanner):
    """Hands PyTorch, which unpickles values other than tensors, only what this library pickled."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Take numbers, text and the like; refuse everything else."""
        safe = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), safe)
        safe.seek(0)
        super().load_bytes(read_item, safe)


def _read(path: Path) -> Metadata:
    content = _regular(path / NAME, most=MOST_BYTES).read_bytes()
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it holds {opcode.name}, which no checkpoint needs")
    fields = _fields(_Unpickler(io.BytesIO(content)).load(), "Metadata")
    sizes: dict[str, int] = {}
    entries = {_text(name): _entry(entry) for name, entry in _some(fields, "state_dict_metadata")}
    return Metadata(
        entries,
        storage_data={
            _index(index): _place(place, path, sizes)
            for index, place in _some(fields, "storage_data")
        },
        storage_meta=StorageMeta(),
    )


def _regular(path: Path, *, most: float = float("inf")) -> Path:
    """Return the path of a file; refuse links, pipes and what is too long."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is not a file of its own")
    if found.st_size > most:
        raise ValueError(f"{path.name} has {found.st_size} bytes")
    return path


def _fields(found: Any, name: str) -> dict[str, Any]:
    if not isinstance(found, _Found) or type(found).__name__ != name:
        raise ValueError(f"it holds {type(found).__name__} in the place of {name}")
    if not isinstance(found.state, dict):
        raise ValueError(f"its {name} has no fields")
    return found.state


def _some(fields: dict[str, Any], name: str) -> Iterable[tuple[Any, Any]]:
    """Return the entries of a mapping; refuse those whose parts, shared ones too, are too many."""
    entries = list(fields[name].items())
    states = [found.state for _, found in entries if isinstance(found, _Found)]
    chunks = [state.get("chunks") for state in states if isinstance(state, dict)]
    if sum(len(part) for part in chunks if isinstance(part, list)) > _MOST_CHUNKS:
        raise ValueError(f"its tensors have more than {_MOST_CHUNKS} parts")
    return entries


def _entry(found: Any) -> BytesStorageMetadata | TensorStorageMetadata:
    if type(found).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    fields = _fields(found, "TensorStorageMetadata")
    chunks = [_fields(chunk, "ChunkStorageMetadata") for chunk in fields["chunks"]]
    return TensorStorageMetadata(
        TensorProperties(dtype=torch.float32),  # only asked for where there is no tensor to fill
        _size(fields["size"]),
        [ChunkStorageMetadata(_size(c["offsets"]), _size(c["sizes"])) for c in chunks],
    )


def _index(found: Any) -> MetadataIndex:
    fields = _fields(found, "MetadataIndex")
    offset, index = fields.get("offset"), fields.get("index")
    return MetadataIndex(
        _text(fields["fqn"]),
        None if offset is None else _size(offset),
        None if index is None else _whole(index),
    )


def _place(found: Any, path: Path, sizes: dict[str, int]) -> _StorageInfo:
    fields = _fields(found, "_StorageInfo")
    name, offset, length = (fields[key] for key in ("relative_path", "offset", "length"))
    if not _DATA_FILE.fullmatch(_text(name)) or fields.get("transform_descriptors"):
        raise ValueError(f"it names {show(name)}, which no checkpoint needs")
    if name not in sizes:
        sizes[name] = _regular(path / name).stat().st_size
    if _whole(offset) + _whole(length) > sizes[name]:
        raise ValueError(f"{name} is cut off")
    return _StorageInfo(name, offset, length)


def _size(found: Any) -> torch.Size:
    if type(found).__name__ != "Size" or not isinstance(found, _Found):
        raise ValueError("a size is missing")
    (numbers,) = found.made_of
    if not isinstance(numbers, tuple) or len(numbers) > _MOST_AXES:
        raise ValueError("a size has too many axes")
    return torch.Size([_whole(number) for number in numbers])


def _whole(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 62:
        raise ValueError(f"it holds {type(number).__name__} in the place of a whole number from 0")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it holds {type(value).__name__} in the place of a name")
    return value
