"""What the commands that draw have in common: how a call is made, and where its pictures go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ..errors import InputError
from ..files import GRID_ENDINGS, PICTURE_ENDINGS, as_path
from ..generation import GenerationConfig, GenerationOverrides
from ..generation.blend import Blend, Prompt
from ..hub.source import BUNDLED_MODEL
from .options import (
    Drawing,
    DtypeName,
    Marks,
    OptionalPath,
    OptionalText,
    OptionalWeights,
    Safety,
    SourceOptions,
    Where,
    drawing_type,
)
from .saving import Saving

_ALIASES = {"num_images_per_prompt": ("--num-images", "-n")}

if TYPE_CHECKING:
    from ..models.upscaler import Upscaler
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.signing import C2PASigner
    from ..safety.checker import SafetyChecker

    Settings = GenerationOverrides
else:
    _names = [name for name in GenerationOverrides.__annotations__ if name != "seed"]
    Settings = drawing_type("Settings", _names, aliases=_ALIASES)  # seed reads better repeated


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How a call is made, and where its pictures go.

    Attributes:
        model: Hub id or local folder of a pipeline.
        upscaler: model for --upscale, instead of the pipeline's or realesr-animevideov3: the name
            of a released one, a Hub id, a local folder or file.
        output: folder for the PNG files; the current one unless --grid is given.
        grid: also lay all pictures out in this PNG or JPEG file. No file is ever overwritten: names
            that are taken are numbered on.
        seed: of the first picture; the following ones get seed+1, seed+2, and so on. Repeat it to
            set one per picture.
        blend: mix the prompts into one picture, by a weight for each, as in 0.6:0.4.
        rank_by: what --rank and --candidates go by; the model's scorer if it has one.
        json: print one line of JSON for each file instead of its path.
        settings: of the drawing.
        marks: that the pictures get.
        safety: what looks at prompts and pictures.
        drawing: of the model.
        where: of the model.
    """

    model: str = BUNDLED_MODEL
    upscaler: OptionalText = None
    output: Annotated[OptionalPath, tyro.conf.arg(aliases=("-o",))] = None
    grid: OptionalPath = None
    seed: Annotated[tyro.conf.UseAppendAction[tuple[int, ...]], tyro.conf.arg(aliases=("-s",))] = ()
    blend: OptionalWeights = None
    rank_by: Literal["scorer", "likelihood"] = "scorer"
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    marks: Marks
    safety: Safety
    drawing: Drawing
    where: Where

    def check(self) -> GenerationOverrides:
        """Return the settings with the seeds, having checked what can be without the model.

        Raises:
            InputError: the output is the name of a picture, the grid is that of none, or the device
                cannot be used.
            ConfigError: a setting is out of range.
            UnsupportedOperationError: int8 weights are not for this device or type.
        """
        if self.grid is not None and self.grid.suffix.lower() not in GRID_ENDINGS:
            endings = ", ".join(GRID_ENDINGS)
            raise InputError(f"--grid must end in one of {endings}, not as {str(self.grid)!r}.")
        settings = _with_seeds(self.settings, self.seed, self.output)
        if self.rank_by == "likelihood":
            settings["rank"] = "likelihood"
        self.drawing.check()
        return settings

    def mix(self, prompts: Sequence[str]) -> list[Prompt]:
        """Return the prompts, or the mixture of them that --blend asks for.

        Raises:
            InputError: there is not one weight above 0 for each prompt, or a prompt comes twice.
        """
        if self.blend is None:
            return [*prompts]
        if len(self.blend) != len(prompts):
            raise InputError(
                "--blend needs a weight for each prompt, with colons between them as in 0.6:0.4: "
                f"{len(prompts)} here, not {len(self.blend)}."
            )
        if len({*prompts}) < len(prompts):
            raise InputError("--blend mixes different prompts; give each of them once.")
        return [Blend(dict(zip(prompts, self.blend, strict=True)))]

    def saving(self, signer: C2PASigner | None) -> Saving:
        """Return where the pictures go.

        Raises:
            StorageError: a folder cannot be made or written.
        """
        return Saving(self.output, self.grid, as_json=self.json, c2pa=signer)

    def load(self, checker: SafetyChecker | None, *, device: str | None = None) -> Pipeline:
        """Load the model, and the upscaler that is named.

        Args:
            checker: looks at prompts and pictures.
            device: instead of the option's.

        Raises:
            DalleMiniError: one cannot be loaded.
        """
        place = device or self.drawing.device
        upscaler = load_named_upscaler(self.upscaler, self.where, device=place)
        keywords = {"upscaler": upscaler, "safety_checker": checker, "device": place}
        return self.drawing.load(self.where.open(self.model), self.where, **keywords)


Call = Annotated[CallOptions, tyro.conf.arg(name="")]
"""The same, with its options named as if they were the command's own."""


def load_named_upscaler(
    name: str | None, where: SourceOptions, *, device: str, dtype: DtypeName = "float32"
) -> Upscaler | None:
    """Load the upscaler of an option, beside a pipeline that lies here; None where it names none.

    Raises:
        DalleMiniError: it cannot be loaded.
    """
    if name is None:
        return None
    from .upscale import load_upscaler

    return load_upscaler(name, where.elsewhere(), device=device, dtype=dtype)


def _with_seeds(
    settings: GenerationOverrides, seeds: Sequence[int], output: Path | None
) -> GenerationOverrides:
    """Return the settings of a drawing with its seeds, having checked them without the model."""
    folder = output and as_path(output)
    if folder and folder.suffix.lower() in PICTURE_ENDINGS and not folder.is_dir():
        raise InputError(f"--output names a folder, not {folder}; for one file, use --grid.")
    checked = settings.copy()
    if seeds:
        checked["seed"] = seeds[0] if len(seeds) == 1 else tuple(seeds)
    GenerationConfig().override(**checked)
    return checked
