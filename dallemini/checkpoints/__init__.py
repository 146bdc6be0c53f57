"""Any released checkpoint becomes a configuration and a state dict with the names of this library.

This package is the only place that knows foreign names and file formats. The first load of a
foreign checkpoint converts it, one tensor at a time, into a native folder in the cache; later loads
map that. Knows no model: `pretrained` builds one from what is read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import CONFIG_NAME, read_json
from ..errors import CheckpointError, ConfigError, InputError, MissingFileError
from ..files import as_path, replacing_folder
from ..hub.source import Source, conversion_cache_dir, list_files, source_key
from .cache import convert_once
from .clip import HuggingFaceCLIP
from .clip_openai import OpenAICLIP, OpenCLIP
from .dallebart import DalleBart, refuse_older_model
from .digests import noted_digest
from .formats import (
    CLASS_NAMES,
    COMPONENTS,
    Component,
    Format,
    LazyCheckpoint,
    fetch_json,
    known_formats,
    refuse_too_many_layers,
    register_format,
)
from .lazy import LazyTensor, check_weights
from .min_dalle import Detokenizer, MinDalle
from .native import MARK, Native, without_mark, write_native
from .safetensors_file import (
    WEIGHTS_FILE,
    read_safetensors,
    read_tensor,
    save_checkpoint,
    write_tensors,
)
from .vqgan import Taming, VQGANJax
from .wrappers import common_prefix

__all__ = [
    "Checkpoint",
    "Component",
    "Format",
    "LazyCheckpoint",
    "LazyTensor",
    "convert",
    "describe",
    "known_formats",
    "read_checkpoint",
    "read_tensor",
    "refuse_older_model",
    "register_format",
    "save_checkpoint",
    "write_tensors",
]

_BUILT_IN: tuple[Format, ...] = (
    *(MinDalle(), DalleBart()),
    *(Taming(), Detokenizer(), VQGANJax()),
    *(OpenAICLIP(), OpenCLIP(), HuggingFaceCLIP()),
)
for _format in _BUILT_IN:
    register_format(_format)


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one component.

    Attributes:
        config: the fields of its configuration.
        state_dict: its tensors, mapped from `path`.
        format: the format that they came in.
        path: the native weight file.
        mark: what `config.json` says beside the configuration: the version, a quantisation.
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    format: str
    path: Path
    mark: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(
    source: Source, *, component: Component, cache_dir: str | os.PathLike[str] | None = None
) -> Checkpoint:
    """Read a component in any known format, converting a foreign one on its first load.

    Args:
        source: where the files lie.
        component: what is wanted from them.
        cache_dir: the Hub's cache folder, beside which conversions are kept.

    Raises:
        MissingFileError: the source holds no such component, or a part of it is missing.
        CheckpointError: the files are corrupt, unsafe, or disagree with their configuration.
        UnsupportedModelError: they belong to an architecture that is not modelled.
        ConfigError: a configuration cannot be read.
        HubError: a file cannot be downloaded.
        StorageError: the disk is full.
    """
    found, names = _detect(source, component)
    if isinstance(found, Native):
        paths = source.fetch(names)
        return _map(paths[CONFIG_NAME], paths[WEIGHTS_FILE], found.name)

    def write(folder: Path) -> None:
        checkpoint = found.read(source, source.fetch(names))
        write_native(checkpoint, folder, component, origin=_origin(source, found))

    cache = conversion_cache_dir(cache_dir)
    notes = cache / ".digests"
    key = source_key(source, names, digest_of=lambda path: noted_digest(path, notes))
    folder = convert_once(cache / f"{component}-{key}", _is_usable, write, name=source.name)
    return _map(folder / CONFIG_NAME, folder / WEIGHTS_FILE, found.name)


def describe(source: Source, *, component: Component) -> tuple[str, LazyCheckpoint]:
    """Return the format of a component and its tensors, still unread.

    Raises:
        As `read_checkpoint`, without StorageError.
    """
    found, names = _detect(source, component)
    return found.name, found.read(source, source.fetch(names))


def convert(
    source: Source,
    output: str | os.PathLike[str],
    *,
    component: Component,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a component in the native layout, in constant memory and past the cache.

    Args:
        source: where the files lie, in any known format.
        output: folder to write to; `config.json` and `model.safetensors` in it are replaced.
        component: what is wanted from the source.
        dtype: for the floating-point tensors; their own when None.

    Returns:
        The folder.

    Raises:
        InputError: `dtype` is not a floating-point type, or the source is quantised.
        StorageError: the folder cannot be written.
        As `read_checkpoint`.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype must be a floating-point type like torch.float16, not {dtype}.")
    found, names = _detect(source, component)
    paths = source.fetch(names)
    checkpoint, origin = found.read(source, paths), _origin(source, found)
    if isinstance(found, Native) and (kind := _mark(paths[CONFIG_NAME]).get("quantization")):
        if dtype is not None:
            raise InputError(
                f"{source.name} is quantised ({kind}) and cannot be converted to {dtype}; "
                "convert the original, or leave dtype out."
            )
        origin["quantization"] = kind
    tensors = {name: _cast(tensor, dtype) for name, tensor in checkpoint.tensors.items()}
    with replacing_folder(output) as folder:
        write_native(LazyCheckpoint(checkpoint.config, tensors), folder, component, origin=origin)
    return as_path(output)


def _detect(source: Source, component: Component) -> tuple[Format, tuple[str, ...]]:
    """Return the format of a source and the files that it needs."""
    if component not in COMPONENTS:
        raise InputError(f"component must be one of {', '.join(COMPONENTS)}, not {component!r}.")
    if component == "transformer":
        refuse_older_model(source.name, None)
    for entry in (Native(component), *known_formats(component)):
        names = entry.detect(source)
        if names and source.selected in (None, *names):
            return entry, names
    raise _nothing_found(source, component)


def _nothing_found(source: Source, component: Component) -> Exception:
    files = source.files()
    if component == "transformer":
        refuse_older_model(source.name, fetch_json(source))
    if "model_index.json" in files:
        return MissingFileError(
            f"{source.name} is a whole pipeline. Load it with Pipeline.from_pretrained, or pass "
            f"subfolder={'scorer' if component == 'clip' else component!r}."
        )
    what = f"{source.selected} of {source.name}" if source.selected else source.name
    formats = ", ".join(entry.name for entry in known_formats(component))
    return MissingFileError(
        f"{what} is not a {CLASS_NAMES[component]} in a known format (native: config.json with the "
        f"mark 'dallemini' and {WEIGHTS_FILE}; or {formats}). There lie: {list_files(files)}."
    )


def _map(config: Path, weights: Path, name: str) -> Checkpoint:
    fields, mark, stored = without_mark(read_json(config)), _mark(config), read_safetensors(weights)
    prefix = common_prefix(stored)
    tensors = {key.removeprefix(prefix): tensor for key, tensor in stored.items()}
    refuse_too_many_layers(fields, tensors)
    if mark.get("quantization") is None:
        check_weights(map(LazyTensor.of, tensors, tensors.values()), origin=str(weights))
    return Checkpoint(fields, tensors, name, weights, mark)


def _mark(config: Path) -> dict[str, Any]:
    mark: dict[str, Any] = read_json(config).get(MARK, {})
    return mark


def _is_usable(folder: Path) -> bool:
    try:
        _map(folder / CONFIG_NAME, folder / WEIGHTS_FILE, "")
    except (CheckpointError, ConfigError, OSError):
        return False
    return True


def _origin(source: Source, found: Format) -> dict[str, str]:
    # Of a local path only the last part: the mark may be published with the folder.
    name = source.name if source.revision_key else Path(source.name).absolute().name
    return {"converted_from": name, "format": found.name}


def _cast(tensor: LazyTensor, dtype: torch.dtype | None) -> LazyTensor:
    if dtype is None or not tensor.dtype.is_floating_point:
        return tensor
    return tensor.apply(lambda values: values.to(dtype))
