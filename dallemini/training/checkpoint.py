"""Checkpoints of a run: everything needed to go on as if nothing had happened.

Written by `torch.distributed.checkpoint`: each process writes its part of split weights, and any
number of processes can read them. On several machines the folder must be one that all of them see.
A new checkpoint may be marked as untried; those before it stay until it proved good. Another mark
says how the best one was judged, which stays whatever comes after it. Knows tensors and numbers,
not what they mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.optim import Optimizer

from ..errors import CheckpointError, DalleMiniError, StorageError
from ..foreign import check_file, is_finite, show
from .description import NAME, SafePlanner, SafeReader
from .distributed import local, rank, someone, wait

PREFIX = "checkpoint-"
_UNTRIED = "untried"  # a file in a checkpoint whose weights have not computed a loss yet
_BEST = "best.json"  # a file in a checkpoint that was judged better than those before
_LONGEST_MARK = 1000  # bytes
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    CheckpointException,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def newest(folder: Path, *, before: Path | None = None) -> Path | None:
    """Return the last complete checkpoint of a run, or the last before another, if there is one."""
    found = [path for path in _all(folder) if before is None or path < before]
    return found[-1] if found else None


def is_checkpoint(path: Path) -> bool:
    """Tell whether a folder is a complete checkpoint, whatever it is called."""
    return (path / NAME).is_file() and path.suffix != ".partial"


def is_untried(path: Path) -> bool:
    """Tell whether a checkpoint's weights have yet to prove good."""
    return (path / _UNTRIED).exists()


def accept(path: Path, *, keep: int = 1) -> None:
    """Let a checkpoint count as good, and remove those before it; what cannot be removed stays.

    Args:
        path: of the checkpoint.
        keep: how many of the newest stay; the one that was judged best does besides.
    """
    if rank() == 0:
        (path / _UNTRIED).unlink(missing_ok=True)
        found, best = _all(path.parent), judged_best(path.parent)
        kept = {path, *found[-keep:], *([] if best is None else [best[0]])}
        for other in found:
            if best is not None and other != best[0]:
                (other / _BEST).unlink(missing_ok=True)
        _remove(*(other for other in found if other not in kept))


def judged_best(folder: Path) -> tuple[Path, float] | None:
    """Return the checkpoint of a run that was judged best, and how: lower is better."""
    judged = []
    for path in _all(folder):
        with contextlib.suppress(DalleMiniError, OSError, ValueError, RecursionError):
            check_file(path / _BEST, largest=_LONGEST_MARK)
            value = json.loads((path / _BEST).read_text("utf-8"))
            if is_finite(value):
                judged.append((float(value), path))
    return None if not judged else (min(judged)[1], min(judged)[0])


def set_aside(folder: Path, *, after: Path) -> list[Path]:
    """Give the checkpoints after one of the same run another name, so that it is the newest.

    Raises:
        StorageError: that cannot be done.
    """
    later = [path for path in _all(folder) if path > after]
    moved = [path.with_name(f"aside-{path.name}") for path in later]

    def move() -> None:
        for path, place in zip(later, moved, strict=True):
            _remove(place)
            os.replace(path, place)

    try:
        _first_process(move)
    except OSError as error:
        raise StorageError(f"Could not set {later[0]} aside: {error}.") from error
    return moved


def withdraw(path: Path) -> None:
    """Remove a checkpoint that proved bad, so that a run goes on from the one before it."""
    if rank() == 0:
        _remove(path)
    wait()


def save(
    folder: Path,
    *,
    step: int,
    module: nn.Module,
    average: Mapping[str, Tensor],
    optimizers: list[Optimizer],
    progress: Mapping[str, Any],
    untried: bool = False,
    keep: int = 1,
    judged: float | None = None,
) -> Path:
    """Write a checkpoint, atomically, and remove those before it.

    Args:
        folder: of the run.
        step: number of steps done.
        module: weights and buffers, whole or split over processes.
        average: the averaged weights, by name.
        optimizers: of the module's parameters.
        progress: other JSON values to find again.
        untried: mark the checkpoint, and keep those before it until `accept` is called.
        keep: how many of the newest stay; see `accept`.
        judged: how good a checkpoint is that is better than those before, lower is better.

    Returns:
        The checkpoint's folder.

    Raises:
        StorageError: the folder cannot be written; nothing half-made is left, and the checkpoints
            before stay.
    """
    target = folder / f"{PREFIX}{step:08d}"
    partial = target.with_suffix(".partial")
    state = _state(module, average, optimizers) | {"progress": json.dumps(progress)}

    def finish() -> None:
        if untried:
            (partial / _UNTRIED).touch()
        if judged is not None:
            (partial / _BEST).write_text(json.dumps(judged), encoding="utf-8")
        _remove(target)
        os.replace(partial, target)

    try:
        _first_process(lambda: _remove(*folder.glob(f"{PREFIX}*.partial")))
        with _alone_or_not():
            save_sharded(state, checkpoint_id=partial)
        _first_process(finish)
    except (OSError, RuntimeError, CheckpointException) as error:
        _remove(partial)
        raise StorageError(f"Could not write {target}: {_why(error, folder, state)}.") from error
    if not untried:
        accept(target, keep=keep)
    wait()
    return target


