"""Looking for the mark of a key in pictures, and drawing with one.

A picture is encoded again, as it is and at the model's own size; where that shows nothing, the grid
is moved, as cropping does. Every way of looking is paid for: the p-value holds for all of them
together. `generation.watermark` has the mark itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, cast

import torch.nn.functional as F
from torch import Tensor

from ..config import plain_number
from ..errors import InputError, InputTypeError
from ..generation.canvas import MOST_TOKENS
from ..generation.request import Request
from ..generation.watermark import (
    PERIOD,
    CodeGroups,
    Evidence,
    Watermark,
    group_codes,
    weigh_evidence,
)
from ..images import read_image
from ..models._checks import without_autocast
from ..models.image_tokenizer import ImageTokenizer
from ..models.transformer import Transformer
from .pixels import ImageTokenizerLike

if TYPE_CHECKING:
    import os

    import PIL.Image

    Picture: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"

CLEAR = 1e-4  # a p-value below which nothing more is searched
_MOVES = 4  # along each side of a token
_UPRIGHT = ((0, 0),)
_SHIFTS = tuple((top, left) for top in range(PERIOD) for left in range(PERIOD))
_MOST_KNOWN = 4
_known: dict[bytes, CodeGroups] = {}


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well pictures fit a key.

    Attributes:
        p_value: the chance that a key that has nothing to do with the pictures fits as well; all
            ways of looking are counted. Small means marked: of unmarked pictures one in a thousand
            comes below 0.001.
        score: share of the votes for the key, 0.5 on average without its mark.
        tokens: how many tokens were read.
        votes: how many coins of the key voted; a few votes cannot say much.
    """

    p_value: float
    score: float
    tokens: int
    votes: int


class Detecting:
    """The part of a pipeline that looks for marks; of the transformer, it asks for the grid."""

    transformer: Transformer
    vqgan: ImageTokenizerLike

    def detect(
        self,
        images: Picture | Sequence[Picture],
        watermark: Watermark,
        *,
        search: bool = True,
        width: int | None = None,
        height: int | None = None,
    ) -> Detection:
        """Say whether pictures were drawn with `watermark=`.

        Several pictures are taken together: they are thought to have been drawn with one key and to
        have had the same fate, and small pictures say much more so.

        Args:
            images: a picture (its path, its bytes, or one of PIL) or several.
            watermark: the key. Its strength plays no part.
            search: also look for crops, by moving the grid; it takes 16 times as long where the
                mark is not found before.
            width: pixels that they were drawn at, if that is not the model's own size. Pictures
                that were scaled since are only found by the size that drew them.
            height: the same for the other side.

        Raises:
            MissingFileError: there is no such file.
            InputError: a picture cannot be read or is too small, or there is none; a size is not
                positive.
            InputTypeError: `watermark` is not one, or this image tokenizer has no codebook; a size
                is not a whole number.
            UnsupportedOperationError: the VQGAN has no encoder.

        Example:
            >>> from dallemini import Watermark
            >>> from dallemini.testing import tiny_pipeline
            >>> pipe, mark = tiny_pipeline(), Watermark("secret")
            >>> pipe.detect(pipe("a red apple", seed=0, progress=False).images, mark).tokens
            16
        """
        check_watermark(watermark)
        given = [images] if _is_one(images) else list(cast("Sequence[Picture]", images))
        pictures = [read_image(cast("Picture", image)) for image in given]
        if not pictures:
            raise InputError("There is no picture to look at; give one or several.")
        vqgan = codebook_of(self.vqgan)
        grid = self.transformer.config.grid
        side = drawn_side(width, height, grid, vqgan.token_size)
        return look_for(pictures, watermark, vqgan, search=search, grid=grid, side=side)


def _is_one(images: object) -> bool:
    return isinstance(images, str | bytes) or not isinstance(images, Sequence)


def look_for(
    pictures: Sequence[Tensor],
    watermark: Watermark,
    vqgan: ImageTokenizer,
    *,
    search: bool = True,
    grid: tuple[int, int] | None = None,
    side: int | None = None,
) -> Detection:
    """Look for a mark in pictures f[3,H,W] in [0, 1]; see `detect`.

    Args:
        pictures: of one key.
        watermark: the key.
        vqgan: reads them.
        search: also look for crops.
        grid: rows and columns of the model's own pictures; the VQGAN's when not given.
        side: pixels that the shorter side was drawn with. When not given, it may be that of the
            model's own pictures or, of larger ones that nobody scaled, their own.
    """
    groups = known_groups(vqgan)
    favoured = watermark.favours(groups)
    best: tuple[float, Evidence, int] | None = None
    own = side or min(grid or vqgan.grid) * vqgan.token_size
    for ways in _ways(pictures, own, vqgan.token_size, search, told=side is not None):
        # the ways of looking at the grid as it is share one half, those of moving it the other
        count = sum(len(way.shifts) for way in ways) * (2 if search else 1)
        for way in ways:
            codes = [_encode(vqgan, way.view(picture)) for picture in pictures]
            tokens = sum(one.numel() for one in codes)
            for found in weigh_evidence(codes, groups, favoured, shifts=way.shifts):
                p_value = min(1.0, found.p_value * count)
                if best is None or (p_value, -found.score) < (best[0], -best[1].score):
                    best = p_value, found, tokens
        if best is not None and best[0] < CLEAR:
            break
    if best is None:
        raise InputError(
            f"A picture smaller than a token, {vqgan.token_size} pixels, holds no "
            "mark; give larger ones."
        )
    return Detection(p_value=best[0], score=best[1].score, tokens=best[2], votes=best[1].votes)


