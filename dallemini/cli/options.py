"""Options that several commands share, and what they mean."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .. import hub
from ..generation import GenerationConfig
from ..models.precision import Quantization
from ..models.transformer import Transformer

DtypeName = Literal["float32", "float16", "bfloat16"]
PrecisionName = Literal["float32", "float16", "bfloat16", "int8"]


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

    def open(self, name: str, subfolder: str | None = None) -> hub.Source:
        """Find the files of a model, or of a folder in it.

        Raises:
            DalleMiniError: as `hub.open`.
        """
        where = hub.Where(self.revision, self.cache_dir, self.offline)
        return hub.open(name, where, subfolder=subfolder)

    def elsewhere(self) -> SourceOptions:
        """Return the same for another model, which has revisions of its own."""
        return dataclasses.replace(self, revision=None)


Where = Annotated[SourceOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How a model that draws is loaded.

    Attributes:
        device: where to compute: cpu, cuda, cuda:1, mps.
        dtype: floating-point type of the weights; int8 for smaller ones of the transformer, on the
            CPU.
        quantization: an older spelling of --dtype int8.
    """

    device: str = "cpu"
    dtype: PrecisionName = "float32"
    quantization: Quantization | None = None

    def check(self) -> None:
        """Try the options before anything is loaded.

        Raises:
            InputError: the device cannot be used.
            UnsupportedOperationError: int8 weights are not for this device or type.
        """
        Transformer.check_precision(self.device, self.dtype, self.quantization)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `Pipeline.from_pretrained` for these options."""
        return dataclasses.asdict(self)


Drawing = Annotated[DrawingOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


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
    """Make a type with some fields of `GenerationConfig`, their help, and other flags for them.

    Args:
        name: of the type.
        settings: names of the fields.
        aliases: more flags, by field.
    """
    help_of, hints = attribute_help(GenerationConfig), typing.get_type_hints(GenerationConfig)
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
