"""What is there before a picture is drawn: its size, the tokens that are given, pixels to keep.

`Sketcher` makes sketches from pictures and masks; it encodes a picture once, and draws nothing.

Shapes: h/w rows and columns of tokens, H/W pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import plain_number
from ..errors import InputError, InputTypeError
from ..foreign import show
from ..generation.canvas import Canvas
from ..generation.config import GenerationConfig
from ..generation.drawing import FREE, Drawing
from ..generation.request import Request
from ..images import (
    Picture,
    fit_image,
    image_to_tensor,
    open_image,
    picture_digest,
    read_mask,
)
from ..models._checks import without_autocast
from .pixels import ImageTokenizerLike, decode_tokens, encode_pictures, token_size
from .regions import choose_regions, fade_in

if TYPE_CHECKING:
    import PIL.Image

_GIVEN_AS = {"image": "image", "mask": "mask_image"}
_SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """What is there of a picture before it is drawn.

    Attributes:
        canvas: its size in tokens.
        token_size: pixels along each side of a token.
        tokens: i64[h,w] of the picture that it begins with; None without one.
        hole: bool[h,w], which tokens are drawn; None for all, or where `strength` says it.
        strength: share of the tokens that is drawn, in regions that the seed chooses.
        original: its pixels are kept outside the hole; None keeps none.
        mask: bool[H,W], the hole in pixels, where it is finer than that of the tokens.
        record: what the finished picture's metadata say of it; None for no edit.
    """

    canvas: Canvas
    token_size: int
    tokens: Tensor | None = None
    hole: Tensor | None = None
    strength: float | None = None
    original: PIL.Image.Image | None = field(default=None, repr=False)
    mask: Tensor | None = None
    record: Mapping[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.canvas.height, self.canvas.width

    def hole_of(self, seed: int) -> Tensor:
        """Return bool[h,w], which tokens the picture of this seed draws."""
        if self.strength is not None:
            return choose_regions(*self.shape, share=self.strength, seed=seed)
        if self.hole is not None:
            return self.hole
        return torch.ones(self.shape, dtype=torch.bool, device="cpu")

    def draw_on(self, drawing: Drawing) -> Drawing:
        """Return a drawing with the tokens that are given here."""
        if self.tokens is None:
            return drawing
        given = self.tokens.masked_fill(self.hole_of(drawing.seed), FREE)
        return replace(drawing, fixed=given.flatten())

    def work(self, seed: int) -> int:
        """Return how many tokens are drawn for the picture of this seed."""
        return sum(int(window.free.sum()) for window in self.canvas.plan(self.hole_of(seed)))

    def batch_size(self, request: Request) -> int:
        """Return how many pictures are drawn together: each may have several candidates."""
        plan = self.canvas.plan(self.hole_of(request.seeds[0]))
        if request.config.batch_size != "auto" or not any(window.has_ahead for window in plan):
            return request.batch_size
        return max(1, request.batch_size // request.config.lookahead)

    def decode(self, vqgan: ImageTokenizerLike, tokens: Tensor) -> Tensor:
        """Map i64[1,h*w] to f[1,3,H,W]."""
        if self.canvas.is_plain:
            return decode_tokens(vqgan, tokens, self.shape)
        decode: Any = vqgan.decode  # `Sketcher` has seen that it takes these
        pixels: Tensor = decode(tokens, shape=self.shape, wraps=self.canvas.wraps)
        return pixels

    def keep_pixels(self, image: PIL.Image.Image, seed: int) -> PIL.Image.Image:
        """Lay a drawn picture under the pixels that are kept, which fade out within the hole."""
        if self.original is None:
            return image
        hole = self.mask
        if hole is None:
            size = self.token_size
            hole = self.hole_of(seed).repeat_interleave(size, 0).repeat_interleave(size, 1)
        return _composite(image, self.original, fade_in(hole, reach=self.token_size // 4))


class Sketcher:
    """Makes sketches for one call.

    Args:
        config: width, height and tile of the call.
        vqgan: encodes pictures.
        grid: rows and columns of tokens of the model's own pictures.

    Raises:
        InputError: the size is none that can be drawn, or the image tokenizer decodes its own grid
            only.
    """

    def __init__(
        self, config: GenerationConfig, vqgan: ImageTokenizerLike, grid: tuple[int, int]
    ) -> None:
        self._config, self._vqgan, self._grid = config, vqgan, grid

    @cached_property
    def _unit(self) -> int:
        return token_size(self._vqgan, self._grid)

    @property
    def _own(self) -> tuple[int, int]:
        """Width and height of the model's own pictures."""
        return self._grid[1] * self._unit, self._grid[0] * self._unit

    def begin(
        self, start_image: Picture | None, rows: int | None, *, paste: bool = True
    ) -> Sketch | None:
        """Return the sketch of a call: empty, or with the upper rows of a picture.

        None stands for an empty one of the model's own size.

        Raises:
            InputError: the picture cannot be used, or `rows` leaves nothing to keep or to draw, or
                there is no picture.
        """
        config = self._config
        if start_image is not None:
            return self._start(start_image, rows, paste=paste)
        if paste is not True:
            raise InputError("paste says what is kept of a start_image; give that, too.")
        if rows is not None:
            raise InputError("rows says how much of a start_image is kept; give that, too.")
        if config.width is None and config.height is None and not config.tile:
            return None
        canvas = self._canvas(config.width or self._own[0], config.height or self._own[1])
        return None if canvas.is_plain else Sketch(canvas=canvas, token_size=self._unit)

    def _start(self, image: Picture, rows: int | None, *, paste: bool) -> Sketch:
        opened, canvas = self._open(image)
        kept = canvas.height // 2 if rows is None else plain_number(rows)
        if isinstance(kept, bool) or not isinstance(kept, int) or not 0 < kept < canvas.height:
            raise InputError(
                f"rows must be a whole number from 1 to {canvas.height - 1}, so many rows of "
                f"tokens ({self._unit} pixels each) are kept, not {rows!r}."
            )
        hole = torch.ones(canvas.height, canvas.width, dtype=torch.bool, device="cpu")
        hole[:kept] = False
        record = {
            "operation": "start",
            "image": picture_digest(opened),
            "rows": kept,
            "paste": paste,
        }
        return self._sketch(opened, canvas, hole=hole, paste=paste, record=record)

    def inpaint(self, image: Picture, mask_image: Picture, *, paste: bool) -> Sketch:
        """Keep a picture where a mask is black.

        Raises:
            InputError: the picture or the mask cannot be used.
        """
        opened, canvas = self._open(image)
        mask = read_mask(mask_image)
        if mask.size != opened.size:
            raise InputError(
                f"The mask has {mask.width}x{mask.height} pixels and the picture {opened.width}x"
                f"{opened.height}; give a mask of the picture's size."
            )
        size = canvas.width * self._unit, canvas.height * self._unit
        pixels = torch.from_numpy(np.array(fit_image(mask, size, coverage=True))) > 0
        hole = F.max_pool2d(pixels[None].float(), self._unit)[0] > 0
        if not bool(hole.any()):
            lost = mask.getbbox() is not None
            raise InputError(
                f"The white part of the mask is lost where the picture is fitted to {size[0]}x"
                f"{size[1]} pixels: it is cut off, or too small; cut the picture yourself, or "
                "paint more white."
                if lost
                else "The mask is black, so that nothing is to be redrawn; paint white what is."
            )
        if bool(hole.all()):
            raise InputError(
                f"The mask leaves no token ({self._unit}x{self._unit} pixels) of the picture to go "
                "on from; paint black what is to be kept, or draw without the picture."
            )
        record = {
            "operation": "inpaint",
            "image": picture_digest(opened),
            "mask": picture_digest(mask),
            "paste": paste,
        }
        return self._sketch(opened, canvas, hole=hole, mask=pixels, paste=paste, record=record)

    def vary(self, image: Picture, strength: float, *, paste: bool) -> Sketch:
        """Keep a picture but for some regions.

        Raises:
            InputError: the picture cannot be used, or `strength` is not above 0 and at most 1.
            InputTypeError: `strength` is not a number.
        """
        share = plain_number(strength)
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise InputTypeError(f"strength must be a number, not {strength!r}.")
        if not 0 < share <= 1:
            raise InputError(
                f"strength must be above 0, which would redraw nothing, and at most 1, which "
                f"redraws everything, not {strength!r}."
            )
        opened, canvas = self._open(image)
        record = {
            "operation": "vary",
            "image": picture_digest(opened),
            "strength": float(share),
            "paste": paste,
        }
        return self._sketch(opened, canvas, strength=float(share), paste=paste, record=record)

    def outpaint(self, image: Picture, around: Mapping[str, int], *, paste: bool) -> Sketch:
        """Keep a picture and draw around it.

        Args:
            image: the picture.
            around: pixels by side: left, right, top, bottom.
            paste: keep its pixels.

        Raises:
            InputError: the picture cannot be used, or the numbers are not multiples of a token's
                pixels, or all 0.
        """
        lines = {side: self._tokens(side, around[side]) for side in _SIDES}
        if not any(lines.values()):
            raise InputError(
                "There is nothing to draw: say how many pixels to add, such as "
                f"{self._own[0] // 2} on the right."
            )
        opened, inner = self._open(image)
        canvas = self._canvas(
            (inner.width + lines["left"] + lines["right"]) * self._unit,
            (inner.height + lines["top"] + lines["bottom"]) * self._unit,
        )
        hole = torch.ones(canvas.height, canvas.width, dtype=torch.bool, device="cpu")
        top, left = lines["top"], lines["left"]
        place = slice(top, top + inner.height), slice(left, left + inner.width)
        hole[place] = False
        record: dict[str, Any] = {"operation": "outpaint", "image": picture_digest(opened)}
        record |= {side: lines[side] * self._unit for side in _SIDES} | {"paste": paste}
        sketch = self._sketch(opened, inner, paste=paste, record=record)
        assert sketch.tokens is not None
        tokens = torch.zeros_like(hole, dtype=torch.int64)
        tokens[place] = sketch.tokens
        wider = {side: lines[side] * self._unit for side in _SIDES}
        original = sketch.original and _extend(sketch.original, **wider)
        return replace(sketch, canvas=canvas, tokens=tokens, hole=hole, original=original)

    def repeat(
        self, edit: Mapping[str, Any] | None, image: Picture | None, mask_image: Picture | None
    ) -> Sketch | None:
        """Return the sketch of a call whose `record` this is; without one, that of a plain call.

        Args:
            edit: what a picture's metadata say of its edit.
            image: the picture that it began with.
            mask_image: its mask, if it had one.

        Raises:
            InputError: other pictures are given, or the edit is none that is made here.
        """
        if edit is None:
            return self.begin(None, None)
        sketch = self._repeat(edit, image, mask_image)
        for name in ("image", "mask"):
            wanted, found = edit.get(name), (sketch.record or {}).get(name)
            if wanted != found:
                raise InputError(
                    f"The picture given as {_GIVEN_AS[name]}= is another one than the edit began "
                    f"with: its pixels have the SHA-256 {found}, not {wanted}."
                )
        return sketch

    def _repeat(
        self, edit: Mapping[str, Any], image: Picture | None, mask_image: Picture | None
    ) -> Sketch:
        operation = edit.get("operation")
        try:
            if image is not None and operation == "start":
                return self._start(image, edit["rows"], paste=edit.get("paste", True))
            if image is not None and operation == "vary":
                return self.vary(image, edit["strength"], paste=edit["paste"])
            if image is not None and operation == "outpaint":
                return self.outpaint(image, edit, paste=edit["paste"])
            if image is not None and mask_image is not None and operation == "inpaint":
                return self.inpaint(image, mask_image, paste=edit["paste"])
        except KeyError as error:
            raise InputError(f"The edit {operation!r} does not say its {error}.") from error
        raise InputError(
            f"The edit {show(operation)} cannot be repeated with what is given; inpaint needs "
            "image= and mask_image=, the others image=."
        )

    def _open(self, image: Picture) -> tuple[PIL.Image.Image, Canvas]:
        """Open a picture, and say at which size it is drawn on.

        Its shorter side becomes the model's (of a model whose pictures are no squares: it covers
        one of them), the other one keeps to it, unless the call says both.
        """
        opened = open_image(image)
        scale = max(own / length for own, length in zip(self._own, opened.size, strict=True))
        width, height = (
            max(own, round(length * scale / self._unit) * self._unit)
            for own, length in zip(self._own, opened.size, strict=True)
        )
        return opened, self._canvas(self._config.width or width, self._config.height or height)

    def _sketch(
        self, opened: PIL.Image.Image, canvas: Canvas, *, paste: bool = True, **rest: Any
    ) -> Sketch:
        """Fit a picture to a canvas, encode it, and put the sketch together."""
        if not isinstance(paste, bool):
            raise InputTypeError(f"paste must be True or False, not {paste!r}.")
        fitted = fit_image(opened, (canvas.width * self._unit, canvas.height * self._unit))
        device = self._vqgan.device
        with torch.no_grad(), without_autocast(device):
            tokens = encode_pictures(self._vqgan, image_to_tensor(fitted)[None])
        if tokens.numel() != canvas.height * canvas.width:
            raise InputError(
                f"The image tokenizer made {tokens.numel()} tokens of {fitted.width}x"
                f"{fitted.height} pixels instead of {canvas.height} * {canvas.width}; use another."
            )
        return Sketch(
            canvas=canvas,
            token_size=self._unit,
            tokens=tokens.view(canvas.height, canvas.width).cpu(),
            original=fitted if paste else None,
            **rest,
        )

    def _canvas(self, width: int, height: int) -> Canvas:
        columns, rows = self._tokens("width", width), self._tokens("height", height)
        own = "x".join(map(str, self._own))
        if rows < self._grid[0] or columns < self._grid[1]:
            raise InputError(
                f"A picture of {width}x{height} pixels is smaller than the {own} that this model "
                "draws; take a larger one and scale it down."
            )
        canvas = Canvas(height=rows, width=columns, side=self._grid, wraps=self._config.tile)
        if not canvas.is_plain and not _takes_shapes(self._vqgan):
            raise InputError(
                f"{type(self._vqgan).__name__} decodes pictures of {own} pixels only: its method "
                "decode takes no shape= and wraps=, as that of VQGAN does."
            )
        return canvas

    def _tokens(self, name: str, pixels: object) -> int:
        """Return how many tokens so many pixels are."""
        number, unit = plain_number(pixels), self._unit
        if isinstance(number, bool) or not isinstance(number, int):
            raise InputTypeError(f"{name} must be a whole number of pixels, not {pixels!r}.")
        if number < 0 or number % unit:
            near = sorted({max(0, number // unit * unit), max(0, -(-number // unit) * unit)})
            raise InputError(
                f"{name} must be a multiple of the {unit} pixels of a token, not {number}; take "
                f"{' or '.join(map(str, near))}."
            )
        return number // unit


def _composite(over: PIL.Image.Image, under: PIL.Image.Image, opacity: Tensor) -> PIL.Image.Image:
    """Lay one picture over another of the same size.

    Args:
        over: shows where the opacity is 255.
        under: shows where it is 0, to the last bit.
        opacity: u8[H,W].
    """
    from PIL import Image

    return Image.composite(over, under, Image.fromarray(opacity.cpu().numpy()))


def _extend(
    image: PIL.Image.Image, *, left: int, right: int, top: int, bottom: int
) -> PIL.Image.Image:
    """Add pixels around a picture, in the colours of its edges."""
    from PIL import Image

    around = ((top, bottom), (left, right), (0, 0))
    return Image.fromarray(np.pad(np.asarray(image), around, mode="edge"))


def _takes_shapes(vqgan: ImageTokenizerLike) -> bool:
    try:
        inspect.signature(vqgan.decode).bind(None, shape=(1, 1), wraps=False)
    except (TypeError, ValueError):
        return False
    return True
