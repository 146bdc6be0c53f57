"""Many prompts into one folder: saved as they are drawn, listed, and gone on with after a stop.

A manifest, lines of JSON, lists what is drawn: a picture's line is written after its file is there.
Each process has a manifest of its own, which nobody else writes, and reads those of all. What was
being drawn or saved when a process was killed is not listed and is drawn again, the same to the
bit. A prompt that is refused, by a safety checker or because there is nothing to draw, is listed
with the reason, and the others are drawn. Knows no command line and no engine: `dallemini generate
--prompts` and `examples/ray` use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from ..errors import InputError, SafetyError, StorageError
from ..files import PathName, locked, make_folder, numbered, write_beside
from ..generation import GenerationConfig
from ..generation.request import choose_seeds, count_up
from ..generation.watermark import Watermark
from .guarding import SafetyCheck
from .metadata import tell_of
from .outputs import GenerationOutput, slug
from .pipeline import Pipeline
from .signing import C2PASigner

_FOLDER_SIZE = 1000  # files of one folder: looking for a name takes longer with more
_PLAYS_NO_PART = ("seed", "batch_size", "num_images_per_prompt")
DRAWN, REFUSED = "drawn", "refused"
Key = tuple[str, int, str, int]  # settings, number, prompt, seed of the first candidate


@dataclass(frozen=True)
class Unit:
    """Pictures of a prompt that are drawn together: one, or those that are ranked.

    Attributes:
        number: of the first among all pictures, prompt-major.
        prompt: of them.
        seeds: of them, candidates included.
        count: how many there are.
    """

    number: int
    prompt: str
    seeds: Sequence[int]
    count: int

    def keys(self, settings: str) -> list[Key]:
        """Return what tells its pictures from all others."""
        places = range(self.number, self.number + self.count)
        return [(settings, number, self.prompt, self.seeds[0]) for number in places]


def split_units(
    config: GenerationConfig, prompts: Iterable[tuple[int, str]], *, count: int
) -> Iterator[Unit]:
    """Return the pictures of prompts; the first seed of all is 0 where the settings have none.

    Args:
        config: settings of the drawing.
        prompts: all or some of them, each with its place among all.
        count: of all prompts.

    Raises:
        InputError: there is not one seed for each picture.

    Example:
        >>> from dallemini.generation import GenerationConfig
        >>> from dallemini.pipeline.bulk import split_units
        >>> config = GenerationConfig(candidates=2, seed=7)
        >>> [one.seeds for one in split_units(config, enumerate(["a", "b"]), count=2)]
        [range(7, 9), range(9, 11)]
    """
    each, size = config.num_images_per_prompt, config.candidates
    total = count * each * size
    seeds: Sequence[int]
    if isinstance(config.seed, tuple):
        seeds = choose_seeds(config, total)
    else:
        seeds = count_up(config.seed or 0, total)
    together = each if config.rank else 1
    return (
        Unit(number, prompt, seeds[number * size : (number + together) * size], together)
        for place, prompt in prompts
        for number in range(place * each, (place + 1) * each, together)
    )


def settings_digest(
    pipe: Pipeline, config: GenerationConfig, watermark: Watermark | None = None
) -> str:
    """Return 16 digits that differ where pictures of one prompt and seed would."""
    upscaler = pipe.upscaler if config.upscale is not None else None
    told = tell_of("", pipe.transformer, pipe.vqgan, None, upscaler)
    kept = {key: value for key, value in config.to_dict().items() if key not in _PLAYS_NO_PART}
    ranked_among = config.num_images_per_prompt if config.rank else None
    mark = None if watermark is None else (str(watermark.key), watermark.strength)
    safety = None if pipe.safety_checker is None else repr(pipe.safety_checker)
    text = json.dumps([kept, ranked_among, told, mark, safety], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


class Manifest:
    """The list of the pictures in a folder, of which this process writes its own part.

    Args:
        folder: of the pictures, made if missing.
        part: name of the part, for several processes: `manifest-PART.jsonl` in place of
            `manifest.jsonl`.

    Raises:
        StorageError: the folder cannot be made, read or written, or another process writes this
            part.

    Example:
        >>> from dallemini.pipeline.bulk import Manifest
        >>> with Manifest("drawn") as manifest:
        ...     manifest.add({"file": "0.png", "settings": "", "number": 0, "prompt": "a cat",
        ...         "first_seed": 0})
        >>> (manifest.folder / "0.png").touch()
        >>> ("", 0, "a cat", 0) in Manifest("drawn").known()
        True
    """

    def __init__(self, folder: PathName, part: str = "") -> None:
        self.folder: Path = make_folder(folder)
        self._path = self.folder / ("-".join(filter(None, ("manifest", part))) + ".jsonl")
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with _told(self._path):
            self._file = self._open.enter_context(open(self._path, "a+b", buffering=0))
            if self._open.enter_context(locked(self._path, wait=False)) is False:
                self._open.close()
                raise StorageError(
                    f"Another process is drawing into {self.folder}; wait until it ends, take "
                    "another folder, or share the work by torchrun."
                )
            if self._file.tell() and _last_byte(self._file) != b"\n":
                self._file.write(b"\n")  # its last writer was killed within a line
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def known(self) -> dict[Key, str]:
        """Return what any process listed: pictures whose files are there, and refused ones.

        Returns:
            "drawn" or "refused" for each picture.
        """
        found: dict[Key, str] = {}
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            with _told(path), path.open("rb") as lines:
                for line in lines:
                    found |= _listed(line, self.folder)
        return found

    def add(self, record: dict[str, Any]) -> None:
        """Write the line of a picture, at once."""
        with _told(self._path):
            self._file.write(json.dumps(record).encode() + b"\n")


class Bulk:
    """Draws what a folder does not have yet.

    Args:
        pipe: draws.
        config: settings, whole.
        manifest: of the folder, open.
        watermark: that the tokens get.
        c2pa: signs the files.
        at_once: pictures, candidates included, that are drawn by one call and then saved; None for
            all.

    Attributes:
        settings: digest of all that changes pictures, as the manifest has it.

    Example:
        >>> from dallemini.pipeline.bulk import Bulk, Manifest, split_units
        >>> from dallemini.testing import tiny_pipeline
        >>> pipe, prompts = tiny_pipeline(), ["a red apple", "a blue bird"]
        >>> units = list(split_units(pipe.config, enumerate(prompts), count=2))
        >>> with Manifest("out") as manifest:
        ...     [one["file"] for one in Bulk(pipe, pipe.config, manifest).draw(units)]
        ['000000-a-red-apple.png', '000001-a-blue-bird.png']
        >>> with Manifest("out") as manifest:
        ...     list(Bulk(pipe, pipe.config, manifest).draw(units))
        []
    """

    def __init__(
        self,
        pipe: Pipeline,
        config: GenerationConfig,
        manifest: Manifest,
        *,
        watermark: Watermark | None = None,
        c2pa: C2PASigner | None = None,
        at_once: int | None = 32,
    ) -> None:
        self._pipe, self._config, self._manifest = pipe, config, manifest
        self._watermark, self._c2pa, self._at_once = watermark, c2pa, at_once
        self.settings: str = settings_digest(pipe, config, watermark)
        self._known = manifest.known()

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Return those units of which a picture is neither there nor refused."""
        return [one for one in units if not self._known.keys() >= {*one.keys(self.settings)}]

    def refused(self, units: Iterable[Unit]) -> int:
        """Return how many pictures of some units were refused, now or before."""
        keys = (key for unit in units for key in unit.keys(self.settings))
        return sum(self._known.get(key) == REFUSED for key in keys)

    def draw(self, units: Iterable[Unit]) -> Iterator[dict[str, Any]]:
        """Draw, save and list what is missing; yields each line of the manifest.

        Args:
            units: of one configuration.

        Raises:
            StorageError: something cannot be written.
            As a call of the pipeline, but for what is wrong with one prompt alone.
        """
        batch: list[Unit] = []
        for unit in self.missing(units):
            if (reason := self._reason_against(unit.prompt)) is not None:
                yield from self._refuse(unit, reason)
                continue
            batch.append(unit)
            if self._at_once is not None and len(batch) >= self._at_once // len(unit.seeds):
                yield from self._draw_some(batch)
                batch = []
        if batch:
            yield from self._draw_some(batch)

    def _reason_against(self, prompt: str) -> str | None:
        """Return why nothing can be drawn from a prompt; None where something can."""
        if not prompt.strip():
            return "There is no prompt."
        try:
            self._pipe.tokenizer.tokenize(prompt)
            SafetyCheck.of(self._pipe.safety_checker, [prompt])
        except (InputError, SafetyError) as error:
            return str(error)
        return None

    def _draw_some(self, units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
        settings: Any = self._config.to_dict() | {
            "num_images_per_prompt": units[0].count,
            "seed": tuple(seed for unit in units for seed in unit.seeds),
        }
        try:
            drawn = self._pipe([u.prompt for u in units], watermark=self._watermark, **settings)
        except SafetyError as error:  # a picture is refused: which one is seen by drawing alone
            if len(units) == 1:
                yield from self._refuse(units[0], str(error))
                return
            for unit in units:
                yield from self._draw_some([unit])
            return
        pictures = [key for unit in units for key in unit.keys(self.settings)]
        for index, key in enumerate(pictures):
            if key not in self._known:
                file = self._save(drawn, index, key[1])
                yield self._list(key, {"status": DRAWN, "file": file, **facts(drawn, index)})

    def _refuse(self, unit: Unit, reason: str) -> Iterator[dict[str, Any]]:
        for key in unit.keys(self.settings):
            if key not in self._known:
                yield self._list(key, {"status": REFUSED, "reason": reason, "prompt": key[2]})

    def _list(self, key: Key, told: dict[str, Any]) -> dict[str, Any]:
        """Write the line of a picture, and return it."""
        settings, number, _, first_seed = key
        record = {"number": number, **told, "first_seed": first_seed, "settings": settings}
        self._manifest.add(record)
        self._known[key] = record["status"]
        return record

    def _save(self, drawn: GenerationOutput, index: int, number: int) -> str:
        """Save a picture under its number, and return the name of its file in the folder."""
        folder = self._manifest.folder
        if number >= _FOLDER_SIZE:
            folder = make_folder(folder / f"{number // _FOLDER_SIZE:04d}")
        path = folder / f"{number:06d}-{slug(str(drawn.prompt_of(index)))}.png"
        content = drawn.png(index, c2pa=self._c2pa)
        if not (path.is_file() and path.read_bytes() == content):  # else it was not listed yet
            path = write_beside(numbered(path), content)
        return path.relative_to(self._manifest.folder).as_posix()


def facts(drawn: GenerationOutput, index: int) -> dict[str, Any]:
    """Return what a line of JSON says of a picture: prompt, seed, model, and score if it has one.

    Args:
        drawn: the pictures of a call.
        index: of the picture.
    """
    found: dict[str, Any] = {
        "prompt": str(drawn.prompt_of(index)),
        "seed": drawn.seeds[index],
        "model": drawn.model,
    }
    if drawn.scores is not None:
        found["score"] = drawn.scores[index]
    if drawn.safety_flags is not None:
        found["safety"] = None if (flag := drawn.safety_flags[index]) is None else str(flag)
    return found


def _listed(line: bytes, folder: Path) -> dict[Key, str]:
    """Return what a line lists; nothing for half a line, or where its file is gone."""
    try:
        record = json.loads(line)
        key = (record["settings"], record["number"], record["prompt"], record["first_seed"])
        status = REFUSED if record.get("status") == REFUSED else DRAWN
        there = status == REFUSED or (folder / record["file"]).is_file()
        return {key: status} if there else {}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return {}


def _last_byte(file: BinaryIO) -> bytes:
    file.seek(-1, os.SEEK_END)
    return file.read(1)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours.

    Raises:
        StorageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The manifest {path} cannot be read and written ({error.strerror or error}); mend "
            "that, or choose another folder."
        ) from error
