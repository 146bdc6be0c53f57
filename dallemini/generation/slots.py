"""Rows that come and go: pictures drawn together, each at a position of its own.

`generate_tokens`, the pipeline, and whatever serves or edits pictures are drivers of this one loop.
A picture's tokens depend on its `Drawing` alone, not on those beside it, when it joined, or which
others left. Source of the guidance: "Classifier-Free Diffusion Guidance" (Ho & Salimans 2022,
section 3.2), as `_sample_super_conditioning` of dalle-mini applies it to logits.

Shapes: N pictures (slots), R decoder rows (one for each text, one for a base), L image tokens, V
image vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from ..kernels import few_rows
from ..models._checks import without_autocast
from ..models.cache import DecoderCache, EncoderOutput
from ..models.transformer import Transformer
from ..text.tokenizer import TextTokens
from .drawing import FREE, Drawing, stack_texts
from .sampling import Choices, Sampler, SamplerState, check_sampler, make_generators

# Steps between two looks at what the sampler chose, by kind of device. On a GPU a look makes the
# processor wait, so that it cannot prepare the next step meanwhile.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 32

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
    """

    drawing: Drawing
    generator: torch.Generator
    position: int = 0
    to_the_end: bool = False
    tokens: Tensor | None = None
    _given: list[int] = field(repr=False)  # -1 where a token is free
    _rows: list[int] = field(default_factory=list, repr=False)  # of its texts, then of its base

    @property
    def _is_drawn(self) -> bool:
        if self.to_the_end and self.position:
            return self.position == len(self._given)
        return FREE not in self._given[self.position :]


