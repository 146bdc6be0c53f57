"""What pictures of the service may measure, in pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..pipeline.pipeline import Pipeline
from ..pipeline.pixels import token_size


@dataclass(frozen=True)
class Sizes:
    """Widths and heights, the model's own first; each goes with each.

    Attributes:
        widths: in pixels.
        heights: likewise; as many.
    """

    widths: Sequence[int]
    heights: Sequence[int]

    @property
    def first(self) -> tuple[int, int]:
        """Width and height of the model's own pictures."""
        return self.widths[0], self.heights[0]

    @property
    def own(self) -> Sizes:
        """The model's own size alone."""
        return Sizes(self.widths[:1], self.heights[:1])

    def read(self, text: str) -> tuple[int, int] | None:
        """Return width and height of "320x160", None for what is not drawn."""
        width, _, height = text.partition("x")
        known = [{str(side): side for side in sides} for sides in (self.widths, self.heights)]
        if width in known[0] and height in known[1]:
            return known[0][width], known[1][height]
        return None

    def __str__(self) -> str:
        text = "{}x{} pixels".format(*self.first)
        if len(self.widths) > 1:
            unit = self.widths[1] - self.widths[0]
            text += f", and multiples of {unit} up to {self.widths[-1]}x{self.heights[-1]}"
        return text


def find_sizes(pipe: Pipeline) -> Sizes:
    """Return what pictures may measure: from the model's own size to its double.

    An image tokenizer that decodes one size only has one.
    """
    rows, columns = pipe.transformer.config.grid
    with torch.no_grad():
        unit = token_size(pipe.vqgan, (rows, columns))
    widths, heights = ([*range(n * unit, 2 * n * unit + 1, unit)] for n in (columns, rows))
    sizes = Sizes(widths, heights)
    with contextlib.suppress(InputError):
        pipe._sketcher(pipe.config.override(width=widths[-1])).begin(None, None)
        return sizes
    return sizes.own
