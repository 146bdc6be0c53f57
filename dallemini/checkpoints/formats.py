"""What a checkpoint format is, and the list of those that are known.

A format recognises its files from their names, says which of them it needs, and describes their
tensors by the names of this library. New ones join through `register_format`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ..config import CONFIG_NAME, read_json
from ..errors import CheckpointError, ConfigError, UnsupportedModelError
from ..hub.source import Source
from .lazy import LazyTensor
from .safetensors_file import read_safetensors
from .torch_file import read_torch

Component = Literal["transformer", "vqgan", "clip"]
COMPONENTS: tuple[Component, ...] = ("transformer", "vqgan", "clip")
CLASS_NAMES = {"transformer": "Transformer", "vqgan": "VQGAN", "clip": "CLIP"}


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


def refuse_values(
    config: Mapping[str, Any], supported: Mapping[str, Any], *, origin: str, model: str
) -> None:
    """Refuse a foreign configuration that asks for another computation.

    Args:
        config: the foreign values.
        supported: the only value of each key that is computed here, which is also its default.
        origin: where the configuration comes from, for messages.
        model: whose architecture is computed, for messages.

    Raises:
        UnsupportedModelError: a key has another value; the message names it and both values.
    """
    for key, value in supported.items():
        if config.get(key, value) != value:
            raise UnsupportedModelError(
                f"{origin} has {key} {config[key]!r}, but only {value!r} is supported: the "
                f"architecture of {model}."
            )


def refuse_other_component(config: Mapping[str, Any], component: Component, origin: str) -> None:
    """Refuse a foreign configuration that clearly belongs to another part of the pipeline.

    Raises:
        CheckpointError: it does; the message names the class that loads it.
    """
    holds: Component | None = None
    if "encoder_vocab_size" in config or config.get("model_type") == "dallebart":
        holds = "transformer"
    elif "ch_mult" in config:
        holds = "vqgan"
    elif config.get("model_type") == "clip":
        holds = "clip"
    if holds not in (None, component):
        raise CheckpointError(
            f"{origin} holds a {CLASS_NAMES[holds]}, not a {CLASS_NAMES[component]}. Load it with "
            f"{CLASS_NAMES[holds]}.from_pretrained."
        )


def whole_number(config: Mapping[str, Any], key: str, default: int, *, origin: str) -> int:
    """Return a size from a foreign configuration.

    Raises:
        ConfigError: it is not a positive whole number.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"{origin}: {key} must be a whole number, not {value!r}.")
    return value
