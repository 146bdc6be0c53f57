"""A picture that is drawn, whose decoder rows are whose, and how their logits become a picture's.

Source of the guidance: "Classifier-Free Diffusion Guidance" (Ho & Salimans 2022, section 3.2), as
`_sample_super_conditioning` of dalle-mini applies it to logits.

Shapes: N pictures (slots), R decoder rows (one for each text, one for a base), L image tokens, V
image vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from .drawing import FREE, Drawing

Index: TypeAlias = slice | Tensor


@dataclass(eq=False, kw_only=True)
class Slot:
    """One picture among those that are drawn.

    Attributes:
        drawing: what it is to be.
        generator: its random numbers.
        position: how many of its tokens were decoded.
        to_the_end: whether it also reads tokens that are given at the end.
        tokens: i64[L] on the transformer's device when it is finished; None before.
        given: its L tokens that are given, -1 where they are free.
        rows: the decoder rows of its texts, then of its base.
    """

    drawing: Drawing
    generator: torch.Generator
    position: int = 0
    to_the_end: bool = False
    tokens: Tensor | None = None
    given: list[int] = field(repr=False)
    rows: list[int] = field(default_factory=list, repr=False)

    @property
    def is_drawn(self) -> bool:
        """Whether nothing of it is left to be drawn."""
        if self.to_the_end and self.position:
            return self.position == len(self.given)
        return FREE not in self.given[self.position :]


@dataclass(eq=False)
class Tally:
    """How many passes over the weights tokens took.

    Attributes:
        steps: positions that were decoded, of all pictures that are drawn together.
        passes: that this took; fewer than steps where guessed tokens held.
    """

    steps: int = 0
    passes: int = 0

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens of a picture that a pass brought on average; None before the first."""
        return self.steps / self.passes if self.passes else None


class Plan:
    """Which rows are whose: made anew when slots come or go.

    Args:
        slots: N of them.
        integers: makes index tensors.
    """

    def __init__(self, slots: list[Slot], integers: Callable[[list[int]], Tensor]) -> None:
        self._slots = slots
        rows = {row: number for number, slot in enumerate(slots) for row in slot.rows}
        self.owners = integers([rows[row] for row in sorted(rows)])
        # an unguided slot is its own base, so that its logits come out as they are
        self._base = _index([slot.rows[-1] for slot in slots], integers)
        self._texts: list[tuple[list[int], Index, Index]] = []
        guided = any(slot.drawing.is_guided for slot in slots)
        for number in range(max((len(slot.drawing.texts) for slot in slots), default=0) * guided):
            having = [i for i, slot in enumerate(slots) if number < len(slot.drawing.texts)]
            found = _index([slots[i].rows[number] for i in having], integers)
            self._texts.append((having, _index(having, integers), found))
        self._changing = any(callable(slot.drawing.weights) for slot in slots)
        self._weights: list[Tensor] = []

    def guide(self, logits: Tensor, shares: list[float], *, plainly: bool = False) -> Tensor:
        """Combine f32[R,V] to f32[N,V], at these shares of the pictures.

        Args:
            logits: f32[R,V].
            shares: of each picture, how much of it is drawn.
            plainly: scale the weights of each picture to a sum of 1, where that is possible.
        """
        base = logits[self._base]
        if plainly:
            found = self._weigh(shares, logits.device, plainly=True)
        else:
            if self._changing or not self._weights:
                self._weights = self._weigh(shares, logits.device)
            found = self._weights
        guided = base
        for number, ((_, slots, rows), weights) in enumerate(zip(self._texts, found, strict=True)):
            pull = weights * (logits[rows] - base[slots])
            if number:
                guided[slots] += pull
            else:
                guided = base + pull
        return guided

    def _weigh(
        self, shares: list[float], device: torch.device, *, plainly: bool = False
    ) -> list[Tensor]:
        """Return for each number of a text f32[n,1], the weights of those n slots that have it."""
        pairs = zip(self._slots, shares, strict=True)
        found = [slot.drawing.weights_at(share) for slot, share in pairs]
        if plainly:
            sums = [sum(weights) for weights in found]
            found = [
                [weight / total if total > 0 else weight for weight in weights]
                for weights, total in zip(found, sums, strict=True)
            ]
        return [
            torch.tensor([[found[i][number]] for i in having], dtype=torch.float32, device=device)
            for number, (having, _, _) in enumerate(self._texts)
        ]


def _index(numbers: list[int], integers: Callable[[list[int]], Tensor]) -> Index:
    """Return a slice where numbers follow each other, which copies nothing; else a tensor."""
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return integers(numbers)
