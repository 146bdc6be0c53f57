"""Safetensors files: mapped when read, streamed when written.

The writer holds one tensor at a time: the header comes first, from shapes alone, then the tensors
one after the other, into a temporary file that takes its final name only when it is complete on
disk. Format: https://github.com/huggingface/safetensors (8-byte length, JSON header, data).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError, InputTypeError, MissingFileError
from ..files import as_path, replacing
from .lazy import LazyTensor

WEIGHTS_FILE = "model.safetensors"

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
        CheckpointError: the file is truncated or corrupt.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({error}). Delete it and download it again."
        ) from error


def read_tensor(path: Path, name: str) -> Tensor:
    """Map one tensor of a file by itself: its pages go when it goes.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: the file is truncated or corrupt, or lacks the tensor.
    """
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged ({error}). Delete it and download it again."
        ) from error


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
        StorageError: the file cannot be written; nothing of it is left.
    """
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
