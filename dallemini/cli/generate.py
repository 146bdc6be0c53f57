"""`dallemini generate`: prompts in, PNG files out.

torch is imported by `run` when the words are understood: help and wrong use need not wait for it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..errors import InputError, SafetyError
from ..files import as_path, make_folder
from ..generation import GenerationConfig, GenerationOverrides
from ..generation.blend import Prompt
from .calling import Call
from .options import OptionalPath
from .processes import Process, own_device, this_process
from .prompts import read_all
from .saving import tell
from .words import checking_usage

_AT_ONCE = 32  # pictures that are drawn by one call, and then saved


if TYPE_CHECKING:
    from ..generation.watermark import Watermark
    from ..pipeline.signing import C2PASigner
    from ..safety.checker import SafetyChecker


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw pictures from prompts and save them as PNG files that say how they were drawn.

    They are saved while the next ones are drawn. With --rank the best of each prompt come first.
    With --prompts and without --grid the folder also gets manifest.jsonl, a line for each picture;
    the same command again goes on where it was stopped. A prompt that is refused gets a line with
    the reason there, the others are drawn, and the exit code is 1 in the end. torchrun shares the
    work between processes: torchrun --no-python --nproc-per-node 8 dallemini generate --prompts ...

    Attributes:
        prompts: one or more prompts, each in quotes; - reads them from standard input, one a line.
        file: a file of prompts: one a line, or a .csv, .jsonl or .parquet file with the column
            prompt; - is standard input. Files are numbered as its pictures are, whose first seed is
            0 unless --seed says another.
        call: how they are drawn.
    """

    prompts: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[PROMPT ...]", help_behavior_hint=""),
    ] = ()
    file: Annotated[OptionalPath, tyro.conf.arg(name="prompts", aliases=("--prompts-file",))] = None
    call: Call

    def run(self) -> None:
        """Draw, save, and print the path of every file.

        Raises:
            DalleMiniError: an option, the model or a folder is no good. What can be checked before
                the drawing is.
        """
        with checking_usage():
            prompts, settings = self._read(), self.call.check()
            mixed = self.call.mix(prompts)
            marks: dict[str, Any] = {
                "watermark": self.call.marks.watermark(),
                "c2pa": self.call.marks.signer(),
            }
            process, checker = this_process(), self.call.safety.checker()
        if self._is_bulk:
            make_folder(self._folder)
            self._draw_many(prompts, settings, process, checker, marks)
        else:
            self._draw(mixed, settings, checker, **marks)

    def _read(self) -> list[str]:
        """Return the prompts of the command.

        Raises:
            InputError: as `read_all`; or --blend is given with a file that is drawn prompt by
                prompt.
        """
        mixed = self.call.blend is not None
        if mixed and self._is_bulk:
            raise InputError(
                "--blend mixes prompts of the command line; with --prompts leave it out, or write "
                "the prompts here, each in quotes."
            )
        return read_all(self.prompts, self.file, keep_empty=self._is_bulk, mixed=mixed)

    def _draw(
        self,
        prompts: Sequence[Prompt],
        settings: GenerationOverrides,
        checker: SafetyChecker | None,
        *,
        watermark: Watermark | None,
        c2pa: C2PASigner | None,
    ) -> None:
        saving, pipe = self.call.saving(c2pa), self.call.load(checker)
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

        pipe = self.call.load(checker, device=own_device(self.call.drawing.device))
        with checking_usage():
            config = pipe.config.override(**settings)
            units = split_units(config, enumerate(prompts), count=len(prompts))
        share = list(itertools.islice(units, process.rank, None, process.world_size))
        new: list[dict[str, Any]] = []
        as_json = self.call.json
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
                tell([one for one in new if as_json or "path" in one], as_json=as_json)
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
        return self.file is not None and self.call.grid is None

    @property
    def _folder(self) -> Path:
        return Path() if self.call.output is None else as_path(self.call.output)


def at_once(config: GenerationConfig) -> int | None:
    """Return how many pictures, candidates included, one call draws; None for all."""
    if config.batch_size is None:
        return None
    return max(_AT_ONCE, config.batch_size if isinstance(config.batch_size, int) else 0)


def split_call(
    config: GenerationConfig, prompts: Sequence[Prompt]
) -> list[tuple[list[Prompt], dict[str, Any]]]:
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
