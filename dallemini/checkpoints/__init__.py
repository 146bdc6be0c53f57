"""Any released checkpoint becomes a configuration and a state dict with the names of this library.

This package is the only place that knows foreign names and file formats. The first load of a
foreign checkpoint converts it, one tensor at a time, into a native folder in the cache; later loads
map that. Knows no model: `pretrained` builds one from what is read here, and hands in the shapes
that a configuration asks for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import CONFIG_NAME
from ..errors import (
    CheckpointError,
    ConfigError,
    InputError,
    MissingFileError,
    UnsupportedModelError,
)
from ..files import as_path, replacing_folder
from ..foreign import with_article
from ..hub.conversions import conversion_cache_dir, source_key
from ..hub.source import Source
from .cache import convert_once
from .clip import HuggingFaceCLIP
from .clip_openai import OpenAICLIP, OpenCLIP
from .dallebart import DalleBart
from .dvae import DALLEPytorch, OpenAIDVAE
from .formats import (
    CLASS_NAMES,
    COMPONENTS,
    Component,
    Format,
    LazyCheckpoint,
    known_formats,
    refuse_too_many_layers,
    register_format,
)
from .lazy import LazyTensor, check_weights
from .min_dalle import Detokenizer, MinDalle
from .native import Native, read_config, read_plain, write_native
from .safetensors_file import (
    WEIGHTS_FILE,
    read_tensor,
    save_checkpoint,
    write_tensors,
)
from .shapes import Shapes, check_tensors
from .upscaler import NCNN, RealESRGAN
from .vqgan import Taming, VQGANJax

__all__ = [
    "Checkpoint",
    "Claim",
    "Component",
    "Expected",
    "Format",
    "LazyCheckpoint",
    "LazyTensor",
    "check_tensors",
    "convert",
    "describe",
    "find_components",
    "find_format",
    "known_formats",
    "read_checkpoint",
    "read_tensor",
    "register_format",
    "save_checkpoint",
    "write_tensors",
]

_BUILT_IN: tuple[Format, ...] = (
    *(MinDalle(), DalleBart()),
    *(Taming(), Detokenizer(), VQGANJax(), OpenAIDVAE(), DALLEPytorch()),
    *(OpenAICLIP(), OpenCLIP(), HuggingFaceCLIP()),
    *(NCNN(), RealESRGAN()),
)
for _format in _BUILT_IN:
    register_format(_format)

Expected = Callable[[Mapping[str, Any]], Shapes]
"""Tells the names and shapes of the tensors that a configuration asks for, refusing a wrong one."""


@dataclass(frozen=True)
class Claim:
    """A format that takes some files of a source for a component.

    Attributes:
        format: the format.
        names: the files that it needs.
    """

    format: Format
    names: tuple[str, ...]

    def read(self, source: Source, expected: Expected | None) -> LazyCheckpoint:
        """Describe the component; a foreign one must have the tensors that are expected."""
        checkpoint = self.format.read(source, source.fetch(self.names))
        if expected is not None and not isinstance(self.format, Native):
            shapes = expected(checkpoint.config)
            check_tensors(checkpoint.tensors, shapes, origin=source.name)
        return checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one component.

    Attributes:
        config: the fields of its configuration.
        state_dict: its tensors, mapped from `path`.
        format: the format that they came in.
        path: the native weight file.
        mark: what `config.json` says beside the configuration: the version, a quantisation.
        prefix: what the file has in front of all the names, such as "module.".
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    format: str
    path: Path
    mark: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""

    def read(self, name: str) -> Tensor:
        """Read a tensor past the shared mapping, whose pages would stay in memory.

        Raises:
            CheckpointError: the file lacks it, or is damaged.
        """
        return read_tensor(self.path, self.prefix + name)


def read_checkpoint(
    source: Source,
    *,
    component: Component,
    cache_dir: str | os.PathLike[str] | None = None,
    expected: Expected | None = None,
) -> Checkpoint:
    """Read a component in any known format, converting a foreign one on its first load.

    Args:
        source: where the files lie.
        component: what is wanted from them.
        cache_dir: the Hub's cache folder, beside which conversions are kept; the source's own
            when None.
        expected: what a foreign checkpoint is compared with before it is converted.

    Raises:
        MissingFileError: the source holds no such component, or a part of it is missing.
        CheckpointError: the files are corrupt, unsafe, or disagree with their configuration.
        UnsupportedModelError: they belong to an architecture that is not modelled.
        ConfigError: a configuration cannot be read.
        HubError: a file cannot be downloaded.
        StorageError: the disk is full.
    """
    found = _detect(source, component)
    if isinstance(found.format, Native):
        paths = source.fetch(found.names)
        return _map(paths[CONFIG_NAME], paths[WEIGHTS_FILE], found.format.name)

    def write(folder: Path) -> None:
        checkpoint = found.read(source, expected)
        write_native(checkpoint, folder, component, origin=_origin(source, found.format))

    cache = conversion_cache_dir(source.where.cache_dir if cache_dir is None else cache_dir)
    folder = cache / f"{component}-{source_key(source, found.names)}"
    folder = convert_once(folder, _is_usable, write, name=source.name)
    return _map(folder / CONFIG_NAME, folder / WEIGHTS_FILE, found.format.name)


def describe(
    source: Source, *, component: Component, expected: Expected | None = None
) -> tuple[str, LazyCheckpoint]:
    """Return the format of a component and its tensors, still unread.

    Raises:
        As `read_checkpoint`, without StorageError.
    """
    found = _detect(source, component)
    return found.format.name, found.read(source, expected)


def convert(
    source: Source,
    output: str | os.PathLike[str],
    *,
    component: Component,
    dtype: torch.dtype | None = None,
    expected: Expected | None = None,
) -> Path:
    """Write a component in the native layout, in constant memory and past the cache.

    Args:
        source: where the files lie, in any known format.
        output: folder to write to; `config.json` and `model.safetensors` in it are replaced.
        component: what is wanted from the source.
        dtype: for the floating-point tensors; their own when None.
        expected: what a foreign checkpoint is compared with before it is converted.

    Returns:
        The folder.

    Raises:
        InputError: `dtype` is not a floating-point type, or the source is quantised.
        StorageError: the folder cannot be written.
        As `read_checkpoint`.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise InputError(f"dtype must be a floating-point type like torch.float16, not {dtype}.")
    found = _detect(source, component)
    checkpoint, origin = found.read(source, expected), _origin(source, found.format)
    if kind := checkpoint.mark.get("quantization"):
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


