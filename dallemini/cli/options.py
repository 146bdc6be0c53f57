"""Options that several commands share, and what they mean."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from .. import hub
from ..generation import GenerationConfig, GenerationOverrides
from ..models.int8 import Quantization, refuse_moving
from ..models.pretrained import check_device

DtypeName = Literal["float32", "float16", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where models come from.

    Attributes:
        revision: branch, tag or commit of the model on the Hub.
        cache_dir: the Hub's cache folder, instead of the user's.
        offline: never ask the network.
    """

    revision: str | None = None
    cache_dir: Path | None = None
    offline: tyro.conf.FlagCreatePairsOff[bool] = False


Where = Annotated[SourceOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How a model that draws is loaded.

    Attributes:
        device: where to compute: cpu, cuda, cuda:1, mps.
        dtype: floating-point type of the weights.
        quantization: int8 for smaller weights of the transformer, on the CPU.
    """

    device: str = "cpu"
    dtype: DtypeName = "float32"
    quantization: Quantization | None = None

    def check(self) -> None:
        """Try the options before anything is loaded.

        Raises:
            InputError: the device cannot be used.
            UnsupportedOperationError: int8 weights are not for this device or type.
        """
        device, dtype = check_device(self.device), to_dtype(self.dtype)
        if self.quantization is not None:
            refuse_moving(lambda tensor: tensor.to(device=device, dtype=dtype))

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `Pipeline.from_pretrained` for these options."""
        return {
            "device": self.device,
            "dtype": to_dtype(self.dtype),
            "quantization": self.quantization,
        }


Drawing = Annotated[DrawingOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


@dataclasses.dataclass(frozen=True)
class Location:
    """A model or a part of it, as the user named it: enough to open or to load it.

    Attributes:
        name: Hub id, local path or bundled name.
        where: how to look for it.
        subfolder: of the part inside the model.
    """

    name: str
    where: SourceOptions
    subfolder: str | None = None

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `from_pretrained` beside the source's name."""
        return {
            "subfolder": self.subfolder,
            "revision": self.where.revision,
            "cache_dir": self.where.cache_dir,
            "local_files_only": self.where.offline,
        }

    def inside(self, folder: str) -> Location:
        """Return the place of a folder in this one."""
        subfolder = folder if self.subfolder is None else f"{self.subfolder}/{folder}"
        return dataclasses.replace(self, subfolder=subfolder)

    def open(self, *, offline: bool = False) -> hub.Source:
        """Find its files.

        Args:
            offline: look into the cache only.

        Raises:
            DalleMiniError: as `hub.open_source`.
        """
        keywords = self.keywords
        keywords["local_files_only"] |= offline
        return hub.open_source(self.name, **keywords)


def to_dtype(name: DtypeName | None) -> torch.dtype | None:
    """Return the floating-point type with this name."""
    if name is None:
        return None
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def attribute_help(cls: type) -> dict[str, str]:
    """Return what the docstring of a class says about each of its attributes.

    Example:
        >>> from dallemini.cli.options import SourceOptions, attribute_help
        >>> attribute_help(SourceOptions)["offline"]
        'never ask the network.'
    """
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def drawing_type(
    name: str, settings: Iterable[str], *, aliases: Mapping[str, tuple[str, ...]] | None = None
) -> Any:
    """Make a type with some fields of `GenerationOverrides`, their help, and other flags for them.

    Args:
        name: of the type.
        settings: names of the fields.
        aliases: more flags, by field.
    """
    help_of, hints = attribute_help(GenerationConfig), typing.get_type_hints(GenerationOverrides)
    make: Any = typing.TypedDict
    fields = {
        setting: Annotated[
            hints[setting],
            tyro.conf.arg(
                help=help_of[setting],
                help_behavior_hint="(default: the model's own)",
                aliases=(aliases or {}).get(setting, ()),
            ),
        ]
        for setting in settings
    }
    return make(name, fields, total=False)
