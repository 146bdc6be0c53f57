"""The native layout: `config.json` with our mark, and `model.safetensors`.

The mark is the key "dallemini" in `config.json`, which says whose configuration it is; without it a
folder is foreign, whatever its files are called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .._version import __version__
from ..config import CONFIG_NAME, read_json
from ..errors import CheckpointError, MissingFileError
from ..files import write_text
from ..foreign import show, with_article
from ..hub.source import Source
from .formats import CLASS_NAMES, Component, LazyCheckpoint, fetch_json
from .lazy import LazyTensor
from .safetensors_file import WEIGHTS_FILE, read_safetensors, write_safetensors
from .wrappers import plain_names

MARK = "dallemini"
FILES = (CONFIG_NAME, WEIGHTS_FILE)


class Native:
    """A component as this library saves it."""

    def __init__(self, component: Component) -> None:
        self.component: Component = component
        self.name = "native"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the two files, where `config.json` has the mark."""
        if source.selected not in (None, *FILES):
            return None
        config = fetch_json(source)
        if config is None or not isinstance(config.get(MARK), dict):
            return None
        holds = config[MARK].get("component")
        if holds != self.component:
            raise CheckpointError(
                f"{source.name} holds {_class_name(holds)}, not "
                f"{with_article(CLASS_NAMES[self.component])}. Load it with its own class."
            )
        if WEIGHTS_FILE not in source.files():
            raise MissingFileError(
                f"{source.name} has a {CONFIG_NAME} but no {WEIGHTS_FILE}. Copy or download both."
            )
        return FILES

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the component."""
        config, mark = read_config(paths[CONFIG_NAME])
        _, tensors = read_plain(paths[WEIGHTS_FILE])
        lazy = {name: LazyTensor.of(name, tensor) for name, tensor in tensors.items()}
        return LazyCheckpoint(config, lazy, mark)


def read_plain(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Map a weight file, and take off what training put in front of its names.

    Returns:
        What was in front of them, "" where there was nothing, and the tensors without it and
        without what only training needs.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: it is truncated or corrupt.
    """
    stored = read_safetensors(path)
    prefix, names = plain_names(stored, origin=str(path))
    return prefix, {name: stored[prefix + name] for name in names}


def _class_name(component: object) -> str:
    names = {str(known): name for known, name in CLASS_NAMES.items()}
    known = names.get(component) if isinstance(component, str) else None
    return with_article(known or f"part called {show(component)}")


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a configuration, and what its mark says.

    Raises:
        MissingFileError: the file does not exist.
        ConfigError: it does not hold a JSON object.
    """
    config = read_json(path)
    mark: dict[str, Any] = config.pop(MARK, {})
    return config, mark


def write_native(
    checkpoint: LazyCheckpoint, directory: Path, component: Component, *, origin: Mapping[str, str]
) -> None:
    """Write a checkpoint into an existing folder; the configuration comes last.

    Args:
        checkpoint: the configuration and the tensors, which are loaded one at a time.
        directory: an existing folder.
        component: what the checkpoint holds.
        origin: where it comes from, kept in the mark.

    Raises:
        StorageError: the folder cannot be written.
        CheckpointError: a tensor cannot be read.
    """
    write_safetensors(checkpoint.tensors, directory / WEIGHTS_FILE)
    mark = {"component": component, "version": __version__, **origin}
    text = json.dumps({MARK: mark, **checkpoint.config}, indent=2) + "\n"
    write_text(directory / CONFIG_NAME, text)