def drawn_side(width: object, height: object, grid: tuple[int, int], unit: int) -> int | None:
    """Return the shorter side, in pixels, of pictures that were drawn at a size, if it is told.

    Args:
        width: pixels; those of the grid when None.
        height: pixels; those of the grid when None.
        grid: rows and columns of tokens of the model's own pictures.
        unit: pixels along each side of a token.

    Raises:
        InputTypeError: a side is not a whole number.
        InputError: it is not positive, or longer than what can be drawn.
    """
    if width is None and height is None:
        return None
    sides, most = [], math.isqrt(MOST_TOKENS) * unit
    for name, given, tokens in (("width", width, grid[1]), ("height", height, grid[0])):
        side = tokens * unit if given is None else plain_number(given)
        if isinstance(side, bool) or not isinstance(side, int):
            raise InputTypeError(f"{name} must be a whole number of pixels, not {given!r}.")
        if side < 1:
            raise InputError(f"{name} must be a positive number of pixels, not {side}.")
        sides.append(side)
    if min(sides) > most:
        raise InputError(
            f"No picture has {min(sides)} pixels on both sides when it is drawn, but up to {most}."
        )
    return min(sides)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """One way of looking at pictures.

    Attributes:
        unit: pixels along each side of a token.
        side: pixels that the shorter side is scaled to; None to leave it.
        top: pixels that are cut off above.
        left: pixels that are cut off on the left.
        shifts: rows and columns that the grid may have lost.
    """

    unit: int
    side: int | None = None
    top: int = 0
    left: int = 0
    shifts: Sequence[tuple[int, int]] = _UPRIGHT

    def view(self, picture: Tensor) -> Tensor:
        """Return f[1,3,H,W] of whole tokens."""
        pixels = picture[None]
        if self.side is not None:
            scale = self.side / min(picture.shape[1:])
            size = [max(1, round(n * scale / self.unit)) * self.unit for n in picture.shape[1:]]
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = pixels[..., self.top :, self.left :]
        height, width = (n // self.unit * self.unit for n in pixels.shape[2:])
        return pixels[..., :height, :width]


def _ways(
    pictures: Sequence[Tensor], own: int, unit: int, search: bool, *, told: bool
) -> Iterator[list[_Way]]:
    """Yield the ways of looking: first at the grid as it is, then at one that was moved."""
    shorter = min(min(picture.shape[1:]) for picture in pictures)
    longest = max(min(picture.shape[1:]) for picture in pictures)
    if shorter < unit:
        return
    kept, fitted = _Way(unit=unit), _Way(unit=unit, side=own)
    if shorter == longest == own:
        yield [kept]
    else:
        yield [fitted] if told or longest > 4 * own else [kept, fitted]
    # a crop has about the size that it was drawn at; much else was scaled
    moved = kept if 3 * own <= 4 * shorter and longest <= 2 * own else fitted
    if search and shorter >= 2 * unit:
        steps = [unit * step // _MOVES for step in range(_MOVES)]
        yield [
            replace(moved, top=top, left=left, shifts=_SHIFTS)
            for top in dict.fromkeys(steps)
            for left in dict.fromkeys(steps)
        ]


def _encode(vqgan: ImageTokenizer, pixels: Tensor) -> Tensor:
    """Return i64[h,w] of f[1,3,H,W]."""
    rows = pixels.shape[2] // vqgan.token_size
    with without_autocast(vqgan.device):
        return vqgan.encode(vqgan.shrink(pixels)).view(rows, -1).cpu()


def mark_request(
    request: Request, watermark: Watermark | None, vqgan: ImageTokenizerLike, *, columns: int
) -> Request:
    """Let a request draw towards a key, if there is one.

    Args:
        request: what is drawn.
        watermark: the key.
        vqgan: whose codes are drawn.
        columns: of the model's own grid.

    Raises:
        InputTypeError: `watermark` is not one, or the image tokenizer has no codebook.
    """
    if watermark is None:
        return request
    check_watermark(watermark)
    groups = known_groups(codebook_of(vqgan))
    return replace(request, sampler=watermark.lean(request.sampler, groups, side=columns))


def known_groups(vqgan: ImageTokenizer) -> CodeGroups:
    """Return the groups of a codebook; those of the last few are kept, for they take a while."""
    vectors = vqgan.code_vectors.detach().float().cpu().contiguous()
    digest = hashlib.sha256(vectors.numpy().tobytes()).digest()
    if digest not in _known:
        while len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)), None)
        _known[digest] = group_codes(vectors)
    return _known[digest]


def check_watermark(watermark: object) -> None:
    """Look whether this is a watermark.

    Raises:
        InputTypeError: it is not.
    """
    if not isinstance(watermark, Watermark):
        raise InputTypeError(
            f"watermark is a Watermark, such as Watermark(key), not {type(watermark).__name__}."
        )


def codebook_of(vqgan: ImageTokenizerLike) -> ImageTokenizer:
    """Return an image tokenizer that has a codebook.

    Raises:
        InputTypeError: it has none that is known.
    """
    if not isinstance(vqgan, ImageTokenizer):
        raise InputTypeError(
            f"A watermark needs the codebook of a VQGAN, which {type(vqgan).__name__} is not, or "
            "that of another ImageTokenizer; draw without one."
        )
    return vqgan