class Slots:
    """The pictures that are drawn together, one token for each at a step.

    Args:
        transformer: in evaluation mode.
        sampler: chooses tokens from the guided logits.
        num_codes: ids from here up are never drawn; None leaves every id to the sampler.

    Attributes:
        live: the slots that are drawn now, N.
        stepped: the slots that took the last step.
        latest: i64[N], the tokens of that step, one for each of these slots.

    Raises:
        InputTypeError: the sampler cannot be called with logits and a state.

    Example:
        >>> from dallemini.generation import Drawing, Slots, TopSampler
        >>> from dallemini.testing import tiny_tokenizer, tiny_transformer
        >>> slots = Slots(tiny_transformer(), TopSampler(), num_codes=64)
        >>> text = tiny_tokenizer()("a red apple")
        >>> first = slots.add(Drawing(texts=(text,), seed=0))
        >>> _ = slots.step()
        >>> second = slots.add(Drawing(texts=(text,), seed=1))  # joins in the middle
        >>> [slot for _ in range(16) for slot in slots.step()] == [first, second]
        True
    """

    def __init__(
        self, transformer: Transformer, sampler: Sampler, *, num_codes: int | None = None
    ) -> None:
        check_sampler(sampler)
        self.transformer, self.sampler, self.num_codes = transformer, sampler, num_codes
        self.live: list[Slot] = []
        self._new: list[Slot] = []
        self._cache: DecoderCache | None = None
        self._choices, self._unseen = Choices(), 0
        self._tokens, self._previous = self._integers([]), self._integers([])
        self.latest, self.stepped = self._previous, list[Slot]()
        self._plan = _Plan([], self._integers)
        nothing = torch.empty(0, 0, dtype=torch.float32, device=transformer.device)
        self._last = self._plan, nothing, list[float]()

    @property
    def tokens(self) -> Tensor:
        """i64[N,L], the tokens of the `live` slots, -1 where there is none yet."""
        return self._tokens

    def add(
        self,
        drawing: Drawing,
        *,
        generator: torch.Generator | None = None,
        to_the_end: bool = False,
    ) -> Slot:
        """Let a picture join at the next step.

        Args:
            drawing: what it is to be.
            generator: continues this random stream instead of beginning that of the seed.
            to_the_end: also read tokens that are given at the end, for `log_likelihoods`.

        Raises:
            InputError: the given tokens are not those of a picture.
        """
        config = self.transformer.config
        slot = Slot(
            drawing=drawing,
            generator=make_generators([drawing.seed])[0] if generator is None else generator,
            to_the_end=to_the_end,
            _given=drawing.given_tokens(config.image_length, config.image_vocab_size),
        )
        self._new.append(slot)
        return slot

    @torch.no_grad()
    def step(self) -> list[Slot]:
        """Draw one token of every picture; return those that are finished now, and let them go.

        A beginning that is given is read in one pass, and an end that is given is not read at all.

        Raises:
            InputTypeError: the sampler did not return a tensor of integers.
            InputError: it returned ids that it was not offered, the logits are not numbers, or a
                drawing's weights are not. On a GPU the first two are told some tokens late, but
                before a picture is finished.
        """
        with without_autocast(self.transformer.device):
            finished = self._join()
            if self.live:
                rows = 0 if self._cache is None else self._cache.rows
                with few_rows(rows, self.transformer.dtype, self.transformer.device):
                    self._decode()
                finished += self._leave()
        return finished

    def drop(self, slots: Iterable[Slot]) -> None:
        """Let pictures go that are not to be finished."""
        gone = set(slots)
        self._new = [slot for slot in self._new if slot not in gone]
        self._remove(gone)

    def copy(self, sources: Mapping[Slot, Slot]) -> None:
        """Let slots go on from where others stand; each keeps its own random numbers.

        Args:
            sources: for a slot, the one that it becomes a copy of; both are live, draw the same
                `Drawing` and stand at one position.

        Raises:
            InputError: they do not.
        """
        places = {slot: number for number, slot in enumerate(self.live)}
        assert self._cache is not None or not sources
        numbers, rows = [*range(len(self.live))], [*range(self._cache.rows if self._cache else 0)]
        for slot, source in sources.items():
            together = slot in places and source in places and slot.position == source.position
            if not together or slot.drawing is not source.drawing:
                raise InputError(
                    "A slot can become a copy of another one that is live, draws the same Drawing "
                    "and stands at the same position, and of no other."
                )
            numbers[places[slot]] = places[source]
            for row, taken in zip(slot._rows, source._rows, strict=True):
                rows[row] = taken
        if self._cache is not None and rows != [*range(len(rows))]:
            self._cache.keep(rows)
            index = self._integers(numbers)
            self._tokens, self._previous = self._tokens[index], self._previous[index]

    @torch.no_grad()
    def log_likelihoods(self) -> Tensor:
        """Return f32[N], how likely the texts made the `latest` tokens, given or drawn, in nats.

        The weights of the texts are scaled to a sum of 1: it is the likelihood without guidance.
        """
        plan, logits, shares = self._last
        plain = plan.guide(logits, shares, plainly=True).log_softmax(-1)
        return plain.gather(1, self.latest[:, None])[:, 0]

    def _decode(self) -> None:
        """Decode the last tokens, choose the next ones, and write them down."""
        assert self._cache is not None
        previous = self._previous[self._plan.owners]
        logits = self.transformer.decode_step(previous, self._cache)[:, : self.num_codes].float()
        shares = [slot.position / len(slot._given) for slot in self.live]
        chosen = self._choose(self._plan.guide(logits, shares))
        self._last, self.stepped = (self._plan, logits, shares), [*self.live]
        positions = {slot.position for slot in self.live}
        if len(positions) == 1:
            self._tokens[:, positions.pop()] = chosen
        else:
            places = self._integers([slot.position for slot in self.live])
            self._tokens.scatter_(1, places[:, None], chosen[:, None])
        self.latest = self._previous = chosen
        for slot in self.live:
            slot.position += 1

    def _choose(self, logits: Tensor) -> Tensor:
        """Return i64[N], asking the sampler for what is free: once for each position."""
        groups: dict[int, list[int]] = {}
        for number, slot in enumerate(self.live):
            if slot._given[slot.position] == FREE:
                groups.setdefault(slot.position, []).append(number)
        if [len(numbers) for numbers in groups.values()] == [len(self.live)]:
            return self._ask(logits, slice(None), self.live, *groups)
        chosen = self._integers([slot._given[slot.position] for slot in self.live])
        for position, numbers in groups.items():
            index, slots = self._integers(numbers), [self.live[number] for number in numbers]
            chosen[index] = self._ask(logits, index, slots, position)
        return chosen

    def _ask(self, logits: Tensor, index: Index, slots: list[Slot], position: int) -> Tensor:
        state = SamplerState(
            [slot.generator for slot in slots],
            self._tokens[index, :position],
            [slot.drawing.corner for slot in slots],
        )
        return self._choices.take(self.sampler(logits[index], state), logits[index])

    def _leave(self) -> list[Slot]:
        """Look at the choices now and then, and let go whoever is finished."""
        finished = [slot for slot in self.live if slot._is_drawn]
        self._unseen += 1
        every = LOOK_EVERY.get(self.transformer.device.type, LOOK_EVERY_ELSEWHERE)
        if finished or self._unseen >= every:
            self._choices.check()
            self._unseen = 0
        for number, slot in enumerate(self.live if finished else []):
            if slot._is_drawn:
                slot.tokens = self._tokens[number]
        self._remove(set(finished))
        return finished

    def _join(self) -> list[Slot]:
        """Take in whoever came since the last step; return those of whom nothing is free."""
        new, self._new = self._new, []
        known = [slot for slot in new if slot._is_drawn]
        for slot in known:
            slot.tokens = self._integers(slot._given)
        # a beginning is read alone, so that no other one has a part in the rounding
        groups: dict[int, list[Slot]] = {}
        for slot in new:
            if not slot._is_drawn:
                is_fresh = slot._given[0] == FREE
                groups.setdefault(0 if is_fresh else id(slot.drawing), []).append(slot)
        for group in groups.values():
            self._take_in(group)
        return known

    def _take_in(self, group: list[Slot]) -> None:
        """Encode the texts of slots, read the beginning that is given, and append their rows."""
        rows: list[TextTokens] = []
        first = 0 if self._cache is None else self._cache.rows
        for number in range(max(len(slot.drawing.texts) for slot in group)):
            for slot in group:
                if number < len(slot.drawing.texts):
                    slot._rows.append(first + len(rows))
                    rows.append(slot.drawing.texts[number])
        for slot in group:
            if slot.drawing.is_guided:
                assert slot.drawing.base is not None
                slot._rows.append(first + len(rows))
                rows.append(slot.drawing.base)
        beginning = group[0]._given[: group[0]._given.index(FREE)]
        if beginning:
            cache, previous = self._read(rows[:: len(group)], beginning, len(group))
            for slot in group:
                slot.position = len(beginning)
        else:
            cache = _start(self.transformer, rows)
            previous = self.transformer.start_tokens(len(group))
        if self._cache is None:
            self._cache = cache
        else:
            self._cache.append(cache)
        given = self._integers([slot._given for slot in group])
        alone = not self.live
        self._tokens = given if alone else torch.cat([self._tokens, given])
        self._previous = previous if alone else torch.cat([self._previous, previous])
        self.live += group
        self._plan = _Plan(self.live, self._integers)

    def _read(
        self, rows: list[TextTokens], beginning: list[int], count: int
    ) -> tuple[DecoderCache, Tensor]:
        """Read a beginning once, for `count` slots of one drawing; return each one's last token."""
        cache = _start(self.transformer, rows)
        inputs = torch.cat([self.transformer.start_tokens(1), self._integers(beginning)])
        self.transformer.extend(inputs[:-1].expand(cache.rows, -1), cache)
        if count > 1:
            cache.keep([row for row in range(cache.rows) for _ in range(count)])
        return cache, inputs[-1:].expand(count)

    def _remove(self, gone: set[Slot]) -> None:
        """Forget the rows of these slots."""
        kept = [number for number, slot in enumerate(self.live) if slot not in gone]
        if len(kept) == len(self.live):
            return
        self.live = [self.live[number] for number in kept]
        if not self.live:
            self._cache = None
        else:
            rows = sorted(row for slot in self.live for row in slot._rows)
            assert self._cache is not None
            self._cache.keep(rows)
            places = {row: place for place, row in enumerate(rows)}
            for slot in self.live:
                slot._rows = [places[row] for row in slot._rows]
            index = self._integers(kept)
            self._tokens, self._previous = self._tokens[index], self._previous[index]
        self._plan = _Plan(self.live, self._integers)

    def _integers(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.transformer.device)


