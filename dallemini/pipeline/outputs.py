"""What a drawing returns: pictures with everything needed to draw them again.

Knows pixels, not models. What a file says of its picture is in `metadata`. PIL is imported inside
the functions that need it, because importing this library must be quick.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from ..config import plain_number
from ..errors import DalleMiniWarning, InputError, InputTypeError
from ..files import GRID_ENDINGS, PICTURE_ENDINGS, as_path, make_folder, numbered, write_beside
from ..generation.blend import Prompt
from ..sheets import Format, image_bytes, make_grid, png_bytes
from .metadata import Drawn, PictureMetadata, describe_grid, describe_picture, read_metadata
from .origin import stamp
from .signing import C2PASigner

if TYPE_CHECKING:
    import PIL.Image

NAME_LENGTH = 60


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pictures(Drawn):
    """Pictures of prompts. `len`, an index, a slice and a loop give PIL images.

    The attributes are those of `Drawn`.
    """

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[PIL.Image.Image]:
        return iter(self.images)

    @overload
    def __getitem__(self, index: int) -> PIL.Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[PIL.Image.Image]: ...

    def __getitem__(self, index: int | slice) -> PIL.Image.Image | list[PIL.Image.Image]:
        return self.images[index]

    def __repr__(self) -> str:
        prompts = f"{len(self.prompts)} prompts" if len(self.prompts) != 1 else "1 prompt"
        size = "" if not self.images else " of {}x{}".format(*self.images[0].size)
        count = f"{len(self)} picture{'' if len(self) == 1 else 's'}{size}"
        seeds = ", ".join(map(str, self.seeds[:4])) + (", ..." if len(self.seeds) > 4 else "")
        return f"<{type(self).__name__}: {count} of {prompts}, seeds {seeds}{self._state()}>"

    def _state(self) -> str:
        return ", ranked" if self.config.rank else ""

    def prompt_of(self, index: int) -> Prompt:
        """Return the prompt of picture `index`.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.
        """
        index = plain_number(index)
        if not isinstance(index, int):
            raise InputTypeError(f"A picture is numbered by a whole number, not {index!r}.")
        if not -len(self.images) <= index < len(self.images):
            raise InputError(f"There is no picture {index} among these {len(self.images)}.")
        return self.prompts[index // self.images_per_prompt]

    def grid(self, *, columns: int | None = None, labels: bool = False) -> PIL.Image.Image:
        """Lay all pictures out on white, row by row.

        Args:
            columns: pictures in a row; chosen for a near-square grid of one prompt, or one row a
                prompt, when None.
            labels: write each prompt above its first picture.

        Raises:
            InputError: `columns` is below 1.
            InputTypeError: `columns` is not a whole number.
        """
        each = self.images_per_prompt
        if columns is None:
            several = len(self.prompts) > 1 and each > 1
            columns = each if several else math.ceil(len(self.images) ** 0.5)
        captions = {n * each: str(prompt) for n, prompt in enumerate(self.prompts)}
        return make_grid(self.images, columns=columns, captions=captions if labels else None)

    def save(
        self, directory: str | os.PathLike[str], *, c2pa: C2PASigner | None = None
    ) -> list[Path]:
        """Write every picture as PNG, with what draws it again in its text chunks.

        The chunks are `prompt`, `seed`, `config` (JSON), `model`, `version`, `weights` and `dtype`
        (a JSON object where parts differ); where there are any, `blend` (JSON, the prompts of a
        mixture with their shares), `commit`, `adapters` (JSON), `sampler`, `guidance` (the name of
        a function, which a file cannot hold), `watermark` (its kind), `edit` (JSON), `score`,
        `safety` (what the safety checker did for which reason), and `upscale` with `upscaler` and
        `upscaler_weights`, the factor, the name and a digest. Beside them XMP has IPTC's Digital
        Source Type: drawn by a model, wholly or in part.

        Args:
            directory: made if missing; files there are not overwritten but numbered on. `~` is the
                home folder.
            c2pa: also signs each file, last.

        Returns:
            The paths, one for each picture.

        Raises:
            StorageError: the folder cannot be made or written; no picture is there in part.
            InputError: `directory` is the name of a picture, or the certificate cannot sign.
            MissingDependencyError: `c2pa` without its extra.
            InputTypeError: `directory` is neither a string nor a path.
        """
        folder = as_path(directory)
        if folder.suffix.lower() in PICTURE_ENDINGS and not folder.is_dir():
            raise InputError(
                f"save() needs a folder for its {len(self.images)} pictures, not {folder}. For one "
                f"file, call images[0].save({str(folder)!r}), or save_grid(...) for all in one."
            )
        make_folder(folder)
        return [self._save_one(folder, index, c2pa) for index in range(len(self.images))]

    def save_grid(
        self,
        path: str | os.PathLike[str],
        *,
        columns: int | None = None,
        labels: bool = True,
        c2pa: C2PASigner | None = None,
    ) -> Path:
        """Write all pictures as one PNG, JPEG or WebP file, with what draws them again.

        Args:
            path: ends in .png, .jpg, .jpeg or .webp. A file of this name is not overwritten but
                numbered on. The folder is made if missing.
            columns: as in `grid`.
            labels: as in `grid`.
            c2pa: also signs the file, last.

        Returns:
            The path.

        Raises:
            StorageError: the file cannot be written.
            InputError: another ending, a picture too large for its format, or `columns` is below
                1.
            InputTypeError: `path` is neither a string nor a path.
        """
        target = as_path(path)
        if target.suffix.lower() not in GRID_ENDINGS:
            raise InputError(
                f"A grid is saved as {', '.join(GRID_ENDINGS)}, not as {str(target)!r}."
            )
        make_folder(target.parent)
        formats: dict[str, Format] = {".png": "PNG", ".webp": "WEBP"}
        kind = formats.get(target.suffix.lower(), "JPEG")
        grid, texts = self.grid(columns=columns, labels=labels), describe_grid(self)
        content = image_bytes(grid, kind, texts=texts)
        if content is None:
            warnings.warn(
                f"{target} has no room for what draws {len(self)} pictures again; a PNG has.",
                DalleMiniWarning,
                stacklevel=2,
            )
            content = image_bytes(grid, kind)
        assert content is not None
        content = _finish(content, texts, c2pa)
        return write_beside(numbered(target), content)

    def metadata(self, index: int) -> dict[str, str]:
        """Return the text chunks of picture `index`.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.
        """
        return describe_picture(self, index, self.prompt_of(index))

    @staticmethod
    def read_metadata(path: str | os.PathLike[str]) -> PictureMetadata:
        """Return what the file of a saved picture or grid says of how it was drawn.

        Raises:
            MissingFileError: there is no such file.
            InputError: it is no picture, or does not say.
            InputTypeError: `path` is neither a string nor a path.
        """
        return read_metadata(path)

    def _stem(self, index: int) -> str:
        return f"{slug(str(self.prompt_of(index)))}-{self.seeds[index]}"

    def png(self, index: int, *, c2pa: C2PASigner | None = None) -> bytes:
        """Return picture `index` as a PNG file with its metadata and origin, as `save` writes it.

        Args:
            index: of the picture.
            c2pa: signs the file; see `save`.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.

        Example:
            >>> from dallemini.testing import tiny_pipeline
            >>> tiny_pipeline()("a red apple", seed=0).png(0)[1:4]
            b'PNG'
        """
        texts = self.metadata(index)
        return _finish(png_bytes(self.images[index], texts=texts), texts, c2pa)

    def _save_one(self, folder: Path, index: int, c2pa: C2PASigner | None) -> Path:
        path = folder / f"{self._stem(index)}.png"
        return write_beside(numbered(path), self.png(index, c2pa=c2pa))

    def _repr_png_(self) -> bytes:
        return png_bytes(self.grid(labels=True))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GenerationOutput(Pictures):
    """The finished pictures of a call; with `rank=True` the best of each prompt come first.

    Attributes:
        tokens_per_pass: tokens of a picture for each pass over the transformer's weights: more than
            1 where guessed tokens held, which changes no picture. None where a service drew.

    Example:
        >>> from dallemini.testing import tiny_pipeline
        >>> out = tiny_pipeline()("a red apple", num_images_per_prompt=2, seed=0, progress=False)
        >>> out
        <GenerationOutput: 2 pictures of 16x16 of 1 prompt, seeds 0, 1>
        >>> len(out), out[0].size, [image.mode for image in out]
        (2, (16, 16), ['RGB', 'RGB'])
    """

    tokens_per_pass: float | None = None

    def best(self) -> list[PIL.Image.Image]:
        """Return one picture for each prompt: the one with the highest score.

        Raises:
            InputError: the pictures were not ranked.
        """
        if self.scores is None:
            raise InputError("These pictures have no scores; draw them with rank=True.")
        per_prompt = self.images_per_prompt
        starts = range(0, len(self.images), per_prompt)
        scores = self.scores
        chosen = [max(range(s, s + per_prompt), key=lambda i: scores[i]) for s in starts]
        return [self.images[index] for index in chosen]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GenerationStep(Pictures):
    """A look at n pictures while they are drawn together, each with a prompt of its own.

    What saves, describes and shows pictures does so with these, too; the part without tokens yet is
    light gray.

    Attributes:
        position: P, the number of tokens so far.
        length: L, the number of tokens of a finished picture.
        first_image: index of the first of these pictures among all of the call.
        output: what the call returns, in the last step of a stream; None before.
    """

    position: int
    length: int
    first_image: int
    output: GenerationOutput | None = None

    @property
    def finished(self) -> bool:
        """True when these pictures are complete."""
        return self.position == self.length

    def metadata(self, index: int) -> dict[str, str]:
        """Return the text chunks of picture `index`, with its `position` if it is not finished.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.
        """
        chunks = super().metadata(index)
        return chunks if self.finished else {**chunks, "position": self._at}

    @property
    def _at(self) -> str:
        return f"{self.position}/{self.length}"

    def _state(self) -> str:
        return f", {self._at} tokens"

    def _stem(self, index: int) -> str:
        stem = super()._stem(index)
        return stem if self.finished else f"{stem}-at-{self.position}"


def _finish(content: bytes, texts: Mapping[str, str], c2pa: C2PASigner | None) -> bytes:
    """Say the origin in the file, and sign it."""
    stamped = stamp(content, texts)
    return stamped if c2pa is None else c2pa.sign(stamped, texts)


def slug(prompt: str) -> str:
    """Return a prompt as a part of a file's name: words joined by hyphens, not too many.

    Example:
        >>> from dallemini.pipeline.outputs import slug
        >>> slug("A red apple, please!")
        'a-red-apple-please'
    """
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:NAME_LENGTH]
    short = words.encode()[: 3 * NAME_LENGTH].decode(errors="ignore")  # 255 bytes are the limit
    return short.strip("-") or "picture"
