"""The work of `dallemini convert`: parts of checkpoints into folders in the native layout."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checkpoints, hub
from .._version import __version__
from ..checkpoints.formats import CLASS_NAMES
from ..errors import InputError, MissingFileError
from ..files import replacing_folder, write_text
from ..models.part_card import CARD_NAME, part_card, save_part
from ..models.precision import check_dtype, read_precision
from ..models.transformer import Transformer
from ..pipeline.cards import short_name
from ..pipeline.parts import (
    CLASSES,
    GENERATION_CONFIG_NAME,
    MODELS,
    Parts,
    check_parts,
    component_of,
    describe,
    write_index,
)
from ..scorer import CLIPTokenizer
from ..text.tokenizer import Tokenizer
from .options import PrecisionName, Quantization

_PIPELINE = ("tokenizer", "transformer", "vqgan")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How checkpoints are converted.

    Attributes:
        output: folder to write: one part into it, several into folders of their own.
        dtype: that is stored; None keeps the source's.
        quantization: an older spelling of a dtype.
    """

    output: Path
    dtype: PrecisionName | None = None
    quantization: Quantization | None = None

    @property
    def int8(self) -> Quantization | None:
        """How the transformer is made smaller, if it is.

        Raises:
            InputError: dtype and quantization contradict each other.
        """
        return read_precision(self.dtype, self.quantization).quantization

    def run(self, source: hub.Source, others: Mapping[str, hub.Source]) -> list[Path]:
        """Convert everything, then put it in place all at once.

        Args:
            source: of most parts.
            others: sources of some, by part.

        Returns:
            The folder of each part.

        Raises:
            DalleMiniError: a source is no good, its parts do not fit each other, or the folder
                cannot be written. Nothing is left behind then.
        """
        origin = Parts(source)
        parts = _join(origin.all(), others)
        if self.int8 is not None and "transformer" not in parts:
            raise InputError(
                f"{source.name} holds {', '.join(parts)}; leave out int8, which makes a "
                "transformer smaller."
            )
        with replacing_folder(self.output) as folder:
            folders = {part: folder if len(parts) == 1 else folder / part for part in parts}
            for part, place in parts.items():
                self._convert(part, place, folders[part])
            loaded = _check_result(folders)
            if set(_PIPELINE) <= parts.keys():
                self._write_index(folder, origin, parts)
            else:
                self._write_cards(loaded, folders, parts)
        return [self.output if len(parts) == 1 else self.output / part for part in parts]

    def _convert(self, part: str, source: hub.Source, folder: Path) -> None:
        if part == "tokenizer":
            save_part(Tokenizer.from_pretrained(source), folder)
            return
        component = component_of(part, source)
        checkpoints.convert(
            source,
            folder,
            component=component,
            dtype=None if self.dtype in (None, "int8") else check_dtype(self.dtype),
            expected=MODELS[component].expected_shapes,
        )
        if part == "transformer" and self.int8 is not None:
            save_part(Transformer.from_pretrained(folder, dtype=self.int8), folder)
        if part == "scorer":
            with contextlib.suppress(MissingFileError):  # OpenAI's file holds the weights only
                save_part(CLIPTokenizer.from_pretrained(source), folder)

    def _write_index(self, folder: Path, source: Parts, parts: Mapping[str, hub.Source]) -> None:
        classes = {part: CLASSES[part][0].__name__ for part in parts}
        classes["vqgan"] = CLASS_NAMES[component_of("vqgan", parts["vqgan"])]
        write_index(folder, classes)
        source.generation_config().save(folder / GENERATION_CONFIG_NAME)
        label = short_name(source.source.label)
        card = hub.model_card(
            self.output.absolute().name,
            summary=f"A text-to-image pipeline for dallemini, converted from `{label}`.",
            sections=hub.usual_sections(
                provenance=f"Converted by dallemini {__version__} from `{label}`."
            ),
        )
        # its own card and notices go with the weights
        for name, text in {"README.md": card, **source.notes()}.items():
            write_text(folder / name, text)

    def _write_cards(
        self,
        loaded: Mapping[str, Any],
        folders: Mapping[str, Path],
        parts: Mapping[str, hub.Source],
    ) -> None:
        """Write the card of each part where they make no pipeline."""
        for part, folder in folders.items():
            title = self.output.absolute().name if len(folders) == 1 else part
            origin = short_name(parts[part].label)
            write_text(folder / CARD_NAME, part_card(loaded[part], title, origin=origin))


def _join(
    parts: Mapping[str, hub.Source], others: Mapping[str, hub.Source]
) -> dict[str, hub.Source]:
    """Return parts of a source, those of others in place of its own."""
    joined = dict(parts)
    for part, source in others.items():
        found = Parts(source).all()
        if part not in found:
            raise InputError(f"{source.name} holds {', '.join(found)}, but no {part}.")
        joined[part] = found[part]
    return {part: joined[part] for part in CLASSES if part in joined}


def _check_result(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Load what was written, mapped from its files, and compare the sizes of the parts.

    Returns:
        The parts.

    Raises:
        InputError: they do not belong together.
        CheckpointError: weights and configuration disagree.
        ConfigError: a configuration makes no model.
    """
    loaded: dict[str, Any] = {}
    for part, folder in folders.items():
        if part == "tokenizer":
            loaded[part] = Tokenizer.from_pretrained(folder)
        else:
            source = hub.open(folder)
            component = component_of(part, source)
            tensors = describe(source, component)[1].tensors.values()
            dtype = next(tensor.dtype for tensor in tensors)
            loaded[part] = MODELS[component].from_pretrained(source, dtype=dtype)
    if set(_PIPELINE) <= loaded.keys():
        check_parts(loaded["tokenizer"], loaded["transformer"], loaded["vqgan"])
    return loaded
