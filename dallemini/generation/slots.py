"""Rows that come and go: pictures drawn together, each at a position of its own.

`generate_tokens`, the pipeline, and whatever serves or edits pictures are drivers of this one loop.
A picture's tokens depend on its `Drawing` alone, not on those beside it, when it joined, or which
others left.

Shapes: N pictures (slots), R decoder rows (one for each text, one for a base), L image tokens, V
image vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
from .guessing import Guesses
from .sampling import Choices, Sampler, SamplerState, check_sampler, make_generators
from .slot import Index, Plan, Slot, Tally

# Steps between two looks at what the sampler chose, by kind of device. On a GPU a look makes the
# processor wait, so that it cannot prepare the next step meanwhile.
LOOK_EVERY = {"cpu": 1}
LOOK_EVERY_ELSEWHERE = 32


class Slots:
    """The pictures that are drawn together, one token for each at a step.

    Args:
        transformer: in evaluation mode.
        sampler: chooses tokens from the guided logits.
        num_codes: ids from here up are never drawn; None leaves every id to the sampler.
        guess: positions of a picture that are decoded in one pass, all but the first from guesses;
            it changes no token. 1 decodes one by one, and None as many as turn out to be fastest.
            Samplers of your own, and whatever the kernels do not compute, decode one by one.
        tally: goes on counting what others began; a new one when None.

    Attributes:
        live: the slots that are drawn now, N.
        stepped: the slots that took the last step.
        latest: i64[N], the tokens of that step, one for each of these slots.
        tally: how many passes over the weights the tokens took.

    Raises:
        InputTypeError: the sampler cannot be called with logits and a state.
        InputError: `guess` is below 1.

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
        self,
        transformer: Transformer,
        sampler: Sampler,
        *,
        num_codes: int | None = None,
        guess: int | None = None,
        tally: Tally | None = None,
    ) -> None:
        check_sampler(sampler)
        if guess is not None and guess < 1:
            raise InputError(f"guess must be at least 1, which decodes one by one, not {guess}.")
        self.transformer: Transformer = transformer
        self.sampler: Sampler = sampler
        self.num_codes: int | None = num_codes
        self.live: list[Slot] = []
        self._new: list[Slot] = []
        self._cache: DecoderCache | None = None
        self._choices, self._unseen = Choices(), 0
        self.tally: Tally = Tally() if tally is None else tally
        self._guesses = Guesses(
            transformer, sampler, num_codes=num_codes, width=guess, tally=self.tally
        )
        self._tokens, self._previous = self._integers([]), self._integers([])
        self.latest: Tensor = self._previous
        self.stepped: list[Slot] = []
        self._plan = Plan([], self._integers)
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
            given=drawing.given_tokens(config.image_length, config.image_vocab_size),
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
            for row, taken in zip(slot.rows, source.rows, strict=True):
                rows[row] = taken
        if self._cache is not None and rows != [*range(len(rows))]:
            self._guesses.forget(self._cache)
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
        logits = self._guesses.take(
            self.live, self._plan, self._cache, self._tokens, self._previous
        )
        shares = [slot.position / len(slot.given) for slot in self.live]
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
        self._guesses.settle(chosen, self._cache)

    def _choose(self, logits: Tensor) -> Tensor:
        """Return i64[N], asking the sampler for what is free: once for each position."""
        groups: dict[int, list[int]] = {}
        for number, slot in enumerate(self.live):
            if slot.given[slot.position] == FREE:
                groups.setdefault(slot.position, []).append(number)
        if [len(numbers) for numbers in groups.values()] == [len(self.live)]:
            return self._ask(logits, slice(None), self.live, *groups)
        chosen = self._integers([slot.given[slot.position] for slot in self.live])
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
        finished = [slot for slot in self.live if slot.is_drawn]
        self._unseen += 1
        every = LOOK_EVERY.get(self.transformer.device.type, LOOK_EVERY_ELSEWHERE)
        if finished or self._unseen >= every:
            self._choices.check()
            self._unseen = 0
        for number, slot in enumerate(self.live if finished else []):
            if slot.is_drawn:
                slot.tokens = self._tokens[number]
        self._remove(set(finished))
        return finished

    def _join(self) -> list[Slot]:
        """Take in whoever came since the last step; return those of whom nothing is free."""
        new, self._new = self._new, []
        known = [slot for slot in new if slot.is_drawn]
        for slot in known:
            slot.tokens = self._integers(slot.given)
        # a beginning is read alone, so that no other one has a part in the rounding
        groups: dict[int, list[Slot]] = {}
        for slot in new:
            if not slot.is_drawn:
                is_fresh = slot.given[0] == FREE
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
                    slot.rows.append(first + len(rows))
                    rows.append(slot.drawing.texts[number])
        for slot in group:
            if slot.drawing.is_guided:
                assert slot.drawing.base is not None
                slot.rows.append(first + len(rows))
                rows.append(slot.drawing.base)
        beginning = group[0].given[: group[0].given.index(FREE)]
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
        given = self._integers([slot.given for slot in group])
        alone = not self.live
        self._tokens = given if alone else torch.cat([self._tokens, given])
        self._previous = previous if alone else torch.cat([self._previous, previous])
        self.live += group
        self._plan = Plan(self.live, self._integers)

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
        self._guesses.keep(self.live)
        if not self.live:
            self._cache = None
        else:
            rows = sorted(row for slot in self.live for row in slot.rows)
            assert self._cache is not None
            self._cache.keep(rows)
            places = {row: place for place, row in enumerate(rows)}
            for slot in self.live:
                slot.rows = [places[row] for row in slot.rows]
            index = self._integers(kept)
            self._tokens, self._previous = self._tokens[index], self._previous[index]
        self._plan = Plan(self.live, self._integers)

    def _integers(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.transformer.device)


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
