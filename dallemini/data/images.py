"""From an encoded picture to a square tensor, or to the reason why not.

Knows PIL and pixels, not where pictures come from.
"""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..images import image_to_tensor, tensor_to_images
from .config import DataConfig
from .records import BadRecord, BadRecordError, Reason

# Only pictures made of pixels: PIL would start other programs for PostScript, for example.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_PLAIN_MODES = ("1", "L", "RGB", "CMYK", "YCbCr")
_WHITE = (255, 255, 255)


def decode_image(image: bytes | Path, *, key: str, config: DataConfig) -> Image.Image:
    """Decode a picture to RGB, upright, on white where it is transparent.

    Args:
        image: the encoded picture, or its file.
        key: name of its record, for the error.
        config: `min_side`, `max_side` and `max_pixels` are kept; a JPEG much larger than
            `image_size` is decoded at a fraction of its size.

    Raises:
        BadRecordError: there is no picture, it cannot be decoded, it moves, or its size is out of
            bounds.
    """
    with _open(_read(image, key), key) as picture:
        _check_size(picture, key, config)
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":  # a camera's previews
            raise _bad(key, "animated", f"it has {getattr(picture, 'n_frames', 1)} frames")
        try:
            picture.draft(None, (2 * config.image_size, 2 * config.image_size))
            picture.load()
            _turn_upright(picture)
            return _to_rgb(picture)
        except Exception as error:  # decoders raise anything at all on broken files
            raise _bad(key, "broken image", f"{type(error).__name__}: {error}") from error


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
    size = config.image_size
    if config.crop == "pad":
        square = _pad(image, size)
    else:
        square = _crop(image, size, place if config.crop == "random" else 0.5)
    if config.mirror and side < 0.5:
        square = ImageOps.mirror(square)
    return image_to_tensor(square)


def _read(image: bytes | Path, key: str) -> bytes:
    if isinstance(image, Path):
        try:
            image = image.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise _bad(key, "no image", f"its file cannot be read: {error}") from error
    if not image:
        raise _bad(key, "no image", "it has no bytes")
    return image


def _open(content: bytes, key: str) -> Image.Image:
    """Read the header."""
    try:
        return Image.open(io.BytesIO(content), formats=_known_formats())
    except UnidentifiedImageError as error:
        raise _bad(key, "not an image", f"{len(content)} bytes of no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bad(key, "too large", f"PIL does not open it: {error}") from error
    except Exception as error:  # as above
        raise _bad(key, "not an image", f"{type(error).__name__}: {error}") from error


def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(picture: Image.Image, key: str, config: DataConfig) -> None:
    width, height = picture.size
    if min(width, height) < config.min_side:
        raise _bad(key, "too small", f"{width}x{height} pixels, min_side is {config.min_side}")
    if max(width, height) > config.max_side:
        raise _bad(key, "too large", f"{width}x{height} pixels, max_side is {config.max_side}")
    if width * height > config.max_pixels:
        raise _bad(key, "too large", f"{width}x{height} pixels, max_pixels is {config.max_pixels}")


def _turn_upright(picture: Image.Image) -> None:
    """Turn a photograph as its camera was held; a broken note of that is no reason to lose it."""
    with contextlib.suppress(Exception):  # as above
        ImageOps.exif_transpose(picture, in_place=True)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in _PLAIN_MODES and "transparency" not in picture.info:
        return picture.convert("RGB")
    return tensor_to_images(image_to_tensor(picture)[None])[0]


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
