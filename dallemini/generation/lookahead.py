"""Seeing what lies ahead: several candidates for one picture, weighed by what is kept behind them.

A model that draws row by row does not see the kept tokens right of a hole and below it. So several
candidates are drawn at once; each kept token that follows tells how likely it is after what a
candidate drew, and where the candidates differ by much, the unlikely ones go on as copies of the
likely ones. It is the particle filter of "Novel approach to nonlinear/non-Gaussian Bayesian state
estimation" (Gordon, Salmond & Smith 1993), with the systematic resampling of Kitagawa 1996.

Shapes: L image tokens of a picture.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .drawing import FREE, Drawing
from .sampling import make_generators
from .slot import Slot
from .slots import Slots


class Particles:
    """Candidates for one drawing, which become one picture.

    The random numbers come from the drawing's seed alone, those of the first candidate as if it
    were drawn without others.

    Args:
        slots: where they are drawn.
        drawing: with given tokens behind free ones; else there is one candidate only.
        count: of candidates; 1 looks at nothing.

    Attributes:
        tokens: i64[L] on the transformer's device when the picture is finished; None before.

    Example:
        >>> import torch
        >>> from dallemini.generation import Drawing, Particles, Slots, TopSampler
        >>> from dallemini.testing import tiny_tokenizer, tiny_transformer
        >>> slots = Slots(tiny_transformer(), TopSampler(), num_codes=64)
        >>> hole = torch.arange(16)
        >>> hole[5:9] = -1
        >>> drawing = Drawing(texts=(tiny_tokenizer()("a red apple"),), seed=3, fixed=hole)
        >>> particles = Particles(slots, drawing, count=8)
        >>> while particles.tokens is None:
        ...     _ = slots.step()
        ...     particles.look(slots.log_likelihoods())
        >>> particles.tokens[9:].tolist()
        [9, 10, 11, 12, 13, 14, 15]
    """

    def __init__(self, slots: Slots, drawing: Drawing, *, count: int) -> None:
        self.tokens: Tensor | None = None
        self._all = slots
        length = slots.transformer.config.image_length
        self._given = drawing.given_tokens(length, slots.transformer.config.image_vocab_size)
        first = self._given.index(FREE) if FREE in self._given else length
        ahead = any(token != FREE for token in self._given[first:])
        seeds = [
            drawing.seed,
            *(derive_seed(drawing.seed, "candidate", i) for i in range(1, count)),
        ]
        self.slots = [
            slots.add(drawing, generator=generator, to_the_end=ahead and count > 1)
            for generator in make_generators(seeds if ahead else seeds[:1])
        ]
        self._generator = make_generators([derive_seed(drawing.seed, "resampling")])[0]
        self._log_weights = torch.zeros(len(self.slots), dtype=torch.float64, device="cpu")
        self._news: list[Tensor] = []

    @property
    def weighs(self) -> bool:
        """Whether the last step read a given token, by which several candidates are weighed."""
        return len(self.slots) > 1 and self._given[self.position - 1] != FREE

    @property
    def position(self) -> int:
        """How many tokens were decoded."""
        return self.slots[0].position

    def look(self, log_likelihoods: Tensor | None) -> None:
        """Weigh the candidates after a step of their slots, and let the unlikely ones go.

        Args:
            log_likelihoods: f32[N], as the slots tell them of this step; read where `weighs`.
        """
        if len(self.slots) == 1:
            self.tokens = self.slots[0].tokens
            return
        position = self.position
        if self.weighs and log_likelihoods is not None:
            stepped = {slot: number for number, slot in enumerate(self._all.stepped)}
            index = [stepped[slot] for slot in self.slots]
            self._news.append(log_likelihoods[index])
        if position == len(self._given):
            self._weigh()
            self.tokens = self.slots[self._choose(1)[0]].tokens
        elif self._news and self._given[position] == FREE:
            self._weigh()
            weights = self._log_weights.softmax(0)
            if 1 / float(weights.square().sum()) < len(self.slots) / 2:
                chosen = self._choose(len(self.slots))
                self._all.copy(_moves(self.slots, chosen))
                self._log_weights.zero_()

    def _weigh(self) -> None:
        if self._news:
            self._log_weights += torch.stack(self._news).to("cpu", torch.float64).sum(0)
            self._news = []

    def _choose(self, count: int) -> list[int]:
        """Draw numbers of candidates by their weights: systematically, with one random number."""
        start = torch.rand(1, generator=self._generator, dtype=torch.float64, device="cpu")
        steps = (torch.arange(count, dtype=torch.float64, device="cpu") + start) / count
        chosen = torch.searchsorted(self._log_weights.softmax(0).cumsum(0), steps)
        numbers: list[int] = chosen.clamp(max=len(self.slots) - 1).tolist()
        return numbers


def _moves(slots: list[Slot], chosen: list[int]) -> dict[Slot, Slot]:
    """Return which slots become copies of which, so that each chosen one is there as often."""
    spare = [number for number in range(len(slots)) if number not in chosen]
    again = [number for place, number in enumerate(chosen) if number in chosen[:place]]
    return {slots[free]: slots[source] for free, source in zip(spare, again, strict=True)}


def derive_seed(seed: int, *purpose: object) -> int:
    """Return another seed, from 0 to 2**63 - 1, for some purpose within the picture of a seed."""
    text = repr((seed, *purpose)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
