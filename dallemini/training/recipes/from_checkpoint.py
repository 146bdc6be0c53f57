"""A model of any checkpoint of a run: of an earlier one, of the best, of a run that goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError, MissingFileError
from ...files import PathName, as_path
from ..checkpoint import is_checkpoint, judged_best, newest, read_progress
from .clip import write_clip
from .config import (
    CLIPTrainingConfig,
    RunConfig,
    TransformerTrainingConfig,
    VQGANTrainingConfig,
)
from .transformer import write_transformer
from .vqgan import write_vqgan

_WRITERS: dict[type[RunConfig], Callable[[Any, Path], None]] = {
    TransformerTrainingConfig: write_transformer,
    VQGANTrainingConfig: write_vqgan,
    CLIPTrainingConfig: write_clip,
}


def write_model(checkpoint: PathName, output: PathName) -> None:
    """Save what a run would have returned if it had ended with a checkpoint.

    Args:
        checkpoint: its folder, such as `mine-run/checkpoint-00000100`; or that of the run, for the
            checkpoint that was best on held-out data or, where none was, for the newest.
        output: folder for the model: a pipeline, a VQGAN or a scorer.

    Raises:
        MissingFileError: there is no checkpoint, or the model that the run began with is gone.
        CheckpointError: the checkpoint is corrupt, or not of a recipe.
        StorageError: the folder cannot be written.
    """
    folder = as_path(checkpoint)
    path = find_checkpoint(folder)
    if path is None:
        raise MissingFileError(
            f"{folder} holds no checkpoint of a run; name one: mine-run/checkpoint-00000100."
        )
    stored = read_progress(path).get("config", {})
    there = {"output": str(output), "run": str(path.parent), "resume_from": None}
    for kind, write in _WRITERS.items():
        try:
            config = kind.from_dict({**stored, **there})
        except ConfigError:  # the settings are of another part
            continue
        write(config, path)
        return
    raise CheckpointError(
        f"{path} was not written by one of `dallemini train`'s parts; load it by the program that "
        "made it."
    )


def find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that a folder is, or the best or newest one of a run's folder."""
    if is_checkpoint(folder):
        return folder
    best = judged_best(folder)
    return newest(folder) if best is None else best[0]
