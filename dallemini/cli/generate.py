"""`dallemini generate`: prompts in, PNG files out.

torch is imported by `run` when the words are understood: help and wrong use need not wait for it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import InputError, SafetyError
from ..files import GRID_ENDINGS, PICTURE_ENDINGS, as_path, make_folder
from ..generation import GenerationConfig, GenerationOverrides
from ..hub.source import BUNDLED_MODEL
from .options import Drawing, Marks, OptionalPath, OptionalText, Safety, Where, drawing_type
from .processes import Process, own_device, this_process
from .prompts import read_all
from .saving import Saving, tell
from .words import checking_usage

_ALIASES = {"num_images_per_prompt": ("--num-images", "-n")}
_AT_ONCE = 32  # pictures that are drawn by one call, and then saved


if TYPE_CHECKING:
    from ..generation.watermark import Watermark
    from ..models.upscaler import Upscaler
    from ..pipeline.pipeline import Pipeline
    from ..pipeline.signing import C2PASigner
    from ..safety.checker import SafetyChecker

    Settings = GenerationOverrides
else:
    _names = [name for name in GenerationOverrides.__annotations__ if name != "seed"]
    Settings = drawing_type("Settings", _names, aliases=_ALIASES)  # seed reads better repeated


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw pictures from prompts and save them as PNG files that say how they were drawn.

    They are saved while the next ones are drawn. With --rank the best of each prompt come first.
    With --prompts the folder also gets manifest.jsonl, a line for each picture; the same command
    again goes on where it was stopped. A prompt that is refused gets a line with the reason there,
    the others are drawn, and the exit code is 1 in the end. torchrun shares the work between
    processes: torchrun --no-python --nproc-per-node 8 dallemini generate --prompts ...

    Attributes:
        prompts: one or more prompts, each in quotes; - reads them from standard input, one a line.
        file: a file of prompts: one a line, or a .csv, .jsonl or .parquet file with the column
            prompt; - is standard input. Files are numbered as its pictures are, whose first seed is
            0 unless --seed says another.
        model: Hub id or local folder of a pipeline.
        upscaler: model for --upscale, instead of the pipeline's or realesr-animevideov3: the name
            of a released one, a Hub id, a local folder or file.
        output: folder for the PNG files; the current one unless --grid is given.
        grid: also lay all pictures out in this PNG or JPEG file, of --prompts without a manifest.
            No file is ever overwritten: names that are taken are numbered on.
        seed: of the first picture; the following ones get seed+1, seed+2, and so on. Repeat it to
            set one per picture.
        rank_by: what --rank and --candidates go by; the model's scorer if it has one.
        json: print one line of JSON for each file instead of its path.
        settings: of the drawing.
        marks: that the pictures get.
        safety: what looks at prompts and pictures.
        drawing: of the model.
        where: of the model.
    """

    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[PROMPT ...]", help_behavior_hint=""),
    ] = ()
    file: Annotated[OptionalPath, tyro.conf.arg(name="prompts", aliases=("--prompts-file",))] = None
    model: str = BUNDLED_MODEL
    upscaler: OptionalText = None
    output: Annotated[OptionalPath, tyro.conf.arg(aliases=("-o",))] = None
    grid: OptionalPath = None
    seed: Annotated[tyro.conf.UseAppendAction[tuple[int, ...]], tyro.conf.arg(aliases=("-s",))] = ()
    rank_by: Literal["scorer", "likelihood"] = "scorer"
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    marks: Marks
    safety: Safety
    drawing: Drawing
    where: Where

    def run(self) -> None:
        """Draw, save, and print the path of every file.

        Raises:
            DalleMiniError: an option, the model or a folder is no good. What can be checked before
                the drawing is.
        """
        with checking_usage():
            settings = self._checked_settings()
            prompts = read_all(self.prompts, self.file, keep_empty=self._is_bulk)
            self.drawing.check()
            marks: dict[str, Any] = {
                "watermark": self.marks.watermark(),
                "c2pa": self.marks.signer(),
            }
            process, checker = this_process(), self.safety.checker()
        if self._is_bulk:
            make_folder(self._folder)
            self._draw_many(prompts, settings, process, checker, marks)
        else:
            self._draw(prompts, settings, checker, **marks)

    def _draw(
        self,
        prompts: Sequence[str],
        settings: GenerationOverrides,
        checker: SafetyChecker | None,
        *,
        watermark: Watermark | None,
        c2pa: C2PASigner | None,
    ) -> None:
        saving = Saving(self.output, self.grid, as_json=self.json, c2pa=c2pa)
        pipe = self._load(self.drawing.device, checker)
        with checking_usage():
            calls = split_call(pipe.config.override(**settings), prompts)
        with saving:
            for part, own in calls:
                saving.add(pipe(part, watermark=watermark, **{**settings, **own}))

    def _draw_many(
        self,
        prompts: Sequence[str],
        settings: GenerationOverrides,
        process: Process,
        checker: SafetyChecker | None,
        marks: dict[str, Any],
    ) -> None:
        from ..pipeline.bulk import Bulk, Manifest, split_units

        pipe = self._load(own_device(self.drawing.device), checker)
        with checking_usage():
            config = pipe.config.override(**settings)
            units = split_units(config, enumerate(prompts), count=len(prompts))
        share = list(itertools.islice(units, process.rank, None, process.world_size))
        new: list[dict[str, Any]] = []
        with Manifest(self._folder, process.name) as manifest:
            bulk = Bulk(pipe, config, manifest, at_once=at_once(config), **marks)
            left = bulk.missing(share)
            total, rest = (sum(unit.count for unit in units) for units in (share, left))
            if there := total - rest - bulk.refused(share):
                told = f"dallemini: {there} of {total} pictures were there already."
                print(told, file=sys.stderr)
            try:
                for record in bulk.draw(left):
                    new.append(self._with_path(record))
            finally:
                tell([one for one in new if self.json or "path" in one], as_json=self.json)
            if count := bulk.refused(share):
                self._tell_refused(count, process)

    def _with_path(self, record: dict[str, Any]) -> dict[str, Any]:
        file = record.get("file")
        return record if file is None else {"path": str(self._folder / file), **record}

    def _tell_refused(self, count: int, process: Process) -> None:
        """End with a failure, unless torchrun would then stop the other processes.

        Raises:
            SafetyError: always, where there is one process.
        """
        what = "1 picture was" if count == 1 else f"{count} pictures were"
        told = f"{what} refused; the manifest in {self._folder} says why."
        if process.world_size == 1:
            raise SafetyError(told)
        print(f"dallemini: {told}", file=sys.stderr)

    @property
    def _is_bulk(self) -> bool:
        return self.file is not None and self.grid is None

    @property
    def _folder(self) -> Path:
        return Path() if self.output is None else as_path(self.output)

    def _load(self, device: str, checker: SafetyChecker | None) -> Pipeline:
        upscaler = None if self.upscaler is None else self._load_upscaler(self.upscaler)
        keywords = {"upscaler": upscaler, "safety_checker": checker, "device": device}
        return self.drawing.load(self.where.open(self.model), self.where, **keywords)

    def _load_upscaler(self, name: str) -> Upscaler:
        from .upscale import load_upscaler

        return load_upscaler(name, self.where.elsewhere(), device=self.drawing.device)

    def _checked_settings(self) -> GenerationOverrides:
        """Return the settings that were given, having checked them without the model."""
        if self.grid is not None and self.grid.suffix.lower() not in GRID_ENDINGS:
            endings = ", ".join(GRID_ENDINGS)
            raise InputError(f"--grid must end in one of {endings}, not as {str(self.grid)!r}.")
        settings = check_settings(self.settings, self.seed, self.output)
        if self.rank_by == "likelihood":
            settings["rank"] = "likelihood"
        return settings


