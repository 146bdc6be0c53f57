"""`dallemini generate`: prompts in, PNG files out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ..errors import InputError
from ..files import as_path, make_folder, replacing
from ..generation import GenerationConfig, GenerationOverrides
from ..hub.source import BUNDLED_MODEL
from ..models.upscaler import Upscaler
from ..pipeline.outputs import PICTURE_ENDINGS, GenerationOutput
from ..pipeline.pipeline import Pipeline
from .options import Drawing, Where, drawing_type
from .upscale import load_upscaler

_GRID_ENDINGS = (".png", ".jpg", ".jpeg")
_ALIASES = {"num_images_per_prompt": ("--num-images",)}


if TYPE_CHECKING:
    Settings = GenerationOverrides
else:
    _names = [name for name in GenerationOverrides.__annotations__ if name != "seed"]
    Settings = drawing_type("Settings", _names, aliases=_ALIASES)  # seed reads better repeated


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw pictures from prompts and save them as PNG files that say how they were drawn.

    Attributes:
        prompts: one or more prompts, each in quotes.
        model: Hub id or local folder of a pipeline.
        upscaler: model for --upscale, instead of the pipeline's or realesr-animevideov3: the name
            of a released one, a Hub id, a local folder or file.
        output: folder for the PNG files; the current one unless --grid is given.
        grid: also lay all pictures out in this PNG or JPEG file.
        seed: of the first picture, the next ones count up; repeated, one for each picture.
        settings: of the drawing.
        drawing: of the model.
        where: of the model.
    """

    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PROMPT [PROMPT ...]")
    ]
    model: str = BUNDLED_MODEL
    upscaler: str | None = None
    output: Path | None = None
    grid: Path | None = None
    seed: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    drawing: Drawing
    where: Where

    def run(self) -> None:
        """Draw, save, and print the path of every file.

        Raises:
            DalleMiniError: an option, the model or a folder is no good. What can be checked before
                the drawing is.
        """
        settings = self._checked_settings()
        self.drawing.check()
        grid = None if self.grid is None else as_path(self.grid)
        folder = Path() if self.output is None and grid is None else self.output
        for place in (folder, grid and grid.parent):
            if place is not None:
                make_folder(place)
        upscaler = None if self.upscaler is None else self._load_upscaler(self.upscaler)
        source = self.where.open(self.model)
        pipe = Pipeline.from_pretrained(source, upscaler=upscaler, **self.drawing.keywords)
        drawn = pipe(self.prompts, **settings)
        paths = [] if folder is None else drawn.save(folder)
        if grid is not None:
            _save_grid(drawn, grid)
            paths.append(grid)
        for path in paths:
            print(path)

    def _load_upscaler(self, name: str) -> Upscaler:
        return load_upscaler(name, self.where.elsewhere(), device=self.drawing.device)

    def _checked_settings(self) -> GenerationOverrides:
        """Return the settings that were given, having checked them without the model."""
        if self.grid is not None and self.grid.suffix.lower() not in _GRID_ENDINGS:
            endings = ", ".join(_GRID_ENDINGS)
            raise InputError(f"--grid must end in one of {endings}, not as {str(self.grid)!r}.")
        return check_settings(self.prompts, self.settings, self.seed, self.output)


def check_settings(
    prompts: Sequence[str],
    settings: GenerationOverrides,
    seeds: Sequence[int],
    output: Path | None,
) -> GenerationOverrides:
    """Return the settings of a drawing with its seeds, having checked them without the model.

    Raises:
        InputError: there is no prompt, or the output is the name of a picture.
        ConfigError: a setting is out of range.
    """
    if not prompts:
        raise InputError('There is no prompt; try: dallemini generate "a red apple".')
    folder = output and as_path(output)
    if folder and folder.suffix.lower() in PICTURE_ENDINGS and not folder.is_dir():
        raise InputError(f"--output names a folder, not {folder}; for one file, use --grid.")
    checked = settings.copy()
    if seeds:
        checked["seed"] = seeds[0] if len(seeds) == 1 else seeds
    GenerationConfig().override(**checked)
    return checked


def _save_grid(drawn: GenerationOutput, path: Path) -> None:
    with replacing(path) as file:
        drawn.grid().save(file, format="PNG" if path.suffix.lower() == ".png" else "JPEG")
