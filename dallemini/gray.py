"""Gray of more than 8 bits, scaled to 8 in a memory that hardly grows with the picture.

Knows PIL's modes and what a TIFF says of its numbers. PIL is imported where a picture comes from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import PIL.Image

_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _UNSIGNED = 258, 339, 1
_MOST_IN_TILE = 1 << 20  # pixels that are worked on at once


class GrayError(ValueError):
    """The range of a picture's numbers cannot be guessed."""


def tiles(picture: PIL.Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes that cover a picture, each so small that copies of it take little memory."""
    width = min(picture.width, _MOST_IN_TILE)
    height = max(_MOST_IN_TILE // max(width, 1), 1)
    for top in range(0, picture.height, height):
        for left in range(0, picture.width, width):
            right, bottom = min(left + width, picture.width), min(top + height, picture.height)
            yield left, top, right, bottom


def scale_gray(picture: PIL.Image.Image) -> NDArray[np.uint8]:
    """Scale deep gray to u8[H,W]; what the file calls transparent becomes white.

    Args:
        picture: of mode "I", "F" or "I;16", of at least one pixel.

    Raises:
        GrayError: its numbers are below 0, or no range is known that they may have.
    """
    limits: tuple[float, ...] = (1.0, 255.0, 4095.0, 65535.0)
    kind: Any = None
    if picture.mode != "F":
        bits, is_signed = _depth(picture)
        kind = np.uint32 if bits == 32 and not is_signed else None  # PIL takes them for signed ones
        deeper = {16: (12, 16), 32: (12, 16, 31, 32)}.get(bits, (bits,))
        limits = (255, *(2**n - 1 for n in deeper))

    def numbers(box: tuple[int, int, int, int]) -> NDArray[Any]:
        found: NDArray[Any] = np.asarray(picture.crop(box))
        return found if kind is None else found.view(kind)

    ends = [(part.min(), part.max()) for part in map(numbers, tiles(picture))]
    lowest, highest = np.min(ends), np.max(ends)
    limit = next((limit for limit in limits if highest <= limit), None)
    if limit is None or not lowest >= 0:
        raise GrayError(
            f"its numbers go from {lowest:g} to {highest:g}; scale them to 0 to 1 or 0 to 255"
        )
    levels = np.empty((picture.height, picture.width), np.uint8)
    clear = picture.info.get("transparency")
    for box in tiles(picture):
        left, top, right, bottom = box
        part, place = numbers(box), levels[top:bottom, left:right]
        place[...] = np.rint(part.astype(np.float64) * (255 / limit))
        if isinstance(clear, int):
            place[part == clear] = 255
    return levels


def _depth(picture: PIL.Image.Image) -> tuple[int, bool]:
    """Return how many bits each number of deep gray has in the file, and whether it has a sign."""
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    bits, kinds = tags.get(_BITS_PER_SAMPLE, ()), tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    if picture.mode == "I":
        return 32, not tags or _UNSIGNED not in kinds
    return (bits[0] if bits and 8 < bits[0] < 16 else 16), False
