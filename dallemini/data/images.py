"""From an encoded picture to a tensor of the size that is asked for, or to the reason why not.

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
            draft_side=2 * max(config.size),
        )
    except MissingFileError as error:
        hint = "; paths are written with /, not \\" if "\\" in str(image) else ""
        raise _bad(key, "no image", f"its file cannot be read: there is none{hint}") from error
    except PictureError as error:
        raise _bad(key, error.reason, error.detail) from error


def fit_image(
    image: Image.Image, *, config: DataConfig, chance: random.Random | None = None
) -> Tensor:
    """Turn an RGB picture into f32[3,H,W] in [0, 1].

    Args:
        image: of any size.
        config: `image_size`, `crop` and `mirror`.
        chance: decides on place and mirroring, always by two of its numbers; without it a picture
            is cropped in the middle and not mirrored.
    """
    place, side = (0.5, 1.0) if chance is None else (chance.random(), chance.random())
    height, width = config.size
    if config.crop == "pad":
        fitted = _pad(image, (width, height))
    else:
        fitted = _crop(image, (width, height), place if config.crop == "random" else 0.5)
    if config.mirror and side < 0.5:
        fitted = ImageOps.mirror(fitted)
    return image_to_tensor(fitted)


def _crop(image: Image.Image, size: tuple[int, int], place: float) -> Image.Image:
    (width, height), (across, down) = image.size, size
    if width * down > height * across:
        width_kept, height_kept = height * across / down, float(height)
    else:
        width_kept, height_kept = float(width), width * down / across
    left, top = (width - width_kept) * place, (height - height_kept) * place
    box = (left, top, left + width_kept, top + height_kept)
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(whole / length for whole, length in zip(size, image.size, strict=True))
    width, height = (
        min(whole, max(1, round(length * scale)))
        for whole, length in zip(size, image.size, strict=True)
    )
    padded = Image.new("RGB", size, _WHITE)
    small = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    padded.paste(small, ((size[0] - width) // 2, (size[1] - height) // 2))
    return padded


def _bad(key: str, reason: Reason, detail: str) -> BadRecordError:
    return BadRecordError(BadRecord(key, reason, detail))
