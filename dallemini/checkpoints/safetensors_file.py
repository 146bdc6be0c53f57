"""Safetensors files: mapped when read, streamed when written.

The writer holds one tensor at a time: the header comes first, from shapes alone, then the tensors
one after the other, into a temporary file that takes its final name only when it is complete on
disk. Format: https://github.com/huggingface/safetensors (8-byte length, JSON header, data).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError, DalleMiniError, InputTypeError, StorageError
from ..files import as_path, replacing
from ..foreign import check_file
from .lazy import MOST_TENSORS, LazyTensor

WEIGHTS_FILE = "model.safetensors"

_LARGEST_HEADER = 4 << 20

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a file; their pages are read when they are used.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is truncated or corrupt, or holds more tensors than any model.
    """
    with _opened(path) as file:
        names = list(file.keys())
        if len(names) > MOST_TENSORS:
            raise CheckpointError(f"{path} holds more than {MOST_TENSORS} tensors.")
        return {name: file.get_tensor(name) for name in names}


def read_tensor(path: Path, name: str) -> Tensor:
    """Map one tensor of a file by itself: its pages go when it goes.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is truncated or corrupt, or lacks the tensor.
    """
    with _opened(path) as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file whose header is of a size that can be read at once."""
    size = check_file(path)
    _check_name(path, CheckpointError)
    with path.open("rb") as head:
        length = int.from_bytes(head.read(8), "little")
    if size < 8 or length + 8 > size:
        raise _damaged(path, f"it has {size} bytes, but its header says more")
    if length > _LARGEST_HEADER:
        raise CheckpointError(
            f"{path} has a header of {length} bytes, but at most {_LARGEST_HEADER} are read: it "
            "lists more tensors than a model has."
        )
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except DalleMiniError:
        raise
    except Exception as error:  # a damaged header can fail in any way
        raise _damaged(path, " ".join(str(error).split())[:200]) from error


def _check_name(path: Path, kind: type[DalleMiniError]) -> None:
    """Refuse a path that safetensors cannot open, whatever is in the file.

    Raises:
        DalleMiniError: its name is not UTF-8; of this kind.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        name = str(path).encode("utf-8", "backslashreplace").decode()
        raise kind(
            f"{name} is not a name in UTF-8, and weights are read from no other; rename the folder."
        ) from error


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is truncated or damaged ({reason}). Delete it and download it again."
    )


def save_checkpoint(
    state_dict: Mapping[str, Tensor],
    directory: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a state dict as `model.safetensors`, replacing an older one only when complete.

    Args:
        state_dict: tensors on any device, in any memory layout.
        directory: an existing folder.
        metadata: strings for the file's header.

    Raises:
        InputTypeError: a value is not a tensor, or of a dtype that the format does not have.
        StorageError: the file cannot be written; an older one stays as it was.

    Example:
        >>> import tempfile, torch
        >>> from dallemini.checkpoints.safetensors_file import read_safetensors, save_checkpoint
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_checkpoint({"weight": torch.ones(2)}, folder)
        ...     read_safetensors(path)["weight"].tolist()
        [1.0, 1.0]
    """
    for name, tensor in state_dict.items():
        if not isinstance(tensor, Tensor):
            raise InputTypeError(
                f"{name!r} must be a tensor to be saved, not {type(tensor).__name__}."
            )
    tensors = {name: LazyTensor.of(name, tensor.detach()) for name, tensor in state_dict.items()}
    return write_tensors(tensors, directory, metadata=metadata)


def write_tensors(
    tensors: Mapping[str, LazyTensor],
    directory: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write tensors as `model.safetensors`, loading one at a time; else as `save_checkpoint`."""
    path = as_path(directory) / WEIGHTS_FILE
    write_safetensors(tensors, path, metadata=metadata)
    return path


def write_safetensors(
    tensors: Mapping[str, LazyTensor],
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Load the tensors one at a time and write them to a file.

    Raises:
        InputTypeError: a tensor has a dtype that the format does not have.
        StorageError: the file cannot be written, or could not be read again; nothing of it is left.
    """
    _check_name(path, StorageError)
    # Wide dtypes first keep every tensor aligned, as the reference writer does.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header = _header({name: tensors[name] for name in order}, metadata)
    with replacing(path) as file:
        file.write(header)
        for name in order:
            # Loaded outside the call so that a reader's own errors pass unchanged.
            _write(file, tensors[name].load())


def _header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise InputTypeError(f"{name!r} is {tensor.dtype}, which safetensors cannot hold.")
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data)
