"""`dallemini convert`: any known checkpoint to the native layout, one tensor at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import checkpoints, hub
from .._version import __version__
from ..checkpoints.formats import CLASS_NAMES
from ..errors import InputError, MissingFileError
from ..files import as_path, replacing_folder, write_text
from ..models.precision import Quantization, check_dtype, read_precision
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
from .options import PrecisionName, Where

_PIPELINE = ("tokenizer", "transformer", "vqgan")


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a checkpoint in any known format to the native layout.

    One part is written to OUTPUT itself; several get a folder each. With a tokenizer, a
    transformer and a VQGAN the result is a whole pipeline. Of a run of `dallemini train` it is the
    model of a checkpoint: the one named, or of the run's folder the best or the newest.

    Attributes:
        source: Hub id, local folder or file; or a run's folder, or one of its checkpoints.
        output: folder to write, new or empty.
        vqgan: source of the VQGAN, to make a pipeline of a transformer that came without.
        scorer: source of a CLIP model, for ranking.
        upscaler: source of a model that makes pictures larger.
        subfolder: of a part inside the source.
        dtype: floating-point type to store, as in the source when not given; int8 for smaller
            weights of the transformer.
        quantization: an older spelling of --dtype int8.
        where: of the source; --revision is that of SOURCE alone.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    vqgan: str | None = None
    scorer: str | None = None
    upscaler: str | None = None
    subfolder: str | None = None
    dtype: PrecisionName | None = None
    quantization: Quantization | None = None
    where: Where

    def run(self) -> None:
        """Convert everything, then put it in place all at once.

        Raises:
            DalleMiniError: the source is no good or its parts do not fit each other, or OUTPUT
                cannot be written. Nothing is left behind then.
        """
        output = as_path(self.output)
        _check_output(output)
        if self._is_of_a_run():
            return
        source = Parts(self.where.open(self.source, self.subfolder))
        parts = self._with_others(source.all())
        if self._quantization is not None and "transformer" not in parts:
            raise InputError(
                f"{self.source} holds {', '.join(parts)}; leave out int8, which makes a "
                "transformer smaller."
            )
        with replacing_folder(output) as folder:
            folders = {part: folder if len(parts) == 1 else folder / part for part in parts}
            for part, place in parts.items():
                self._convert(part, place, folders[part])
            _check_result(folders)
            if set(_PIPELINE) <= parts.keys():
                self._write_index(folder, source, parts)
        for part in parts:
            print(output if len(parts) == 1 else output / part)

    def _is_of_a_run(self) -> bool:
        """Write the model of a checkpoint that `dallemini train` left, if the source is one."""
        folder = as_path(self.source)
        if not any(folder.glob(".metadata")) and not any(folder.glob("checkpoint-*/.metadata")):
            return False
        from ..training.recipes.from_checkpoint import write_model

        write_model(folder, self.output)
        print(self.output)
        return True

    @property
    def _quantization(self) -> Quantization | None:
        return read_precision(self.dtype, self.quantization).quantization

    def _with_others(self, parts: Mapping[str, hub.Source]) -> dict[str, hub.Source]:
        parts = dict(parts)
        for part in ("vqgan", "scorer", "upscaler"):
            name: str | None = getattr(self, part)
            if name is not None:
                found = Parts(self.where.elsewhere().open(name)).all()
                if part not in found:
                    raise InputError(f"{name} holds {', '.join(found)}, but no {part}.")
                parts[part] = found[part]
        return {part: parts[part] for part in CLASSES if part in parts}

    def _convert(self, part: str, source: hub.Source, folder: Path) -> None:
        if part == "tokenizer":
            Tokenizer.from_pretrained(source).save_pretrained(folder)
            return
        component = component_of(part, source)
        checkpoints.convert(
            source,
            folder,
            component=component,
            dtype=None if self.dtype in (None, "int8") else check_dtype(self.dtype),
            expected=MODELS[component].expected_shapes,
        )
        if part == "transformer" and self._quantization is not None:
            model = Transformer.from_pretrained(folder, dtype=self._quantization)
            model.save_pretrained(folder)
        if part == "scorer":
            with contextlib.suppress(MissingFileError):  # OpenAI's file holds the weights only
                CLIPTokenizer.from_pretrained(source).save_pretrained(folder)

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


def _check_output(output: Path) -> None:
    """Refuse to write where something is: a source's own config.json would be lost.

    Raises:
        InputError: `output` is a file, or a folder that is not empty.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists and is not an empty folder; name a new one.")


def _check_result(folders: Mapping[str, Path]) -> None:
    """Load what was written, mapped from its files, and compare the sizes of the parts.

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
