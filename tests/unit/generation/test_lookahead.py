"""Several candidates for one picture, weighed by what is kept behind them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.errors import InputError
from dallemini.generation import Drawing, Particles, Slots, TopSampler
from dallemini.generation.lookahead import derive_seed
from dallemini.testing import tiny_tokenizer, tiny_transformer
from dallemini.text.tokenizer import TextTokens

LENGTH = 16
TOKENIZER, TRANSFORMER = tiny_tokenizer(), tiny_transformer()
APPLE, BIRD = TOKENIZER("a red apple"), TOKENIZER("a blue bird")


def hole(*free: int) -> Tensor:
    given = torch.arange(LENGTH)
    given[list(free)] = -1
    return given


def drawing(seed: int = 0, **rest: Any) -> Drawing:
    settings = {"texts": (APPLE,), "weights": (3.0,), "base": TOKENIZER.unconditional(), **rest}
    return Drawing(seed=seed, **settings)


def draw(one: Drawing, count: int, others: int = 0) -> list[int]:
    """Draw alone, or beside others that join meanwhile."""
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    particles = Particles(slots, one, count=count)
    while particles.tokens is None:
        if others:
            others -= 1
            slots.add(drawing(90 + others))
        slots.step()
        particles.look(slots.log_likelihoods() if particles.weighs else None)
    tokens: list[int] = particles.tokens.tolist()
    return tokens


def log_likelihood(text: TextTokens, tokens: list[int]) -> Tensor:
    """f32[L] of the tokens, by teacher forcing."""
    logits = TRANSFORMER(text, torch.tensor([tokens]))[0, :, :64].detach()
    found: Tensor = logits.log_softmax(-1)[torch.arange(LENGTH), torch.tensor(tokens)]
    return found


def test_what_is_kept_stays_and_a_seed_draws_one_picture_beside_others() -> None:
    given = hole(5, 6, 9)
    alone = draw(drawing(3, fixed=given), 6)
    assert [alone[i] for i in range(LENGTH) if int(given[i]) >= 0] == given[given >= 0].tolist()
    assert draw(drawing(3, fixed=given), 6, others=5) == alone
    assert len({tuple(draw(drawing(seed, fixed=given), 6)) for seed in range(4)}) > 1


def test_one_candidate_is_drawn_as_without() -> None:
    given = hole(5, 6)
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    slot = slots.add(drawing(3, fixed=given))
    while slot.tokens is None:
        slots.step()
    assert slot.tokens.tolist() == draw(drawing(3, fixed=given), 1)


def test_nothing_is_weighed_where_nothing_is_kept_ahead() -> None:
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    for fixed in (None, hole(*range(4, LENGTH))):
        assert len(Particles(slots, drawing(fixed=fixed), count=8).slots) == 1


@pytest.mark.thorough
def test_looking_ahead_makes_what_is_kept_likelier() -> None:
    given = hole(4, 5, 6, 7)
    kept = slice(8, LENGTH)

    def mean(count: int) -> float:
        found = [draw(drawing(seed, fixed=given), count) for seed in range(12)]
        return sum(float(log_likelihood(APPLE, one)[kept].sum()) for one in found) / len(found)

    assert mean(12) > mean(1) + 1


def test_likelihoods_are_those_of_teacher_forcing() -> None:
    given = hole(4, 9)
    plain, guided = drawing(1, fixed=given, weights=(1.0,), base=None), drawing(2, fixed=given)
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    pair = [slots.add(one, to_the_end=True) for one in (plain, guided)]
    found: dict[int, list[float]] = {0: [], 1: []}
    while pair[0].tokens is None:
        slots.step()
        likely = slots.log_likelihoods()
        for number in (0, 1):
            found[number].append(float(likely[slots.stepped.index(pair[number])]))
    for number, slot in enumerate(pair):  # without guidance, whatever the guidance
        assert slot.tokens is not None, number
        expected = log_likelihood(APPLE, slot.tokens.tolist())[4:]
        torch.testing.assert_close(torch.tensor(found[number]), expected, atol=1e-4, rtol=1e-4)


def test_a_mixture_is_weighed_as_a_whole() -> None:
    mixture = drawing(texts=(APPLE, BIRD), weights=(6.0, 2.0), fixed=hole(0, 1))
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    slots.add(mixture)
    slots.step()
    start = torch.zeros(1, LENGTH, dtype=torch.int64)
    apple, bird = (TRANSFORMER(text, start)[0, 0, :64].detach() for text in (APPLE, BIRD))
    expected = (0.75 * apple + 0.25 * bird).log_softmax(-1)[slots.latest]
    torch.testing.assert_close(slots.log_likelihoods(), expected, atol=1e-4, rtol=1e-4)


def test_a_copy_goes_on_from_where_the_other_stands() -> None:
    one = drawing()
    slots = Slots(TRANSFORMER, TopSampler(top_k=1), num_codes=64)
    first = slots.add(one)
    second = slots.add(drawing(1, texts=(BIRD,)))
    third = slots.add(one, generator=torch.Generator().manual_seed(9))
    for _ in range(5):
        slots.step()
    slots._tokens[2, :5] = torch.arange(5)  # as if it had drawn something else
    slots.copy({third: first})
    while slots.live:
        slots.step()
    found = [slot.tokens.tolist() for slot in (first, second, third) if slot.tokens is not None]
    assert found[0] == found[2] != found[1]


def test_only_equals_are_copied() -> None:
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    first, second = slots.add(drawing()), slots.add(drawing())
    slots.step()
    with pytest.raises(InputError, match="draws the same Drawing"):
        slots.copy({first: second})


def test_derived_seeds_are_seeds_of_their_own() -> None:
    seeds = {derive_seed(seed, "window", number) for seed in range(9) for number in range(9)}
    assert len(seeds) == 81
    assert all(0 <= seed < 2**63 for seed in seeds)