def find_format(source: Source, component: Component) -> Claim | None:
    """Return the first format that takes files of a source for a component, None without one.

    Raises:
        InputError: there is no such component.
        UnsupportedModelError: a format knows the model, but not its architecture.
        CheckpointError: no format takes it, and one said why.
        MissingFileError: a file that belongs to the others is missing.
    """
    if component not in COMPONENTS:
        raise InputError(f"component must be one of {', '.join(COMPONENTS)}, not {component!r}.")
    refusal: CheckpointError | None = None
    for entry in (Native(component), *known_formats(component)):
        try:
            names = entry.detect(source)
        except UnsupportedModelError:
            raise
        except CheckpointError as error:  # mostly: it belongs to another component
            refusal = refusal or error
            continue
        if names and source.selected in (None, *names):
            return Claim(entry, names)
    if refusal is not None:
        raise refusal
    return None


def find_components(source: Source, known: Mapping[Component, Expected]) -> set[Component]:
    """Return which of some components a source holds; where two claim one file, its tensors decide.

    Args:
        source: where the files lie.
        known: the components that are looked for, with what their tensors are compared with.

    Raises:
        UnsupportedModelError: it holds a model of another architecture.
        CheckpointError: no format takes it, and one said why.
    """
    claims: dict[Component, set[str]] = {}
    refusals: list[CheckpointError] = []
    for component in known:
        try:
            claim = find_format(source, component)
        except UnsupportedModelError:
            raise
        except CheckpointError as error:  # mostly: it belongs to another component
            refusals.append(error)
            continue
        if claim is not None:
            claims[component] = {*claim.names}
    if refusals and not claims:
        raise refusals[0]
    disputed = {
        component
        for component, names in claims.items()
        if any(names & others for other, others in claims.items() if other != component)
    }
    return (claims.keys() - disputed) | _decide(source, disputed, known)


def _decide(
    source: Source, disputed: set[Component], known: Mapping[Component, Expected]
) -> set[Component]:
    errors: list[CheckpointError] = []
    for component, expected in known.items():
        if component in disputed:
            try:
                describe(source, component=component, expected=expected)
            except CheckpointError as error:
                errors.append(error)
            else:
                return {component}
    for refusal in errors:  # whoever knows the model well enough to refuse it by name
        if isinstance(refusal, UnsupportedModelError):
            raise refusal
    if errors:
        raise errors[0]
    return set()


def _detect(source: Source, component: Component) -> Claim:
    found = find_format(source, component)
    if found is None:
        raise _nothing_found(source, component)
    return found


def _nothing_found(source: Source, component: Component) -> Exception:
    files = source.files()
    if "model_index.json" in files:
        return MissingFileError(
            f"{source.name} is a whole pipeline. Load it with Pipeline.from_pretrained, or pass "
            f"subfolder={'scorer' if component == 'clip' else component!r}."
        )
    what = f"{source.selected} of {source.name}" if source.selected else source.name
    formats = ", ".join(entry.name for entry in known_formats(component))
    return MissingFileError(
        f"{what} is not {with_article(CLASS_NAMES[component])} in a known format (native: "
        f"config.json with the mark 'dallemini' and {WEIGHTS_FILE}; or {formats}); "
        f"{source.told_files()}."
    )


def _map(config: Path, weights: Path, name: str) -> Checkpoint:
    (fields, mark), (prefix, tensors) = read_config(config), read_plain(weights)
    refuse_too_many_layers(fields, tensors)
    packed = set() if mark.get("quantization") is None else _packed(tensors)
    own = {key: tensor for key, tensor in tensors.items() if key not in packed}
    check_weights(map(LazyTensor.of, own, own.values()), origin=str(weights))
    return Checkpoint(fields, tensors, name, weights, mark, prefix)


def _packed(tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names of what may be int8: weights that have scales beside them."""
    return {
        key
        for key, tensor in tensors.items()
        if tensor.dtype == torch.int8 and key.endswith(".weight") and f"{key}_scale" in tensors
    }


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
