"""What a drawing returns: pictures with everything needed to draw them again.

Knows pixels, not models. The conversions between PIL images and tensors live here too. PIL is
imported inside the functions that need it, because importing this library must be quick.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._version import __version__
from .errors import InputError, InputTypeError, MissingFileError, StorageError
from .generation.config import GenerationConfig

if TYPE_CHECKING:
    import PIL.Image

GRID_GAP = 4
NAME_LENGTH = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationOutput:
    """N pictures of B prompts, prompt-major; with `rank=True` the best of each prompt come first.

    Attributes:
        prompts: the B prompts.
        images: N pictures, RGB.
        image_tokens: i64[N,L], the codes that they were decoded from.
        seeds: N seeds; each draws its picture again, alone.
        config: the settings of the call.
        scores: N scores if they were ranked, higher is better.
        model: name of the model that drew them.
        sampler: name of the caller's own sampler, if there was one; the settings of sampling in
            `config` then played no part.
    """

    prompts: tuple[str, ...]
    images: list[PIL.Image.Image]
    image_tokens: Tensor
    seeds: tuple[int, ...]
    config: GenerationConfig
    scores: tuple[float, ...] | None = None
    model: str = ""
    sampler: str | None = None

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

        The chunks are `prompt`, `seed`, `config` (JSON), `model`, `version`, and `score` if ranked.

        Args:
            directory: made if missing; files there are not overwritten but numbered on.

        Returns:
            The paths, one for each picture.

        Raises:
            StorageError: the folder cannot be made or written.
            InputTypeError: `directory` is neither a string nor a path.
        """
        if not isinstance(directory, str | os.PathLike):
            raise InputTypeError(f"A folder is named by a string or a path, not {directory!r}.")
        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return [self._save_one(folder, index) for index in range(len(self.images))]
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise StorageError(f"Could not write pictures to {folder}: {error}.") from error

    def metadata(self, index: int) -> dict[str, str]:
        """Return the text chunks of picture `index`.

        Raises:
            InputTypeError: `index` is not a whole number.
            InputError: there is no such picture.
        """
        prompt = self.prompt_of(index)
        alone = self.config.override(
            seed=self.seeds[index], num_images_per_prompt=1, batch_size="auto", rank=False
        )
        chunks = {
            # a prompt may hold half a surrogate pair, a file cannot
            "prompt": prompt.encode(errors="replace").decode(),
            "seed": str(self.seeds[index]),
            "config": json.dumps(alone.to_dict()),
            "model": self.model,
            "version": __version__,
        }
        if self.sampler is not None:
            chunks["sampler"] = self.sampler
        if self.scores is not None:
            chunks["score"] = f"{self.scores[index]:.4f}"
        return chunks

    def _save_one(self, folder: Path, index: int) -> Path:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for key, value in self.metadata(index).items():
            info.add_itxt(key, value)
        path = _free_path(folder, f"{_slug(self.prompt_of(index))}-{self.seeds[index]}")
        self.images[index].save(path, pnginfo=info)
        return path

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
        image_tokens: i64[n,P], the tokens so far.
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


def make_grid(images: Sequence[PIL.Image.Image], *, columns: int) -> PIL.Image.Image:
    """Lay pictures out on white, `columns` in a row.

    Raises:
        InputError: there is no picture, or `columns` is below 1.
        InputTypeError: `columns` is not a whole number.
    """
    from PIL import Image

    if isinstance(columns, bool) or not isinstance(columns, int):
        raise InputTypeError(f"columns must be a whole number, not {columns!r}.")
    if not images or columns < 1:
        raise InputError(f"A grid needs pictures and at least one column, not {columns}.")
    columns = min(columns, len(images))
    width = max(image.width for image in images) + GRID_GAP
    height = max(image.height for image in images) + GRID_GAP
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * width - GRID_GAP, rows * height - GRID_GAP), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


def tensor_to_images(pixels: Tensor) -> list[PIL.Image.Image]:
    """Turn f[N,3,H,W] in [0, 1] into RGB pictures, rounding down as the original does.

    Raises:
        InputError: wrong shape, or values that are not numbers.
    """
    from PIL import Image

    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"Pixels must have shape [N, 3, H, W], not {list(pixels.shape)}.")
    if not bool(pixels.isfinite().all()):
        raise InputError(
            "The decoded pixels are not finite numbers: the VQGAN's weights are broken, or too "
            "large for its dtype. Load it with dtype=torch.float32."
        )
    levels = (pixels.detach().float().clamp(0, 1) * 255).to(torch.uint8)
    array = levels.permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read a picture file into f[3,H,W] in [0, 1].

    Raises:
        MissingFileError: there is no such file.
        InputError: it is no picture that Pillow can read, or it is damaged.
        InputTypeError: `path` is neither a string nor a path.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"A picture is named by a string or a path, not {path!r}.")
    try:
        with Image.open(path) as image:
            return image_to_tensor(image)
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file {os.fspath(path)}. Check the path.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{os.fspath(path)} cannot be read as a picture: its format is not known."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read as a picture: {error}.") from error


def image_to_tensor(image: PIL.Image.Image) -> Tensor:
    """Turn a picture of any mode into f[3,H,W] in [0, 1]; transparency becomes white.

    Example:
        >>> from PIL import Image
        >>> from dallemini.outputs import image_to_tensor
        >>> image_to_tensor(Image.new("L", (2, 1), 255)).shape
        torch.Size([3, 1, 2])
    """
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):  # PNG with 16 bits of gray
        image = image.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    rgb = image.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1).float() / 255


def _slug(prompt: str) -> str:
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-")[:NAME_LENGTH]
    short = words.encode()[: 3 * NAME_LENGTH].decode(errors="ignore")  # 255 bytes are the limit
    return short.strip("-") or "picture"


def _free_path(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.png", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path


def _png_bytes(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _html_image(image: PIL.Image.Image, prompt: str) -> str:
    data = base64.b64encode(_png_bytes(image)).decode("ascii")
    alt = html.escape(prompt, quote=True)
    return f'<img alt="{alt}" src="data:image/png;base64,{data}" style="margin:2px">'