def read_progress(path: Path, *, needed: Collection[str] = ()) -> dict[str, Any]:
    """Return the JSON values that were saved beside the weights.

    Those that a run goes on from are of the kinds that the loop writes.

    Args:
        path: of the checkpoint.
        needed: names that must be among them.

    Raises:
        CheckpointError: the checkpoint is corrupt, or holds what no checkpoint needs.
    """
    state = {"progress": ""}
    with _explained(path):
        _read(state, SafeReader(path))
        progress = json.loads(state["progress"])
        if not isinstance(progress, dict):
            raise ValueError(f"its progress is {show(progress)}, not an object")
        for name, fits in _KINDS.items():
            if (name in progress or name in needed) and not fits(progress.get(name)):
                raise ValueError(f"its {name} cannot be {show(progress.get(name))}")
    return progress


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _has_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(type(v) in (int, float) for v in value.values())


def _has_rows(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(row, list) and row and all(type(v) in (int, float) for v in row)
        for row in value.values()
    )


_KINDS: dict[str, Callable[[object], bool]] = {
    "config": lambda value: isinstance(value, dict),
    "task": lambda value: isinstance(value, dict),
    "step": _is_whole,
    "sums": _has_rows,
    "scaler": _has_numbers,
    "ended": lambda value: isinstance(value, bool),
}


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
        CheckpointError: the checkpoint is corrupt, holds what no checkpoint needs, or is of a
            network of other sizes.
    """
    state = _state(module, average, optimizers)
    with _explained(path):
        reader = SafeReader(path)
        _check_sizes(reader.description, module, path)
        _read(state, reader)
        module.load_state_dict(state["module"])
        set_optimizer_state_dict(module, optimizers, optim_state_dict=state["optimizers"])


def load_averages(path: Path, module: nn.Module) -> None:
    """Read the weights that a run would return: the averages, and what has none as it is.

    Args:
        path: of the checkpoint.
        module: what is read of it, by the names in the checkpoint; filled in place.

    Raises:
        CheckpointError: as `load`.
    """
    with _explained(path):
        reader = SafeReader(path)
        _check_sizes(reader.description, module, path)
        names = module.state_dict().keys()
        averaged = {n for n in names if f"average.{n}" in reader.description.state_dict_metadata}
        values = module.state_dict()
        state = {
            "module": {name: value for name, value in values.items() if name not in averaged},
            "average": {name: value for name, value in values.items() if name in averaged},
        }
        _read(state, reader)
        module.load_state_dict({**state["module"], **state["average"]})


def _check_sizes(description: Metadata, module: nn.Module, path: Path) -> None:
    for name, value in module.state_dict().items():
        stored = description.state_dict_metadata.get(f"module.{name}")
        there = stored.size if isinstance(stored, TensorStorageMetadata) else None
        if there != value.shape:
            said = "is not there" if there is None else f"has the size {list(there)} there"
            raise CheckpointError(
                f"{path} is of another run ({name} {said}, and {list(value.shape)} here); take the "
                "settings of that run, or move it away to start anew."
            )


def _read(state: dict[str, Any], reader: SafeReader) -> None:
    """Fill a state from a checkpoint, in place."""
    with _alone_or_not():
        load_sharded(state, storage_reader=reader, planner=SafePlanner())


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is corrupt or of another run ({_reason(error)}); move it away to start anew."
        ) from error


def _reason(error: BaseException) -> str:
    """Return the last line of what PyTorch reports, which comes after the traces of processes."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "weights_only" in str(error):  # its advice is to run what is in the file
        return "it holds what no checkpoint needs, or is damaged"
    return lines[-1].rstrip(".")[:300]


def _why(error: BaseException, folder: Path, state: Mapping[str, Any]) -> str:
    """Say that a disk is full where PyTorch, which does not notice, says something else."""
    tensors = [state["average"], state["module"], *state["optimizers"]["state"].values()]
    values = (value for of in tensors for value in of.values() if isinstance(value, Tensor))
    needed = sum(local(value).numel() * value.element_size() for value in values)
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < needed:
            return f"it takes {needed / 1e6:.1f} MB, and the disk has {free / 1e6:.1f} MB left"
    return f"{_reason(error)}. Free some space, or take another folder"


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


def _first_process(act: Callable[[], None]) -> None:
    """Let the first process act while the others wait; if it fails, all do."""
    failed = None
    if rank() == 0:
        try:
            act()
        except OSError as error:
            failed = error
    if someone(failed is not None):
        raise failed or OSError("the first process could not write it")


def _all(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, the newest last."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.name[len(PREFIX) :].isdigit())


def _remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
