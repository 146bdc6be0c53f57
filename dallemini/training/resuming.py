"""What a run that goes on from a checkpoint may have otherwise than before, and what not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError, ConfigError, MissingFileError
from ..files import PathName, as_path
from ..foreign import show
from .checkpoint import is_checkpoint, newest, read_progress
from .config import TrainingConfig

_Config = TypeVar("_Config", bound=TrainingConfig)
_DEEPEST = 8  # settings in settings
_MOST_TOLD = 5  # settings with both values in a message


def starting_point(folder: Path, resume_from: str | None) -> Path | None:
    """Return the checkpoint that a run goes on from: its newest, or the one that is named.

    A run that went on from the named one already goes on from its own newest, so that the same
    command can be started again.

    Raises:
        MissingFileError: the named one is no checkpoint.
        ConfigError: the folder holds a run of its own, which did not begin there.
        CheckpointError: the folder's newest checkpoint is corrupt.
    """
    last = newest(folder)
    if resume_from is None:
        return last
    named = as_path(resume_from).resolve()
    if last is not None and last.resolve() != named:
        before = read_progress(last).get("config", {}).get("resume_from")
        if isinstance(before, str) and _is_one_place(before, named):
            return last
    if not is_checkpoint(named):
        raise MissingFileError(
            f"{resume_from} is no checkpoint of a run; name a folder such as "
            f"{last or folder / 'checkpoint-00000100'}."
        )
    if last is not None and named.parent != folder.resolve():
        raise ConfigError(
            f"{folder} holds a run of its own ({last.name}); take another run folder to go on from "
            f"{resume_from}, or leave out resume_from."
        )
    return folder / named.name if named.parent == folder.resolve() else named


def stored_settings(folder: Path, resume_from: str | None) -> tuple[Path, dict[str, Any]] | None:
    """Return the checkpoint that a run goes on from and the settings in it, if there is one.

    Raises:
        DalleMiniError: as `starting_point`.
    """
    path = starting_point(folder, resume_from)
    return None if path is None else (path, read_progress(path).get("config", {}))


def changes(before: Mapping[str, Any], config: TrainingConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that are not as before, by name, with both values."""
    old, new = _flat(before), _flat(config.to_dict())
    return {
        name: (old[name], value)
        for name, value in new.items()
        if name in old and old[name] != value and not _is_the_same(name, old[name], value)
    }


def with_warmup(config: _Config, before: Mapping[str, Any]) -> _Config:
    """Return a configuration that says its warm-up: the one there was, where none is asked for.

    More steps than before thus do not make the rates fall and rise again.

    Args:
        config: of this run.
        before: the settings in the checkpoint; empty where there is none.
    """
    if config.warmup_steps is not None:
        return config
    usual = replace(config, steps=before.get("steps", config.steps)).warmup
    return replace(config, warmup_steps=before.get("warmup_steps") or usual)


def refuse_changes(before: Mapping[str, Any], config: TrainingConfig, path: Path) -> None:
    """Refuse to go on with settings that stay as they are for the length of a run.

    Args:
        before: the settings in the checkpoint.
        config: those asked for now; `may_change` names the free ones.
        path: of the checkpoint, for the error.

    Raises:
        ConfigError: names such settings with both values.
        CheckpointError: the checkpoint's settings are not those of a run.
    """
    try:
        type(config).from_dict({**config.to_dict(), **_known(before, config.to_dict())})
    except ConfigError as error:
        raise CheckpointError(
            f"{path} is corrupt or of another run ({show(str(error), most=300)[1:-1]}); move it "
            "away to start anew."
        ) from error
    old, new = _flat(before), _flat(config.to_dict())
    fixed = {
        name: value
        for name, value in new.items()
        if not config.may_change & {name, name.partition(".")[0]}
        and not _is_the_same(name, old.get(name), value)
    }
    refuse_changed(old, fixed, path)


def refuse_changed(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse values that are not those of the checkpoint, where it has them.

    Raises:
        ConfigError: names the first few with both values.
    """
    told = [
        f"{name}={show(before[name], most=60)}, not {show(value, most=60)}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    if told:
        told[_MOST_TOLD:] = [f"{len(told) - _MOST_TOLD} more"] * (len(told) > _MOST_TOLD)
        raise ConfigError(
            f"{path} was made with {', '.join(told)}: that stays as it is for the length of a run. "
            "Ask for what it was made with, or take another run folder to start anew."
        )


def _is_the_same(name: str, old: Any, new: Any) -> bool:
    """Tell whether two values mean one thing: a folder by two names, a start that is not given."""
    if name == "warmup_steps" and new is None:
        return True
    if name in ("init_from", "vqgan", "tokenizer") and old and new:
        return _is_one_place(old, new)
    return name in ("loss.quantize_from", "loss.adversarial_from") and None in (old, new)


def _is_one_place(one: str, other: PathName) -> bool:
    """Tell whether two names are those of one file or folder."""
    try:
        return as_path(one).resolve() == as_path(other).resolve()
    except (OSError, RuntimeError, ValueError):  # a name that no file can have
        return False


def _known(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return what there was of the settings that there are now; older ones had others."""
    return {
        name: _known(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else old
        for name, value in now.items()
        for old in [before.get(name, value)]
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and prefix.count(".") < _DEEPEST:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