class _Plan:
    """Which rows are whose: made anew when slots come or go.

    Args:
        slots: N of them.
        integers: makes index tensors.
    """

    def __init__(self, slots: list[Slot], integers: Callable[[list[int]], Tensor]) -> None:
        self._slots = slots
        rows = {row: number for number, slot in enumerate(slots) for row in slot._rows}
        self.owners = integers([rows[row] for row in sorted(rows)])
        # an unguided slot is its own base, so that its logits come out as they are
        self._base = _index([slot._rows[-1] for slot in slots], integers)
        self._texts: list[tuple[list[int], Index, Index]] = []
        guided = any(slot.drawing.is_guided for slot in slots)
        for number in range(max((len(slot.drawing.texts) for slot in slots), default=0) * guided):
            having = [i for i, slot in enumerate(slots) if number < len(slot.drawing.texts)]
            found = _index([slots[i]._rows[number] for i in having], integers)
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


def _start(transformer: Transformer, rows: list[TextTokens]) -> DecoderCache:
    """Encode the texts of decoder rows, each text once, and prepare their decoding."""
    known: dict[int, int] = {}
    index = [known.setdefault(id(text), len(known)) for text in rows]
    texts = [rows[index.index(number)] for number in range(len(known))]
    if transformer.dtype != torch.float32:  # in half precision the padding shows in the rounding
        encoded = transformer.encode(stack_texts(texts))
    elif transformer.device.type == "cpu":
        encoded = _stack_states([transformer.encode(text.trim()) for text in texts])
    else:
        encoded = transformer.encode(stack_texts(texts).trim())
    numbers = torch.tensor(index, dtype=torch.int64, device="cpu")
    return transformer.init_cache(encoded, rows=numbers)


def _stack_states(encoded: list[EncoderOutput]) -> EncoderOutput:
    longest = max(one.attention_mask.shape[1] for one in encoded)
    gaps = [longest - one.attention_mask.shape[1] for one in encoded]
    pairs = list(zip(encoded, gaps, strict=True))
    return EncoderOutput(
        torch.cat([pad(one.hidden_states, (0, 0, 0, gap)) for one, gap in pairs]),
        torch.cat([pad(one.attention_mask, (0, gap), value=False) for one, gap in pairs]),
    )


def _index(numbers: list[int], integers: Callable[[list[int]], Tensor]) -> Index:
    """Return a slice where numbers follow each other, which copies nothing; else a tensor."""
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return integers(numbers)
