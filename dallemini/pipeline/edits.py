"""Edits as values: what is kept of a picture that a stream begins with."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from ..errors import InputError, InputTypeError
from ..images import Picture
from .sketch import Sketch, Sketcher


@dataclass(frozen=True, eq=False)
class Inpaint:
    """A part of a picture is redrawn, as by `Pipeline.inpaint`.

    Attributes:
        image: the picture.
        mask_image: white where it is redrawn.
        paste: keep the picture's own pixels outside the white part.

    Example:
        >>> from PIL import Image
        >>> from dallemini import Inpaint
        >>> from dallemini.testing import tiny_pipeline
        >>> picture, mask = Image.new("RGB", (16, 16), "red"), Image.new("L", (16, 16))
        >>> mask.paste(255, (4, 4, 12, 12))
        >>> steps = tiny_pipeline().stream("a bird", edit=Inpaint(picture, mask), every=8, seed=0)
        >>> [step.images[0].getpixel((0, 0)) for step in steps]
        [(255, 0, 0), (255, 0, 0)]
    """

    image: Picture
    mask_image: Picture
    _: KW_ONLY
    paste: bool = True

    def _sketch(self, sketcher: Sketcher) -> Sketch:
        """Return what is there before it is drawn.

        Raises:
            InputError, InputTypeError, UnsupportedOperationError: as `Pipeline.inpaint`.
        """
        return sketcher.inpaint(self.image, self.mask_image, paste=self.paste)


@dataclass(frozen=True, eq=False)
class Vary:
    """Some regions of a picture are redrawn, as by `Pipeline.vary`.

    Attributes:
        image: the picture.
        strength: share of the tokens that is redrawn, above 0 and at most 1.
        paste: keep the picture's own pixels elsewhere.
    """

    image: Picture
    _: KW_ONLY
    strength: float = 0.5
    paste: bool = True

    def _sketch(self, sketcher: Sketcher) -> Sketch:
        """Return what is there before it is drawn.

        Raises:
            InputError, InputTypeError, UnsupportedOperationError: as `Pipeline.vary`.
        """
        return sketcher.vary(self.image, self.strength, paste=self.paste)


@dataclass(frozen=True, eq=False)
class Outpaint:
    """A picture goes on beyond its edges, as by `Pipeline.outpaint`.

    Attributes:
        image: the picture.
        left: pixels that are added on this side, a multiple of a token's.
        right: likewise.
        top: likewise.
        bottom: likewise.
        paste: keep the picture's own pixels.
    """

    image: Picture
    _: KW_ONLY
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    paste: bool = True

    def _sketch(self, sketcher: Sketcher) -> Sketch:
        """Return what is there before it is drawn.

        Raises:
            InputError, InputTypeError, UnsupportedOperationError: as `Pipeline.outpaint`.
        """
        around = {side: getattr(self, side) for side in ("left", "right", "top", "bottom")}
        return sketcher.outpaint(self.image, around, paste=self.paste)


Edit: TypeAlias = Inpaint | Vary | Outpaint


def begin(
    sketcher: Sketcher,
    edit: Edit | None,
    start_image: Picture | None,
    rows: int | None,
    *,
    paste: bool,
) -> Sketch | None:
    """Return the sketch of an edit, or that of a call where there is none.

    Raises:
        InputTypeError: `edit` is none.
        InputError: it is given together with what belongs to a call; and as the edit itself.
    """
    if edit is None:
        return sketcher.begin(start_image, rows, paste=paste)
    if not isinstance(edit, Inpaint | Vary | Outpaint):
        raise InputTypeError(
            f"edit must be an Inpaint, a Vary or an Outpaint, not {type(edit).__name__}; they are "
            "imported from dallemini."
        )
    if start_image is not None or rows is not None or paste is not True:
        raise InputError(
            "edit= says what is kept: leave out start_image= and rows=, and give paste= to the "
            "edit itself."
        )
    return edit._sketch(sketcher)
