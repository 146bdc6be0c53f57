"""What somebody sent, as a picture, and what was painted over it or is clear in it, as a mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..images import open_image
from .errors import ServiceError
from .limits import MOST_PIXELS

if TYPE_CHECKING:
    import PIL.Image

_HALF = 128  # of 255: from here on a brush counts
_NONE = "There is no picture; choose one of yours, or one that was drawn here."


def read_picture(path: object) -> PIL.Image.Image:
    """Return the picture in a file that was sent.

    Raises:
        InputError: there is none, or it is no picture, or a very large one.
    """
    if not isinstance(path, str):
        raise InputError(_NONE)
    # its content, as no message should tell where it lies
    return open_image(Path(path).read_bytes(), max_pixels=MOST_PIXELS)


def read_painting(value: object) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Return the picture below what was painted, on white, and a mask that is white where it was.

    Args:
        value: what the editor gives: a `background` and `layers`, RGBA.

    Raises:
        InputError: there is no picture, or nothing is painted.
    """
    import PIL.Image
    import PIL.ImageChops

    parts: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    background = parts.get("background")
    if not isinstance(background, PIL.Image.Image) or background.getbbox() is None:
        raise InputError(_NONE)
    mask = PIL.Image.new("L", background.size)
    for layer in parts.get("layers") or ():
        alpha = layer.convert("RGBA").getchannel("A").resize(background.size)
        painted = alpha.point([0] * _HALF + [255] * (256 - _HALF))
        mask = PIL.ImageChops.lighter(mask, painted)
    if mask.getbbox() is None:
        raise InputError("Nothing is painted; paint over what is to be redrawn.")
    return open_image(background), mask


def clear_parts(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """Return what of a picture is transparent, as a mask: white where alpha is below 128.

    Raises:
        ServiceError: nothing is.
    """
    if image.mode != "RGBA":
        raise ServiceError(
            400, f"The {name} has no transparent part, which says what to redraw.", param=name
        )
    return image.getchannel("A").point([255] * _HALF + [0] * (256 - _HALF))
