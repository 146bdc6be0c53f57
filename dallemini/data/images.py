"""From an encoded picture to a square tensor, or to the reason why not.

Knows PIL and pixels, not where pictures come from.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from ..errors import MissingFileError
from ..images import PictureError, image_to_tensor, open_image
from .config import DataConfig
from .records import BadRecord, BadRecordError, Reason

_WHITE = (255, 255, 255)


def decode_image(image: bytes | Path, *, key: str, config: DataConfig) -> Image.Image:
    """Decode a picture to RGB, upright, on white where it is transparent, as `open_image` does.

    Args:
        image: the encoded picture, or its file.
        key: name of its record, for the error.
        config: `min_side`, `max_side` and `max_pixels` are kept; a JPEG much larger than
            `image_size` is decoded at a fraction of its size.

    Raises:
        BadRecordError: there is no picture, it cannot be decoded, it moves, or its size is out of
            bounds.
    """
    try:
        return open_image(
            image,
            min_side=config.min_side,
            max_side=config.max_side,
            max_pixels=config.max_pixels,
            still=True,
            draft_side=2 * config.side,
        )
    except MissingFileError as error:
        hint = "; paths are written with /, not \\" if "\\" in str(image) else ""
        raise _bad(key, "no image", f"its file cannot be read: there is none{hint}") from error
    except PictureError as error:
        raise _bad(key, error.reason, error.detail) from error


def fit_image(
    image: Image.Image, *, config: DataConfig, chance: random.Random | None = None
) -> Tensor:
    """Turn an RGB picture into f32[3,S,S] in [0, 1].

    Args:
        image: of any size.
        config: `image_size`, `crop` and `mirror`.
        chance: decides on place and mirroring, always by two of its numbers; without it a picture
            is cropped in the middle and not mirrored.
    """
    place, side = (0.5, 1.0) if chance is None else (chance.random(), chance.random())
    size = config.side
    if config.crop == "pad":
        square = _pad(image, size)
    else:
        square = _crop(image, size, place if config.crop == "random" else 0.5)
    if config.mirror and side < 0.5:
        square = ImageOps.mirror(square)
    return image_to_tensor(square)


def _crop(image: Image.Image, size: int, place: float) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) * place for length in image.size)
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _pad(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size), _WHITE)
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    square.paste(small, ((size - width) // 2, (size - height) // 2))
    return square


def _bad(key: str, reason: Reason, detail: str) -> BadRecordError:
    return BadRecordError(BadRecord(key, reason, detail))