def check_settings(
    settings: GenerationOverrides, seeds: Sequence[int], output: Path | None
) -> GenerationOverrides:
    """Return the settings of a drawing with its seeds, having checked them without the model.

    Raises:
        InputError: the output is the name of a picture.
        ConfigError: a setting is out of range.
    """
    folder = output and as_path(output)
    if folder and folder.suffix.lower() in PICTURE_ENDINGS and not folder.is_dir():
        raise InputError(f"--output names a folder, not {folder}; for one file, use --grid.")
    checked = settings.copy()
    if seeds:
        checked["seed"] = seeds[0] if len(seeds) == 1 else tuple(seeds)
    GenerationConfig().override(**checked)
    return checked


def at_once(config: GenerationConfig) -> int | None:
    """Return how many pictures, candidates included, one call draws; None for all."""
    if config.batch_size is None:
        return None
    return max(_AT_ONCE, config.batch_size if isinstance(config.batch_size, int) else 0)


def split_call(
    config: GenerationConfig, prompts: Sequence[str]
) -> list[tuple[list[str], dict[str, Any]]]:
    """Split a call into smaller ones that draw the same, so that their pictures can be saved.

    Args:
        config: settings of the whole call.
        prompts: of the whole call.

    Returns:
        Prompts with the settings that are theirs.

    Raises:
        InputError: there is not one seed for each picture.

    Example:
        >>> from dallemini.cli.generate import split_call
        >>> from dallemini.generation import GenerationConfig
        >>> config = GenerationConfig(num_images_per_prompt=20, seed=5)
        >>> [(len(part), own["seed"][0]) for part, own in split_call(config, ["a", "b"])]
        [(1, 5), (1, 25)]
    """
    from ..generation.request import choose_seeds

    each = config.num_images_per_prompt * config.candidates
    seeds = choose_seeds(config, len(prompts) * each)
    most = at_once(config)
    size = len(prompts) if most is None else max(1, most // each)
    return [
        (
            list(prompts[start : start + size]),
            {"seed": seeds[start * each : (start + size) * each]},
        )
        for start in range(0, len(prompts), size)
    ]
