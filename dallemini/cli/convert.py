"""`dallemini convert`: any known checkpoint to the native layout, one tensor at a time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .. import checkpoints, hub
from .._version import __version__
from ..errors import InputError, MissingFileError
from ..files import as_path, replacing_folder, write_text
from ..models.clip import CLIP
from ..models.int8 import Quantization
from ..models.pretrained import PretrainedModule
from ..models.transformer import Transformer
from ..models.vqgan import VQGAN
from ..pipeline.parts import CLASSES, GENERATION_CONFIG_NAME, INDEX_NAME, check_parts
from ..scorer import CLIPTokenizer
from ..text.tokenizer import Tokenizer
from .options import DtypeName, Location, SourceOptions, Where, to_dtype
from .parts import COMPONENT_OF, PARTS, describe, find_parts, loader_of

_PIPELINE = ("tokenizer", "transformer", "vqgan")
_MODELS: dict[str, type[PretrainedModule[Any]]] = {
    "transformer": Transformer,
    "vqgan": VQGAN,
    "scorer": CLIP,
}


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a checkpoint in any known format to the native layout.

    One part is written to OUTPUT itself; several get a folder each. With a tokenizer, a
    transformer and a VQGAN the result is a whole pipeline.

    Attributes:
        source: Hub id, local folder or file.
        output: folder to write, new or empty.
        vqgan: source of the VQGAN, to make a pipeline of a transformer that came without.
        scorer: source of a CLIP model, for ranking.
        subfolder: of a part inside the source.
        dtype: floating-point type to store; as in the source when not given.
        quantization: int8 for smaller weights of the transformer.
        where: of the source; --revision is that of SOURCE alone.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    output: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUTPUT")]
    vqgan: str | None = None
    scorer: str | None = None
    subfolder: str | None = None
    dtype: DtypeName | None = None
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
        parts = self._parts()
        if self.quantization is not None and "transformer" not in parts:
            raise InputError(
                f"{self.source} holds {', '.join(parts)}; leave out --quantization, which makes a "
                "transformer smaller."
            )
        with replacing_folder(output) as folder:
            folders = {part: folder if len(parts) == 1 else folder / part for part in parts}
            for part, location in parts.items():
                self._convert(part, location, folders[part])
            _check_result(folders)
            if set(_PIPELINE) <= parts.keys():
                self._write_index(folder, parts)
        for part in parts:
            print(output if len(parts) == 1 else output / part)

    def _parts(self) -> dict[str, Location]:
        parts = find_parts(Location(self.source, self.where, self.subfolder))
        elsewhere = SourceOptions(cache_dir=self.where.cache_dir, offline=self.where.offline)
        for part, name in (("vqgan", self.vqgan), ("scorer", self.scorer)):
            if name is not None:
                found = find_parts(Location(name, elsewhere))
                if part not in found:
                    raise InputError(f"{name} holds {', '.join(found)}, but no {part}.")
                parts[part] = found[part]
        return {part: parts[part] for part in PARTS if part in parts}

    def _convert(self, part: str, location: Location, folder: Path) -> None:
        if part == "tokenizer":
            Tokenizer.from_pretrained(location.name, **location.keywords).save_pretrained(folder)
            return
        checkpoints.convert(
            location.open(), folder, component=COMPONENT_OF[part], dtype=to_dtype(self.dtype)
        )
        if part == "transformer" and self.quantization is not None:
            model = Transformer.from_pretrained(folder, quantization=self.quantization)
            model.save_pretrained(folder)
        if part == "scorer":
            with contextlib.suppress(MissingFileError):  # OpenAI's file holds the weights only
                tokenizer = CLIPTokenizer.from_pretrained(location.name, **location.keywords)
                tokenizer.save_pretrained(folder)

    def _write_index(self, folder: Path, parts: Mapping[str, Location]) -> None:
        loader = loader_of(Location(self.source, self.where, self.subfolder))
        classes = {part: CLASSES[part].__name__ if part in parts else None for part in PARTS}
        index = {"dallemini": {"version": __version__}, **classes}
        write_text(folder / INDEX_NAME, json.dumps(index, indent=2) + "\n")
        loader.generation_config().save(folder / GENERATION_CONFIG_NAME)
        card = hub.model_card(
            self.output.absolute().name,
            summary=f"A text-to-image pipeline for dallemini, converted from `{loader.name}`.",
        )
        # its own card and notices go with the weights
        for name, text in {"README.md": card, **loader.notes()}.items():
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
            tensors = describe(hub.open_source(folder), part)[1].tensors.values()
            dtype = next(tensor.dtype for tensor in tensors)
            loaded[part] = _MODELS[part].from_pretrained(folder, dtype=dtype)
    if set(_PIPELINE) <= loaded.keys():
        check_parts(loaded["tokenizer"], loaded["transformer"], loaded["vqgan"])
