"""Pictures and tensors: opening a picture, turning one into the other, laying several out.

Knows pixels, not models. PIL is imported inside the functions that need it, because importing this
library must be quick.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import InputError, InputTypeError, MissingFileError

if TYPE_CHECKING:
    import PIL.Image

GRID_GAP = 4


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
        >>> from dallemini.images import image_to_tensor
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
