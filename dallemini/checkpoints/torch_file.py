"""Pickled checkpoints (`.pt`, `.ckpt`, `.bin`), read without running what is in them.

Ordinary files go through `torch.load(weights_only=True)`. Two kinds that it declines hold harmless
extras: TorchScript archives, and Lightning checkpoints with the names of Lightning's classes. Their
tensors are read by an unpickler of our own that knows tensors and containers only, and puts an
inert `_Placeholder` where such a class is named. Any other name is refused, whatever it is.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, MissingFileError
from .lazy import LazyTensor

_INERT = re.compile(
    r"(__torch__|torch\.jit|pytorch_lightning|lightning|lightning_fabric|numpy|omegaconf)(\.|$)"
)
_INERT_NAMES = (("torch", "Size"), ("torch", "device"))
_STORAGES = {
    **{"HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16},
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64},
    **{"LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16},
    **{"CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
}
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_torch(path: Path) -> dict[str, LazyTensor]:
    """Describe the tensors of a pickled state dict; one that a training run wrapped is unwrapped.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is corrupt, asks for code to be run, or holds no state dict.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")
    values = _load(path)
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
            break
    tensors = dict(_flatten(values))
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict. Use a file of weights.")
    return tensors


def _load(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty. Delete it and download it again.")
    is_zip = zipfile.is_zipfile(path)
    if is_zip and _is_torchscript(path):
        return _read_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # refused or not below
            # Only the zip format can be mapped; older files are small enough to be read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip or None)
    except pickle.UnpicklingError as error:
        if is_zip:
            return _read_archive(path)
        raise _refused_or_damaged(path, error) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from error


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from error


def _read_archive(path: Path) -> Any:
    """Read a zip archive with the unpickler below."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if entry.endswith("/data.pkl"))
            content = archive.read(name)
        return _Unpickler(content, path, folder=name.removesuffix("data.pkl")).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from error


class _Placeholder:
    """Stands for an object whose class is not loaded; keeps the attributes that were stored."""

    def __init__(self, *values: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        self.state[str(key)] = value

    def append(self, value: Any) -> None:
        self.state[str(len(self.state))] = value

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)


class _Storage:
    """The bytes of tensors: an entry of the archive, read when a tensor is loaded."""

    def __init__(self, path: Path, entry: str, dtype: torch.dtype) -> None:
        self.path = path
        self.entry = entry
        self.dtype = dtype

    def tensor(self, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> LazyTensor:
        """Describe a tensor that lies in these bytes."""

        def load() -> Tensor:
            try:
                with zipfile.ZipFile(self.path) as archive:
                    content = bytearray(archive.read(self.entry))
                flat = torch.frombuffer(content, dtype=self.dtype)
                return flat.as_strided(shape, stride, offset)
            except (zipfile.BadZipFile, KeyError, OSError, RuntimeError, ValueError) as error:
                raise _damaged(self.path, error) from error

        return LazyTensor(self.entry, shape, self.dtype, load)


class _Unpickler(pickle.Unpickler):
    """Knows tensors, dicts and placeholders; everything else is refused before it is looked up."""

    def __init__(self, content: bytes, path: Path, *, folder: str) -> None:
        super().__init__(io.BytesIO(content))
        self.path = path
        self.folder = folder

    def find_class(self, module: str, name: str, /) -> Any:
        """Return what stands for a name in the pickle; nothing is imported."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return lambda *arguments: _rebuild(*arguments)  # one of its own: a pickle may alter it
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if _INERT.match(module) or (module, name) in _INERT_NAMES:
            return type("_Inert", (_Placeholder,), {})
        raise _refused(self.path, f"{module}.{name}")

    def persistent_load(self, pid: Any, /) -> _Storage:
        """Return the storage that an entry of the archive holds."""
        match pid:
            case ("storage", torch.dtype() as dtype, str(key), *_):
                return _Storage(self.path, f"{self.folder}data/{key}", dtype)
        raise CheckpointError(f"{self.path} has an unknown kind of storage. Download it again.")


def _rebuild(data: Any, *arguments: Any) -> LazyTensor:
    if isinstance(data, LazyTensor):  # a parameter around a tensor
        return data
    offset, shape, stride, *_ = arguments
    if not isinstance(data, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return data.tensor(int(offset), tuple(shape), tuple(stride))


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, LazyTensor]]:
    """List the tensors in nested containers by their dotted names."""
    if isinstance(value, Tensor):
        return [(prefix, LazyTensor.of(prefix, value.detach()))]
    if isinstance(value, LazyTensor):
        return [(prefix, LazyTensor(prefix, value.shape, value.dtype, value.load))]
    children = value.state if isinstance(value, _Placeholder) else value
    if not isinstance(children, Mapping):
        return []
    return [
        leaf
        for key, child in children.items()
        for leaf in _flatten(child, f"{prefix}.{key}" if prefix else str(key))
    ]


def _refused_or_damaged(path: Path, error: Exception) -> CheckpointError:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    name = found[1] if found else _foreign_name(path)
    return _refused(path, name) if name else _damaged(path, error)


def _foreign_name(path: Path) -> str | None:
    """Return the first name outside torch that a pickle asks for, without running any of it."""
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            for opcode, argument, _ in pickletools.genops(file):
                if isinstance(argument, str):
                    strings.append(argument)
                if opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                    parts = strings[-1:] if opcode.name == "GLOBAL" else strings[-2:]
                    name = ".".join(parts).replace(" ", ".")
                    if not name.startswith(("torch.", "collections.", "numpy.")):
                        return name
    except Exception:  # a damaged pickle can fail in any way
        return None
    return None


def _refused(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path} was refused: its pickle asks for {name}, and code in a checkpoint is never "
        "executed. Get the weights as safetensors, or from a source that you trust."
    )


def _damaged(path: Path, error: BaseException) -> CheckpointError:
    reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    return CheckpointError(
        f"{path} is truncated or damaged ({reason}). Delete it and download it again."
    )
