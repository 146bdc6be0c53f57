"""Pictures of any size, and pictures of which a part is given: windows over a grid of tokens.

A model draws one grid of tokens. A larger one is drawn window by window, each of the model's size
and half over what is there already; what is given or drawn in a window is kept and the rest is
drawn. A picture that repeats is drawn like any other; then the bands along its edges are drawn
again in windows that wrap around. Knows tokens, not pixels.

Shapes: h/w rows and columns of a canvas, P = h * w its tokens row by row, L tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import both_sides
from ..errors import InputError
from ..models.transformer import Transformer
from .drawing import FREE, Drawing, Weights
from .lookahead import Particles, derive_seed
from .sampling import Sampler
from .slot import Slot, Tally
from .slots import Slots

MOST_TOKENS = 1 << 14


@dataclass(frozen=True, eq=False)
class Window:
    """One window of a canvas, of the model's own size.

    Attributes:
        index: i64[L], the places of its tokens on the canvas.
        free: bool[L], which of them it draws; the others are kept.
    """

    index: Tensor
    free: Tensor

    @property
    def has_ahead(self) -> bool:
        """Whether tokens are kept behind one that is drawn."""
        first = int(self.free.int().argmax())
        return not bool(self.free[first:].all())


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """A grid of tokens, at least as large as the model's own.

    Attributes:
        height: rows of tokens.
        width: columns of tokens.
        side: rows and columns of the model's own grid; one number for a square.
        wraps: whether the picture repeats without a seam in both directions.

    Raises:
        InputError: it is smaller than the model's grid, or too large.

    Example:
        >>> import torch
        >>> from dallemini.generation import Canvas
        >>> canvas = Canvas(height=4, width=8, side=4)
        >>> windows = canvas.plan(torch.ones(4, 8, dtype=torch.bool))
        >>> [int(window.index[0]) for window in windows]
        [0, 2, 4]
        >>> [int(window.free.sum()) for window in windows]
        [16, 8, 8]
    """

    height: int
    width: int
    side: int | tuple[int, int]
    wraps: bool = False

    def __post_init__(self) -> None:
        rows, columns = self.own
        if self.height < rows or self.width < columns:
            raise InputError(
                f"A canvas of {self.width}x{self.height} tokens is smaller than the "
                f"{columns}x{rows} that this model draws; take a larger one."
            )
        if self.height * self.width > MOST_TOKENS:
            raise InputError(
                f"A canvas of {self.width}x{self.height} tokens is too large: "
                f"{self.height * self.width} of at most {MOST_TOKENS}; take a smaller one."
            )

    @property
    def own(self) -> tuple[int, int]:
        """Rows and columns of the model's own grid."""
        return both_sides(self.side)

    @property
    def is_plain(self) -> bool:
        """Whether the model draws it in one go."""
        return (self.height, self.width) == self.own and not self.wraps

    def plan(self, free: Tensor) -> list[Window]:
        """Return the windows, in their order, that draw what is free: bool[h,w].

        The next window is the one of which most is known.
        """
        there: NDArray[np.bool_] = free.cpu().numpy().copy()
        rows_own, columns_own = self.own
        windows = self._cover(there, self._lines(there, 1), self._lines(there, 0))
        if self.wraps:
            rows = self._band(self.height, rows_own)[:, None]
            columns = self._band(self.width, columns_own)[None]
            bottom, right = [self.height - rows_own // 2], [self.width - columns_own // 2]
            for band, tops, lefts in (
                (columns & there, self._lines(columns & there, 1), right),
                (rows & there, bottom, self._lines(rows & there, 0)),
                (rows & columns & there, bottom, right),
            ):
                windows += self._cover(band, tops, lefts)
        return windows

    def tiles(self) -> list[Tensor]:
        """Return the places i64[L] of as few windows as see every token, none around an edge."""
        offsets = [
            [*range(0, size - own, own), size - own]
            for size, own in zip((self.height, self.width), self.own, strict=True)
        ]
        return [torch.from_numpy(self._places(y, x)) for y in offsets[0] for x in offsets[1]]

    def _cover(
        self, free: NDArray[np.bool_], tops: Sequence[int], lefts: Sequence[int]
    ) -> list[Window]:
        """Choose among windows at these rows and columns until nothing is free."""
        places = np.stack([self._places(top, left) for top in tops for left in lefts])
        left = free.flatten().copy()
        windows = []
        while left.any():
            open_ = left[places]
            known = np.where(open_.any(1), (~open_).sum(1), -1)
            best = int(known.argmax())  # the first of several
            windows.append(Window(torch.from_numpy(places[best]), torch.from_numpy(open_[best])))
            left[places[best]] = False
        return windows

    def _places(self, top: int, left: int) -> NDArray[np.int64]:
        rows, columns = (np.arange(size, dtype=np.int64) for size in self.own)
        rows, columns = (top + rows) % self.height, (left + columns) % self.width
        return (rows[:, None] * self.width + columns).flatten()

    def _lines(self, free: NDArray[np.bool_], axis: int) -> list[int]:
        """Return where windows may begin, along rows (`axis` 1 is summed up) or columns (0)."""
        size, side = (self.height if axis else self.width), self.own[1 - axis]
        taken = np.flatnonzero(free.any(axis=axis))
        if not len(taken):
            return [0]
        first, last = int(taken[0]), int(taken[-1]) + 1
        if last - first <= side - side // 4:  # one window, with the free part in its middle
            return [min(max((first + last - side) // 2, 0), size - side)]
        starts = [*range(0, size - side, max(1, side // 2)), size - side]
        return [start for start in starts if start < last and first < start + side]

    def _band(self, size: int, own: int) -> NDArray[np.bool_]:
        """Return which of so many lines are drawn again for a seam between the last and first."""
        reach = max(1, own // 4)
        lines = np.zeros(size, dtype=np.bool_)
        lines[:reach] = lines[size - reach :] = True
        return lines


class CanvasPicture:
    """One picture on its way over a canvas.

    Args:
        drawing: what it is to be; `fixed` is i64[P] here, -1 where a token is free.
        canvas: where.
        lookahead: candidates in each window that has given tokens behind free ones.

    Attributes:
        tokens: i64[P] on the CPU, -1 where there is none yet.
    """

    def __init__(self, drawing: Drawing, canvas: Canvas, *, lookahead: int) -> None:
        count = canvas.height * canvas.width
        empty = torch.full((count,), FREE, dtype=torch.int64, device="cpu")
        given = empty if drawing.fixed is None else drawing.fixed.to("cpu", torch.int64)
        self.tokens = given.clone()
        self._width = canvas.width
        self.windows = canvas.plan((given == FREE).view(canvas.height, canvas.width))
        self._drawing, self._lookahead = drawing, lookahead
        self._number = self._drawn = 0  # windows that are finished, tokens of the next one
        self._particles: Particles | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether there is no window left."""
        return self._number == len(self.windows)

    @property
    def slots(self) -> list[Slot]:
        """The slots of the window that is drawn now."""
        return [] if self._particles is None else self._particles.slots

    @property
    def most_rows(self) -> int:
        """How many decoder rows it takes at most."""
        ahead = any(window.has_ahead for window in self.windows)
        return (self._lookahead if ahead else 1) * (
            len(self._drawing.texts) + self._drawing.is_guided
        )

    @property
    def weighs(self) -> bool:
        """Whether it wants to know the likelihoods of the last step."""
        return self._particles is not None and self._particles.weighs

    def start(self, slots: Slots) -> None:
        """Begin with the next window."""
        window, seed = self.windows[self._number], self._drawing.seed
        given = self.tokens[window.index].masked_fill(window.free, FREE)
        drawing = replace(
            self._drawing,
            fixed=None if bool(window.free.all()) else given,
            weights=self._weights(),
            seed=derive_seed(seed, "window", self._number) if self._number else seed,
            corner=divmod(int(window.index[0]), self._width),
        )
        self._particles = Particles(slots, drawing, count=self._lookahead)

    def _weights(self) -> Weights:
        """Return the weights of the next window's texts, at shares of all that is drawn."""
        weights, sizes = self._drawing.weights, [int(window.free.sum()) for window in self.windows]
        if not callable(weights) or len(sizes) == 1:
            return weights
        before, own, total = sum(sizes[: self._number]), sizes[self._number], sum(sizes)
        return lambda share: weights((before + own * share) / total)

    def look(self, log_likelihoods: Tensor | None) -> int:
        """Take note of a step; return how many tokens it drew of those that were free."""
        particles = self._particles
        assert particles is not None
        particles.look(log_likelihoods)
        window = self.windows[self._number]
        if particles.tokens is None:
            drawn = int(window.free[: particles.position].sum())
            news, self._drawn = drawn - self._drawn, drawn
            return news
        news, self._drawn = int(window.free.sum()) - self._drawn, 0
        self.tokens[window.index] = particles.tokens.cpu()
        self._particles = None
        self._number += 1
        return news

    def seen(self, slots: Slots) -> Tensor:
        """Return i64[P]: the tokens, with those of the unfinished window."""
        tokens = self.tokens.clone()
        if self._particles is None:
            return tokens
        window, first = self.windows[self._number], self._particles.slots[0]
        tokens[window.index[window.free]] = FREE
        if first in slots.live:
            drawn = slots.tokens[slots.live.index(first)].cpu()
            tokens[window.index[: first.position]] = drawn[: first.position]
            tokens[window.index[window.free][-1]] = FREE  # not before it is finished
        return tokens


def step_canvases(
    slots: Slots,
    pictures: Sequence[CanvasPicture],
    *,
    told: Callable[[int], object] = lambda tokens: None,
) -> None:
    """Draw one token of every unfinished picture, and begin with the next windows.

    Args:
        slots: where they are drawn.
        pictures: those that have begun.
        told: called with the number of tokens that were drawn.
    """
    slots.step()
    unfinished = [picture for picture in pictures if not picture.is_drawn]
    weighed = any(picture.weighs for picture in unfinished)
    likely = slots.log_likelihoods() if weighed else None
    drawn = 0
    for picture in unfinished:
        drawn += picture.look(likely)
        if not picture.slots and not picture.is_drawn:
            picture.start(slots)
    told(drawn)


@torch.no_grad()
def draw_canvases(
    drawings: Sequence[Drawing],
    transformer: Transformer,
    canvas: Canvas,
    *,
    sampler: Sampler,
    batch_size: int,
    lookahead: int,
    num_codes: int,
    every: int | None = None,
    told: Callable[[int], object] = lambda tokens: None,
    tally: Tally | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Generate the tokens of pictures on a canvas, one batch after the other.

    Args:
        drawings: what the pictures are to be; `fixed` is i64[P] here, -1 where a token is free.
        transformer: in evaluation mode.
        canvas: how large they are.
        sampler: chooses tokens from the guided logits.
        batch_size: pictures drawn together.
        lookahead: candidates in each window that has given tokens behind free ones.
        num_codes: ids from here up are never drawn.
        every: yield unfinished pictures every so many steps; None yields finished ones only.
        told: called after each step with the number of tokens that it drew.
        tally: counts the passes over the weights.

    Yields:
        The pictures of a batch as a range of their indices, with their tokens i64[n,P] on the CPU,
        -1 where there is none yet.
    """
    for start in range(0, len(drawings), batch_size):
        part = range(start, min(start + batch_size, len(drawings)))
        slots = Slots(transformer, sampler, num_codes=num_codes, tally=tally)
        pictures = [CanvasPicture(drawings[i], canvas, lookahead=lookahead) for i in part]
        steps = 0
        for picture in pictures:
            if not picture.is_drawn:
                picture.start(slots)
        while any(not picture.is_drawn for picture in pictures):
            step_canvases(slots, pictures, told=told)
            steps += 1
            unfinished = any(not picture.is_drawn for picture in pictures)
            if every is not None and steps % every == 0 and unfinished:
                yield part, torch.stack([picture.seen(slots) for picture in pictures])
        yield part, torch.stack([picture.tokens for picture in pictures])
