"""What a checkpoint format is, and the list of those that are known.

A format recognises its files from their names, says which of them it needs, and describes their
tensors by the names of this library. New ones join through `register_format`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ..config import CONFIG_NAME, read_json
from ..errors import CheckpointError
from ..foreign import show
from ..hub.source import Source
from .lazy import LazyTensor
from .safetensors_file import read_safetensors
from .torch_file import read_torch

Component = Literal["transformer", "vqgan", "clip", "upscaler", "dvae", "discrete_vae"]
CLASS_NAMES: dict[Component, str] = {
    "transformer": "Transformer",
    "vqgan": "VQGAN",
    "clip": "CLIP",
    "upscaler": "Upscaler",
    "dvae": "DVAE",
    "discrete_vae": "DiscreteVAE",
}
COMPONENTS: tuple[Component, ...] = tuple(CLASS_NAMES)


@dataclass(frozen=True)
class LazyCheckpoint:
    """A checkpoint that was described but not read.

    Attributes:
        config: fields of the component's configuration.
        tensors: its tensors by their names here.
        mark: what a native `config.json` says beside the configuration, such as a quantisation.
    """

    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    mark: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse_too_many_layers(self.config, self.tensors)


class Format(Protocol):
    """A checkpoint format of one component."""

    @property
    def name(self) -> str:
        """What the format is called in messages."""

    @property
    def component(self) -> Component:
        """What it holds."""

    def detect(self, source: Source) -> tuple[str, ...] | None:
        """Return the files that are needed, or None where the source is not of this format.

        Small files may be fetched to tell; an unsupported variant is refused here, before its
        weights are downloaded.
        """

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        """Describe the checkpoint in the files that `detect` asked for.

        Whether its tensors are those that its configuration asks for is compared afterwards.
        """


_FORMATS: list[Format] = []


def register_format(checkpoint_format: Format) -> None:
    """Add a format; those added last are asked first.

    Example:
        >>> from dallemini.checkpoints import known_formats, register_format
        >>> register_format(known_formats("clip")[0])
    """
    if checkpoint_format in _FORMATS:
        _FORMATS.remove(checkpoint_format)
    _FORMATS.insert(0, checkpoint_format)


def known_formats(component: Component) -> tuple[Format, ...]:
    """Return the formats of a component in the order in which they are asked."""
    return tuple(entry for entry in _FORMATS if entry.component == component)


def fetch_json(source: Source, name: str = CONFIG_NAME) -> dict[str, Any] | None:
    """Return a small JSON file of a source, None where it has no such file.

    Raises:
        ConfigError: it is not a JSON object.
    """
    return read_json(source.fetch([name])[name]) if name in source.files() else None


def pick(source: Source, candidates: Sequence[str]) -> str | None:
    """Return the first candidate that a source has, or the selected one where a file was named."""
    if source.selected is not None:
        return source.selected if source.selected in candidates else None
    names = source.files()
    return next((name for name in candidates if name in names), None)


def read_weights(path: Path) -> dict[str, LazyTensor]:
    """Describe the tensors of a safetensors or pickled file.

    Raises:
        MissingFileError: the file does not exist.
        CheckpointError: it is corrupt, or asks for code to be run.
    """
    if path.suffix != ".safetensors":
        return read_torch(path)
    return {name: LazyTensor.of(name, tensor) for name, tensor in read_safetensors(path).items()}


def refuse_too_many_layers(config: Mapping[str, Any], tensors: Collection[str]) -> None:
    """Compare the numbers of layers with the tensors that there are, before a model is built.

    Raises:
        CheckpointError: there are more layers than tensors.
    """
    for key in config:
        layers = config[key] if key.endswith(("_layers", "_blocks")) else 0
        if type(layers) is int and layers > len(tensors):
            raise CheckpointError(
                f"The configuration asks for {show(layers)} {key}, but there are only "
                f"{len(tensors)} tensors. Use the configuration that belongs to these weights."
            )
