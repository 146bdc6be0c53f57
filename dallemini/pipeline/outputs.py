"""What a drawing returns: pictures with everything needed to draw them again.

Knows pixels, not models. PIL is imported inside the functions that need it, because importing this
library must be quick.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._version import __version__
from ..errors import InputError, InputTypeError
from ..files import as_path, make_folder, write_beside
from ..generation.config import GenerationConfig
from ..images import make_grid

if TYPE_CHECKING:
    import PIL.Image

NAME_LENGTH = 60
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationOutput:
    """N pictures of B prompts, prompt-major; with `rank=True` the best of each prompt come first.

    Attributes:
        prompts: the B prompts.
        images: N pictures, RGB.
        image_tokens: i64[N,L], the codes that they were decoded from, row by row.
        seeds: N seeds; each draws its picture again, alone.
        config: the settings of the call.
        scores: N scores if they were ranked or chosen among candidates, higher is better.
        model: name of the model that drew them.
        sampler: name of the caller's own sampler, if there was one; the settings of sampling in
            `config` then played no part.
        precision: of each part, the name of its dtype or "int8".
        adapters: digests of the LoRA adapters that changed the transformer's weights.
        upscaler: name of what made the pictures `config.upscale` times larger, if anything did.
        edit: of pictures that were drawn from another one, the operation, its settings, and the
            digest of that picture, and of the mask if there was one; None for others.
    """

    prompts: tuple[str, ...]
    images: list[PIL.Image.Image]
    image_tokens: Tensor
    seeds: tuple[int, ...]
    config: GenerationConfig
    scores: tuple[float, ...] | None = None
    model: str = ""
    sampler: str | None = None
    precision: Mapping[str, str] = field(default_factory=dict)
    adapters: tuple[str, ...] = ()
    upscaler: str | None = None
    edit: Mapping[str, Any] | None = None

    @property
    def images_per_prompt(self) -> int:
        """How many pictures each prompt has."""
        return len(self.images) // len(self.prompts)

    def prompt_of(self, index: int) -> str:
        """Return the prompt of picture `index`.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.
        """
        if not isinstance(index, int):
            raise InputTypeError(f"A picture is numbered by a whole number, not {index!r}.")
        if not -len(self.images) <= index < len(self.images):
            raise InputError(f"There is no picture {index} among these {len(self.images)}.")
        return self.prompts[index // self.images_per_prompt]

    def grid(self, *, columns: int | None = None) -> PIL.Image.Image:
        """Lay all pictures out on white, row by row.

        Args:
            columns: pictures in a row; chosen for a near-square grid of one prompt, or one row a
                prompt, when None.

        Raises:
            InputError: `columns` is below 1.
            InputTypeError: `columns` is not a whole number.
        """
        if columns is None:
            several = len(self.prompts) > 1 and self.images_per_prompt > 1
            columns = self.images_per_prompt if several else math.ceil(len(self.images) ** 0.5)
        return make_grid(self.images, columns=columns)

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

    def save(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write every picture as PNG, with what draws it again in its text chunks.

        The chunks are `prompt`, `seed`, `config` (JSON), `model`, `version` and `dtype` (a JSON
        object where parts differ); where there are any, `commit`, `adapters` (JSON), `edit` (JSON),
        `sampler`, `score`, and `upscale` with `upscaler`, the factor and the name.

        Args:
            directory: made if missing; files there are not overwritten but numbered on. `~` is the
                home folder.

        Returns:
            The paths, one for each picture.

        Raises:
            StorageError: the folder cannot be made or written; no picture is there in part.
            InputError: `directory` is the name of a picture.
            InputTypeError: `directory` is neither a string nor a path.
        """
        folder = as_path(directory)
        if folder.suffix.lower() in PICTURE_ENDINGS and not folder.is_dir():
            raise InputError(
                f"save() needs a folder for its {len(self.images)} pictures, not {folder}. For one "
                f"file, call images[0].save({str(folder)!r}), or grid().save(...) for all in one."
            )
        make_folder(folder)
        return [self._save_one(folder, index) for index in range(len(self.images))]

    def metadata(self, index: int) -> dict[str, str]:
        """Return the text chunks of picture `index`.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.
        """
        prompt = self.prompt_of(index)
        alone = self.config.override(
            seed=self.seeds[index],
            num_images_per_prompt=1,
            batch_size="auto",
            rank=False,
            candidates=1,
        )
        chunks = {
            # a prompt may hold half a surrogate pair, a file cannot
            "prompt": prompt.encode(errors="replace").decode(),
            "seed": str(self.seeds[index]),
            "config": json.dumps(alone.to_dict()),
            "model": self.model,
            "version": __version__,
        }
        if self.precision:
            several = len(set(self.precision.values())) > 1
            chunks["dtype"] = (
                json.dumps(dict(self.precision)) if several else next(iter(self.precision.values()))
            )
        if commit := re.fullmatch(r".+@([0-9a-f]{12,64})", self.model):
            chunks["commit"] = commit[1]
        if self.adapters:
            chunks["adapters"] = json.dumps(self.adapters)
        if self.edit is not None:
            chunks["edit"] = json.dumps(dict(self.edit))
        if self.sampler is not None:
            chunks["sampler"] = self.sampler
        if self.upscaler is not None:
            chunks |= {"upscale": str(self.config.upscale), "upscaler": self.upscaler}
        if self.scores is not None:
            chunks["score"] = f"{self.scores[index]:.4f}"
        return chunks

    def _save_one(self, folder: Path, index: int) -> Path:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, value in self.metadata(index).items():
            info.add_itxt(key, value)
        stem = f"{_slug(self.prompt_of(index))}-{self.seeds[index]}"
        content = io.BytesIO()
        self.images[index].save(content, format="PNG", pnginfo=info)
        return write_beside(_names(folder, stem), content.getvalue())

    def _repr_png_(self) -> bytes:
        return _png_bytes(self.grid())

    def _repr_html_(self) -> str:
        rows = []
        per_prompt = self.images_per_prompt
        for number, prompt in enumerate(self.prompts):
            pictures = self.images[number * per_prompt : (number + 1) * per_prompt]
            tags = "".join(_html_image(picture, prompt) for picture in pictures)
            rows.append(f"<figure><figcaption>{html.escape(prompt)}</figcaption>{tags}</figure>")
        return "".join(rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationStep:
    """A look at pictures while they are drawn.

    Attributes:
        prompts: the prompt of each of the n pictures drawn together.
        images: n previews; the part without tokens yet is light gray.
        image_tokens: i64[n,P], the tokens so far; of a picture of which a part is given, or of
            another size than the model's own, i64[n,L], -1 where there is none yet.
        seeds: n seeds.
        position: P, the number of tokens so far.
        length: L, the number of tokens of a finished picture.
        first_image: index of the first of these pictures among all of the call.
    """

    prompts: tuple[str, ...]
    images: list[PIL.Image.Image]
    image_tokens: Tensor
    seeds: tuple[int, ...]
    position: int
    length: int
    first_image: int

    @property
    def finished(self) -> bool:
        """True when these pictures are complete."""
        return self.position == self.length


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:NAME_LENGTH]
    short = words.encode()[: 3 * NAME_LENGTH].decode(errors="ignore")  # 255 bytes are the limit
    return short.strip("-") or "picture"


def _names(folder: Path, stem: str) -> Iterator[Path]:
    yield folder / f"{stem}.png"
    for number in itertools.count(2):
        yield folder / f"{stem}-{number}.png"


def _png_bytes(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _html_image(image: PIL.Image.Image, prompt: str) -> str:
    data = base64.b64encode(_png_bytes(image)).decode("ascii")
    alt = html.escape(prompt, quote=True)
    return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="margin:2px">'
