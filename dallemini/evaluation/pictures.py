"""The pictures of a report: sizes that suit a page, and strips of them."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw
from torch import Tensor

from ..images import tensor_to_images

SMALLEST, LARGEST = 96, 160
MOST_IN_STRIP = 8
GAP, WIDE_GAP, FRAME = 6, 18, 3
FRAME_COLOR = (26, 115, 232)


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureRow:
    """A caption with its pictures.

    Attributes:
        caption: what was asked for.
        own: f[3,H,W] in [0, 1], the picture that the caption belongs to.
        reconstruction: f[3,H,W], the own picture's codes decoded.
        drawn: f[n,3,H,W], in the order of their seeds; None where nothing was drawn.
        best: index of the one with the highest score, where there are several.
    """

    caption: str
    own: Tensor | None = None
    reconstruction: Tensor | None = None
    drawn: Tensor | None = None
    best: int | None = None


def show(pixels: Tensor, *, largest: int = LARGEST) -> Image.Image:
    """Turn f[3,H,W] in [0, 1] into a picture that is neither tiny nor huge on a page."""
    image = tensor_to_images(pixels[None])[0]
    longest = max(image.size)
    if longest < SMALLEST:
        factor = -(-SMALLEST // longest)  # whole, so that every pixel stays what it is
        width, height = image.size
        return image.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if longest > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    return image


def strip(row: PictureRow, *, largest: int = LARGEST) -> Image.Image:
    """Lay a row out: its own picture, a wide gap, the drawn ones with a frame around the best."""
    drawn = (
        []
        if row.drawn is None
        else [show(pixels, largest=largest) for pixels in row.drawn[:MOST_IN_STRIP]]
    )
    own = [] if row.own is None else [show(row.own, largest=largest)]
    side = max(max(image.size) for image in [*own, *drawn])
    offset = (side + WIDE_GAP) if own else 0
    width = offset + len(drawn) * (side + GAP) - GAP
    sheet = Image.new("RGB", (width + 2 * FRAME, side + 2 * FRAME), "white")
    for image in own:
        sheet.paste(image, (FRAME, FRAME))
    pen = ImageDraw.Draw(sheet)
    for number, image in enumerate(drawn):
        left = FRAME + offset + number * (side + GAP)
        if number == row.best:
            box = (left - FRAME, 0, left + side + FRAME - 1, side + 2 * FRAME - 1)
            pen.rectangle(box, fill=FRAME_COLOR)
        sheet.paste(image, (left, FRAME))
    return sheet
