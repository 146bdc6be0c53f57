"""`dallemini redraw`: pictures that say how they were drawn, drawn again."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import InputError
from .calling import load_named_upscaler
from .options import (
    Adapters,
    DtypeName,
    OptionalPath,
    OptionalText,
    Pictures,
    PrecisionName,
    SourceOptions,
    Where,
    load_pipeline,
    one_word,
    open_adapters,
    read_watermark,
)
from .saving import Saving
from .words import checking_usage

if TYPE_CHECKING:
    from ..hub import Source
    from ..pipeline.metadata import PictureMetadata
    from ..pipeline.pipeline import Pipeline

_PARTS = ("transformer", "vqgan", "scorer", "upscaler")


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """Draw pictures again from what their files say, with the model and dtype named there.

    Where the model that is found differs from the one that drew a picture, a warning says so.

    Attributes:
        pictures: PNG files that `dallemini generate` saved, or its grids.
        model: Hub id or local folder of a pipeline, instead of the one that a picture names.
        adapter: LoRA adapters, instead of those that a picture names; with weights, me/ink:0.8.
        upscaler: what makes those larger again that were, instead of the model's own or the
            released one that a picture names: the name of a released one, a Hub id, a local folder
            or file.
        output: folder for the PNG files.
        image: the picture that an edit began with.
        mask: the mask of an edit that had one.
        watermark_key_file: a file with the key that the pictures were marked with.
        device: where to compute: cpu, cuda, cuda:1, mps.
        dtype: floating-point type of the weights, or int8, instead of what a picture names.
        json: print one line of JSON for each file instead of its path.
        where: of the model.
    """

    pictures: Pictures
    model: OptionalText = None
    adapter: Adapters = ()
    upscaler: OptionalText = None
    output: Annotated[OptionalPath, tyro.conf.arg(aliases=("-o",))] = None
    image: OptionalPath = None
    mask: OptionalPath = None
    watermark_key_file: OptionalPath = None
    device: str = "cpu"
    dtype: Annotated[PrecisionName | None, one_word(str, "DTYPE")] = None
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Draw, save, and print the path of every file.

        Raises:
            DalleMiniError: a file does not say how it was drawn, or the model, an option or the
                folder is no good.
        """
        with checking_usage():
            if not self.pictures:
                raise InputError("There is no picture; try: dallemini redraw a-red-apple-0.png.")
            from ..models.pretrained import check_device  # here, because torch takes seconds
            from ..pipeline.metadata import read_metadata

            check_device(self.device)
            given: dict[str, Any] = {
                "image": self.image,
                "mask_image": self.mask,
                "watermark": read_watermark(self.watermark_key_file),
            }
        told = [read_metadata(path) for path in self.pictures]
        pipes: dict[str, Pipeline] = {}
        with Saving(self.output, None, as_json=self.json) as saving:
            for path, metadata in zip(self.pictures, told, strict=True):
                used = metadata.adapters
                key = repr((metadata.model, sorted(metadata.precision.items()), used))
                if key not in pipes:
                    pipes[key] = self._load(metadata)
                saving.add(pipes[key].redraw(path, **given))

    def _load(self, told: PictureMetadata) -> Pipeline:
        """Load the model that a picture names, or the one of the options."""
        known = {part: kind for part, kind in told.precision.items() if part in _PARTS}
        dtype: Any = self.dtype or told.precision.get("") or known or None
        if not (self.model or told.model):
            raise InputError("The picture names no model; give --model.")
        source = self._find(told.model, self.where) if self.model is None else None
        source = source or self.where.open(self.model or "")
        adapters = open_adapters(self.adapter, self.where) or [
            (self._find(used.source, self.where.elsewhere()), used.weight)
            for used in told.adapters
            if used.source
        ]
        kind: Any = told.precision.get("upscaler", told.precision.get(""))
        upscaler = load_named_upscaler(
            self.upscaler,
            self.where,
            device=self.device,
            dtype=kind if kind in typing.get_args(DtypeName) else "float32",
        )
        keywords = {"device": self.device, "dtype": dtype, "upscaler": upscaler}
        return load_pipeline(source, adapters, **keywords)

    def _find(self, label: str, where: SourceOptions) -> Source:
        """Find what a picture names, at the commit that it names."""
        found = re.fullmatch(r"([^/@]+/[^/@]+)(?:/(.+))?@([0-9a-f]{12,64})", label)
        if found is None:
            return where.open(label)
        return dataclasses.replace(where, revision=where.revision or found[3]).open(
            found[1], found[2]
        )
