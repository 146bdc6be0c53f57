"""What somebody painted in an editor, as a picture and a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import PIL.Image

_HALF = 128  # of 255: from here on a brush counts


def read_painting(value: object) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Return the picture below what was painted, and a mask that is white where it was.

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
        raise InputError("There is no picture; choose one of yours, or one that was drawn here.")
    mask = PIL.Image.new("L", background.size)
    for layer in parts.get("layers") or ():
        alpha = layer.convert("RGBA").getchannel("A").resize(background.size)
        painted = alpha.point([0] * _HALF + [255] * (256 - _HALF))
        mask = PIL.ImageChops.lighter(mask, painted)
    if mask.getbbox() is None:
        raise InputError("Nothing is painted; paint over what is to be redrawn.")
    return background.convert("RGB"), mask
