"""Several tokens from one pass over the weights, and the same picture.

The random number of each position is fixed by the seed, so that a token is a function of the logits
alone. The next tokens are guessed, all of them are decoded in one pass, and what comes out is what
drawing one by one gives, up to the first wrong guess. The guesses are what the pass before made of
these positions, and the token above where it has made nothing: Jacobi's iteration, as in
"Accelerating Transformer Inference for Translation via Parallel Decoding" (Santilli et al. 2023,
section 3). Unlike its relatives for sampling, such as "Speculative Jacobi Decoding" (Teng et al.
2024, arXiv 2410.01699), it changes no token.

That needs a step which gives each row the same bits alone and beside others, as the kernels do; the
first steps of `Slots` find out whether it does. Elsewhere nothing is guessed.

Shapes: N pictures (slots), R decoder rows, S positions of a pass, V image vocabulary, L image
tokens.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import kernels
from ..models.cache import DecoderCache
from ..models.transformer import Transformer
from .drawing import FREE
from .pace import Pace
from .sampling import Sampler, SamplerState, TopSampler
from .slot import Plan, Slot, Tally
from .watermark import MarkedSampler

MOST_ROWS = 16  # of more pictures, each pass is busy with arithmetic
MOST_AHEAD = 32  # positions that a picture is decoded before its turn, waiting for others
_PROOF = 2  # positions that are decoded twice, alone and together
_REST = 16  # positions drawn one by one before it is asked again whether guessing pays


@dataclass(eq=False)
class _Ahead:
    """What is known of the next positions of a slot.

    Attributes:
        slot: whose.
        ready: their logits f32[r,V], of its r rows.
        tokens: what will be chosen from these.
        guesses: by position, what the last pass made of those behind.
    """

    slot: Slot
    ready: list[Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    guesses: dict[int, int] = field(default_factory=dict)

    @property
    def reach(self) -> int:
        """The first position that is not decoded."""
        return self.slot.position + len(self.ready)

    def count_given(self) -> int:
        """Return how many of the next tokens to be decoded from are given."""
        given = itertools.takewhile(lambda token: token != FREE, self.slot.given[self.reach :])
        return sum(1 for _ in given)

    def clear(self) -> None:
        """Know nothing any more."""
        self.ready, self.tokens, self.guesses = [], [], {}

    def write_line(self, start: int, drawn: list[int], end: int, columns: int) -> list[int]:
        """Return what the positions before `end` read: the start token, tokens, guesses."""
        line = [start, *drawn[: self.slot.position], *self.tokens]
        for position in range(len(line) - 1, end - 1):
            guess = self.slot.given[position]
            if guess == FREE:
                above = line[position + 1 - columns] if position >= columns else line[-1]
                guess = self.guesses.get(position, above)
            line.append(guess)
        return line

    def take_in(self, logits: Tensor, begin: int, line: list[int], chosen: dict[int, int]) -> int:
        """Keep what was decoded from right guesses; return of how many positions that is.

        Args:
            logits: f32[r,S,V].
            begin: the first position of these.
            line: what the positions read.
            chosen: by position from `reach` on, what comes of the logits.
        """
        positions = [*chosen]
        right = min(1, len(positions))
        while right < len(positions):
            before = positions[right - 1]
            if line[before + 1] != chosen[before]:
                break
            right += 1
        self.ready += [logits[:, position - begin] for position in positions[:right]]
        self.tokens += [chosen[position] for position in positions[:right]]
        self.guesses = {position: chosen[position] for position in positions[right:]}
        return right


class Guesses:
    """Decodes the next position of every row, from guesses where that is faster.

    Args:
        transformer: in evaluation mode.
        sampler: chooses tokens; what it will choose is only known of the library's own.
        num_codes: ids from here up are never drawn.
        width: positions of a pass; None chooses by what is measured, 1 guesses nothing.
        tally: counts steps and passes.
    """

    def __init__(
        self,
        transformer: Transformer,
        sampler: Sampler,
        *,
        num_codes: int | None,
        width: int | None,
        tally: Tally,
    ) -> None:
        self._transformer, self._sampler, self._num_codes = transformer, sampler, num_codes
        self._width, self._tally = width, tally
        self._length = transformer.config.image_length
        grid = transformer.config.image_grid
        self._columns = math.isqrt(self._length) if grid is None else grid[1]
        self._can = None if width != 1 and _is_foreseen(sampler) else False
        self._proofs: list[tuple[list[Slot], list[int], Tensor]] = []
        self._aheads: dict[Slot, _Ahead] = {}
        self._pace, self._rest = Pace(), 0

    def take(
        self, slots: list[Slot], plan: Plan, cache: DecoderCache, tokens: Tensor, previous: Tensor
    ) -> Tensor:
        """Return the logits f32[R,V] of each slot's position.

        Args:
            slots: N of them.
            plan: of their rows.
            cache: of their rows.
            tokens: i64[N,L], what is drawn of them.
            previous: i64[N], the last token of each.
        """
        self._tally.steps += 1
        is_ahead = self._is_ahead
        self._rest -= 1
        if not is_ahead and (self._rest > 0 or not self._applies(cache)):
            return self._step(previous[plan.owners], cache)
        self._aheads = {slot: self._aheads.get(slot) or _Ahead(slot) for slot in slots}
        if not all(ahead.ready for ahead in self._aheads.values()):
            width = self._choose_width(cache.rows)
            back = _PROOF if self._can is None else 0
            if width == 1 and self._width is None:
                given = (ahead.slot.given[ahead.reach :] for ahead in self._aheads.values())
                self._rest = _REST if all(set(tokens) <= {FREE} for tokens in given) else 0
            if is_ahead and width == 1:  # all go on from where the last one stands
                self.forget(cache)
                is_ahead = False
            if not is_ahead and (width == 1 or (back and not self._is_provable(slots))):
                return self._step_alone(slots, previous[plan.owners], cache)
            self._pass(plan, cache, tokens.tolist(), width, back)
            if not self._can:
                return self._step(previous[plan.owners], cache)
        return self._next(cache.rows)

    def settle(self, chosen: Tensor, cache: DecoderCache) -> None:
        """Take note of the tokens i64[N] that were chosen from what `take` returned last."""
        if not self._is_ahead:
            return
        for ahead, token in zip(self._aheads.values(), chosen.tolist(), strict=True):
            del ahead.ready[0]
            if ahead.tokens.pop(0) != token:  # somebody else took numbers of this generator
                ahead.clear()
        cache.stand(self._places(cache))

    def forget(self, cache: DecoderCache) -> None:
        """Let every slot stand where it is, with nothing decoded before its turn."""
        self._proofs = []
        if self._is_ahead:
            for ahead in self._aheads.values():
                ahead.clear()
            cache.stand(self._places(cache))

    def keep(self, slots: Iterable[Slot]) -> None:
        """Forget what belongs to other slots."""
        self._rest = 0
        self._aheads = {slot: self._aheads[slot] for slot in slots if slot in self._aheads}

    @property
    def _is_ahead(self) -> bool:
        return any(ahead.ready for ahead in self._aheads.values())

    def _applies(self, cache: DecoderCache) -> bool:
        return (
            self._can is not False
            and cache.rows <= MOST_ROWS
            and type(cache) is DecoderCache
            and not self._transformer.config.use_swin_position_embeddings  # of even rows only
            and kernels.reads_cache(cache.self_keys[0])
        )

    def _choose_width(self, rows: int) -> int:
        most = kernels.MOST_ROWS // rows if rows <= MOST_ROWS else 1
        sure = min(ahead.count_given() for ahead in self._aheads.values())
        pictures = len(self._aheads)
        width = self._width or self._pace.choose(rows, most=most, pictures=pictures, sure=sure)
        if self._can is None and width > 1:
            return min(self._width or 4, most - _PROOF)
        return min(width, most)

    def _is_provable(self, slots: list[Slot]) -> bool:
        """Tell whether the last positions were decoded alone, of these slots."""
        return len(self._proofs) == _PROOF and all(
            proof[0] == slots and proof[1] == [slot.position - _PROOF + number for slot in slots]
            for number, proof in enumerate(self._proofs)
        )

    def _step_alone(self, slots: list[Slot], previous: Tensor, cache: DecoderCache) -> Tensor:
        """Decode a position of each row, and note what it took and, at first, what came of it."""
        started = time.perf_counter()
        logits = self._step(previous, cache)
        self._pace.learn_time(cache.rows, time.perf_counter() - started)
        if self._can is None:
            proof = [*slots], [slot.position for slot in slots], logits
            self._proofs = [*self._proofs[1 - _PROOF :], proof]
        return logits

    def _step(self, previous: Tensor, cache: DecoderCache) -> Tensor:
        self._tally.passes += 1
        return self._transformer.decode_step(previous, cache)[:, : self._num_codes].float()

    def _pass(
        self, plan: Plan, cache: DecoderCache, drawn: list[list[int]], width: int, back: int
    ) -> None:
        """Decode several positions of each row, and keep what was guessed right.

        Args:
            plan: of the rows.
            cache: of the rows.
            drawn: tokens of each slot, up to its position.
            width: new positions; fewer at the end of a picture.
            back: positions before these that are decoded again.
        """
        started = time.perf_counter()
        aheads, start = [*self._aheads.values()], self._transformer.config.decoder_start_token_id
        reaches = [ahead.reach for ahead in aheads]
        count = min(width, self._length - (max(reaches) if back else min(reaches))) + back
        begins = [
            min(ahead.reach - back, self._length - count, ahead.slot.position + MOST_AHEAD)
            for ahead in aheads
        ]
        lines = [
            ahead.write_line(start, one, begin + count, self._columns)
            for ahead, one, begin in zip(aheads, drawn, begins, strict=True)
        ]
        logits = self._extend(plan, cache, lines, begins, count)
        if back:
            proofs = enumerate(self._proofs)
            self._can = all(torch.equal(logits[:, number], proof[2]) for number, proof in proofs)
            self._proofs = []
        if self._can:
            chosen = self._foresee(plan, logits, begins)
            for ahead, begin, line, one in zip(aheads, begins, lines, chosen, strict=True):
                mine = logits if len(aheads) == 1 else logits[ahead.slot.rows]
                kept = ahead.take_in(mine, begin, line, one)
                if [ahead.slot.given[position] for position in one] == [FREE] * (count - back):
                    self._pace.learn_kept(count - back, kept)
        cache.stand(self._places(cache))
        self._pace.learn_time(cache.rows * count, time.perf_counter() - started)

    def _extend(
        self,
        plan: Plan,
        cache: DecoderCache,
        lines: list[list[int]],
        begins: list[int],
        count: int,
    ) -> Tensor:
        """Return the logits f32[R,S,V] of S positions of each slot."""
        read = [line[begin : begin + count] for line, begin in zip(lines, begins, strict=True)]
        owners = plan.owners.tolist()
        cache.stand([begins[owner] for owner in owners])
        self._tally.passes += 1
        inputs = torch.tensor([read[owner] for owner in owners], dtype=torch.int64, device="cpu")
        return self._transformer.extend(inputs, cache)[..., : self._num_codes].float()

    def _foresee(self, plan: Plan, logits: Tensor, begins: list[int]) -> list[dict[int, int]]:
        """Return, for each slot, what is chosen at the positions f32[R,S,V] that are new."""
        aheads, count = [*self._aheads.values()], logits.shape[1]
        chosen = [
            {position: ahead.slot.given[position] for position in range(ahead.reach, begin + count)}
            for ahead, begin in zip(aheads, begins, strict=True)
        ]
        guided = [
            plan.guide(logits[:, at], [(begin + at) / self._length for begin in begins])
            for at in range(count)
        ]
        asked, streams, corners = list[Tensor](), list[torch.Generator](), list[tuple[int, int]]()
        for number, (ahead, begin) in enumerate(zip(aheads, begins, strict=True)):
            stream = _stream_after(ahead)
            for position, token in chosen[number].items():
                if token == FREE:
                    asked.append(guided[position - begin][number])
                    streams.append(stream)
                    row, column = divmod(position, self._columns)
                    top, left = ahead.slot.drawing.corner
                    corners.append((row + top, column + left))
        found: list[int] = []
        if asked:
            logits = torch.stack(asked)
            nothing = torch.empty(len(asked), 0, dtype=torch.int64, device=logits.device)
            found = self._sampler(logits, SamplerState(streams, nothing, corners)).tolist()
        tokens = iter(found)
        return [
            {position: next(tokens) if token == FREE else token for position, token in one.items()}
            for one in chosen
        ]

    def _next(self, rows: int) -> Tensor:
        """Return the logits f32[R,V] that are ready."""
        aheads = [*self._aheads.values()]
        if len(aheads) == 1:
            return aheads[0].ready[0]
        logits = aheads[0].ready[0].new_empty(rows, aheads[0].ready[0].shape[1])
        for ahead in aheads:
            logits[ahead.slot.rows] = ahead.ready[0]
        return logits

    def _places(self, cache: DecoderCache) -> list[int]:
        """Return, for each row, up to where it is decoded."""
        places = [0] * cache.rows
        for ahead in self._aheads.values():
            for row in ahead.slot.rows:
                places[row] = ahead.reach
        return places


def _is_foreseen(sampler: object) -> bool:
    """Tell whether a sampler depends on logits, place, and one number of each free token alone."""
    if type(sampler) is MarkedSampler:
        sampler = sampler.sampler
    return type(sampler) is TopSampler


def _stream_after(ahead: _Ahead) -> torch.Generator:
    """Return a copy of a slot's random stream, from the first position that is not decoded on."""
    stream = torch.Generator("cpu")
    stream.set_state(ahead.slot.generator.get_state())
    taken = ahead.slot.given[ahead.slot.position : ahead.reach].count(FREE)
    torch.rand(taken, generator=stream, dtype=torch.float32, device="cpu")
    return stream
