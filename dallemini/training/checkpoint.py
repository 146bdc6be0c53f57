"""Checkpoints of a run: everything needed to go on as if nothing had happened.

Written by `torch.distributed.checkpoint`: each process writes its part of split weights, and any
number of processes can read them. On several machines the folder must be one that all of them see.
Knows tensors and numbers, not what they mean.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.optim import Optimizer

from ..errors import CheckpointError, StorageError
from .distributed import rank, wait

PREFIX = "checkpoint-"
_TRUSTED = {
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch._utils", "_rebuild_device"),
    ("builtins", "set"),
    ("collections", "OrderedDict"),
    *(("torch", str(dtype).removeprefix("torch.")) for dtype in (torch.float32, torch.int64)),
}
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    AttributeError,
    pickle.UnpicklingError,
    CheckpointException,
)


class _Unpickler(pickle.Unpickler):
    """Takes only what the description of a checkpoint is made of; PyTorch's own takes all."""

    def find_class(self, module: str, name: str) -> Any:
        trusted = module.startswith("torch.distributed.checkpoint.") or (module, name) in _TRUSTED
        if not trusted or "." in name:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


class _Planner(DefaultLoadPlanner):
    """Looks at values other than tensors before PyTorch unpickles them."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def newest(folder: Path) -> Path | None:
    """Return the last complete checkpoint of a run, if it has one."""
    found = sorted(path for path in folder.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdigit())
    return found[-1] if found else None


def save(
    folder: Path,
    *,
    step: int,
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizers: list[Optimizer],
    progress: Mapping[str, Any],
) -> Path:
    """Write a checkpoint, atomically, and remove those before it.

    Args:
        folder: of the run.
        step: number of steps done.
        module: weights and buffers, whole or split over processes.
        average: the averaged weights, by name.
        optimizers: of the module's parameters.
        progress: other JSON values to find again.

    Returns:
        The checkpoint's folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    target = folder / f"{PREFIX}{step:08d}"
    partial = target.with_suffix(".partial")
    state = _state(module, average, optimizers) | {"progress": json.dumps(progress)}
    try:
        if rank() == 0:
            _remove_partial(folder)
        wait()
        with _alone_or_not():
            save_sharded(state, checkpoint_id=partial)
        wait()
        if rank() == 0:
            _replace(partial, target)
        wait()
    except (OSError, RuntimeError, CheckpointException) as error:
        raise StorageError(
            f"Could not write {target}: {_reason(error)}. Free some space, or take another folder."
        ) from error
    return target


def read_progress(path: Path) -> dict[str, Any]:
    """Return the JSON values that were saved beside the weights.

    Args:
        path: of the checkpoint.

    Raises:
        CheckpointError: the checkpoint is corrupt.
    """
    state = {"progress": ""}
    with _explained(path):
        _read(state, path)
        progress: dict[str, Any] = json.loads(state["progress"])
    return progress


def load(
    path: Path,
    *,
    module: nn.Module,
    average: dict[str, Tensor],
    optimizers: list[Optimizer],
) -> None:
    """Read a checkpoint into the module, the average and the optimisers.

    Args:
        path: of the checkpoint.
        module: of the same sizes as the one that was saved; filled in place.
        average: filled in place.
        optimizers: of the same kinds as those saved; filled in place.

    Raises:
        CheckpointError: the checkpoint is corrupt, or of another run.
    """
    state = _state(module, average, optimizers)
    with _explained(path):
        _read(state, path)
        module.load_state_dict(state["module"])
        set_optimizer_state_dict(module, optimizers, optim_state_dict=state["optimizers"])


def _read(state: dict[str, Any], path: Path) -> None:
    """Fill a state from a checkpoint, in place."""
    with open(path / ".metadata", "rb") as file:
        _Unpickler(file).load()
    with _alone_or_not():
        load_sharded(state, checkpoint_id=path, planner=_Planner())


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is corrupt or of another run ({_reason(error)}); move it away to start anew."
        ) from error


def _reason(error: BaseException) -> str:
    """Return the last line of what PyTorch reports, which comes after the traces of processes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].rstrip(".")


@contextlib.contextmanager
def _alone_or_not() -> Iterator[None]:
    with warnings.catch_warnings():  # a process alone needs no group, of which PyTorch warns
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _state(
    module: nn.Module, average: Mapping[str, Tensor], optimizers: list[Optimizer]
) -> dict[str, Any]:
    return {
        "module": module.state_dict(),
        "average": dict(average),
        "optimizers": get_optimizer_state_dict(module, optimizers),
    }


def _replace(partial: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for path in target.parent.glob(f"{PREFIX}*"):
        if path != target and path.name[len(PREFIX) :].isdigit():
            shutil.rmtree(path)


def _remove_partial(folder: Path) -> None:
    for path in folder.glob(f"{PREFIX}*.partial"):
        shutil.rmtree(path)
