"""The mark in the tokens: keys, groups of codes, the sampler that leans, exact evidence."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from dallemini import Watermark
from dallemini.errors import InputError, InputTypeError
from dallemini.generation import SamplerState, TopSampler, make_generators
from dallemini.generation.watermark import (
    CodeGroups,
    MarkedSampler,
    group_codes,
    place,
    weigh_evidence,
)

CODES = 64


@pytest.fixture(scope="module")
def groups() -> CodeGroups:
    vectors = torch.randn(CODES, 4, generator=torch.Generator().manual_seed(0))
    return group_codes(vectors, size=2)


def state(seeds: list[int], position: int = 0, **rest: Any) -> SamplerState:
    tokens = torch.zeros(len(seeds), position, dtype=torch.int64)
    return SamplerState(make_generators(seeds), tokens, **rest)


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Watermark("my secret")) + str(Watermark(b"my secret"))


def test_text_and_its_bytes_are_one_key(groups: CodeGroups) -> None:
    text, content = Watermark("schlüssel"), Watermark("schlüssel".encode())
    assert torch.equal(text.favours(groups), content.favours(groups))


@pytest.mark.parametrize("key", [None, 5, ["a"]])
def test_a_key_of_another_type_is_refused(key: Any) -> None:
    with pytest.raises(InputTypeError, match="The key of a watermark is text or bytes, not "):
        Watermark(key)


@pytest.mark.parametrize("key", ["", "  ", b"\n"])
def test_an_empty_key_is_refused(key: Any) -> None:
    with pytest.raises(InputError, match="The key of a watermark is empty; take a long secret"):
        Watermark(key)


@pytest.mark.parametrize(("strength", "kind"), [("2", InputTypeError), (True, InputTypeError)])
def test_a_strength_that_is_no_number_is_refused(strength: Any, kind: Any) -> None:
    with pytest.raises(kind, match="The strength of a watermark is a number, not "):
        Watermark("key", strength=strength)


@pytest.mark.parametrize("strength", [-1.0, 21.0, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match="The strength of a watermark is from 0 to 20, not "):
        Watermark("key", strength=strength)


def test_each_pair_has_one_favoured_group_at_each_place(groups: CodeGroups) -> None:
    favoured = Watermark("key").favours(groups)
    for pair in groups.pairs.unique():
        inside = groups.pairs == pair
        sides = [favoured[:, inside & (groups.sides == side)] for side in (0, 1)]
        assert all(side.shape[1] for side in sides)
        first, second = (side[:, :1] for side in sides)
        assert bool((sides[0] == first).all() & (sides[1] == second).all())
        assert bool((first ^ second).all())


def test_keys_and_places_toss_independent_coins(groups: CodeGroups) -> None:
    keys = [Watermark(f"key {number}").favours(groups) for number in range(50)]
    coins = torch.stack(keys).flatten(1).double()
    assert coins.mean().item() == pytest.approx(0.5, abs=0.02)
    products = torch.corrcoef(coins)[~torch.eye(50, dtype=torch.bool)]
    assert products.abs().max().item() < 0.35
    places = torch.stack(keys).double().transpose(0, 1).flatten(1)
    assert torch.corrcoef(places)[~torch.eye(16, dtype=torch.bool)].abs().max().item() < 0.2


def test_near_codes_share_a_group_and_near_groups_a_pair() -> None:
    centres = torch.tensor([0.0, 10.0, 100.0, 110.0])
    vectors = (centres[:, None] + torch.tensor([0.0, 1.0])).flatten()[:, None]
    groups = group_codes(vectors, size=2)
    assert groups.pairs.tolist() == [0, 0, 0, 0, 4, 4, 4, 4]
    assert groups.sides.tolist() == [0, 0, 1, 1] * 2


def test_equal_codes_and_odd_numbers_are_grouped_all_the_same() -> None:
    groups = group_codes(torch.zeros(9, 3), size=2)
    assert groups.pairs.shape == (9,)
    assert len(group_codes(torch.zeros(1, 3)).pairs) == 1


def test_the_dtype_of_the_codebook_changes_no_group() -> None:
    vectors = torch.randn(CODES, 4, generator=torch.Generator().manual_seed(1))
    one, other = group_codes(vectors, size=4), group_codes(vectors.bfloat16(), size=4)
    assert torch.equal(one.pairs, other.pairs)
    assert torch.equal(one.sides, other.sides)


def test_the_sampler_adds_a_bounded_amount_to_favoured_codes(groups: CodeGroups) -> None:
    seen: list[torch.Tensor] = []

    def own(logits: torch.Tensor, state: SamplerState) -> torch.Tensor:
        seen.append(logits)
        return logits.argmax(-1)

    logits = torch.randn(2, CODES, generator=torch.Generator().manual_seed(2))
    mark = Watermark("key", strength=3.0)
    mark.lean(own, groups, side=4)(logits, state([0, 1], position=6))
    favoured = mark.favours(groups)[place(1, 2)]
    assert torch.equal(seen[0], logits + 3.0 * favoured)


def test_the_lean_does_not_depend_on_the_temperature(groups: CodeGroups) -> None:
    mark = Watermark("key", strength=3.0)
    cold = mark.lean(TopSampler(temperature=0.1), groups, side=4)
    assert cold.bias.max().item() == pytest.approx(0.3)


def test_no_strength_draws_what_no_mark_draws(groups: CodeGroups) -> None:
    logits = torch.randn(3, CODES, generator=torch.Generator().manual_seed(3))
    plain = TopSampler()
    leaning = Watermark("key", strength=0).lean(plain, groups, side=4)
    assert torch.equal(leaning(logits, state([0, 1, 2])), plain(logits, state([0, 1, 2])))


def test_a_picture_on_a_larger_canvas_has_the_places_of_the_canvas(groups: CodeGroups) -> None:
    mark = Watermark("key", strength=20.0)
    sampler = MarkedSampler(
        sampler=lambda logits, _: logits.argmax(-1), bias=mark.favours(groups).float(), side=4
    )
    logits = torch.zeros(2, CODES)
    corners = [(0, 0), (3, 2)]
    chosen = sampler(logits, state([0, 1], position=5, corners=corners))
    favoured = mark.favours(groups).int()
    expected = [favoured[place(1, 1)].argmax(), favoured[place(4, 3)].argmax()]
    assert chosen.tolist() == [int(code) for code in expected]


def test_p_values_count_all_colourings_exactly() -> None:
    """Among all 2^6 ways to toss the coins, as many do as well as the p-value says."""
    groups = CodeGroups(pairs=torch.arange(12) // 2 * 2, sides=torch.arange(12) % 2)
    codes = torch.tensor([[0, 2, 4, 6, 8, 2, 4, 7]])  # 4 twice at one place, 6 against 7 at another
    coins = sorted({(int(groups.pairs[code]), n % 4) for n, code in enumerate(codes[0])})
    tried = []
    for tossed in itertools.product([0, 1], repeat=len(coins)):
        favoured = torch.zeros(16, 12, dtype=torch.bool)
        for (pair, at), coin in zip(coins, tossed, strict=True):
            favoured[at, pair + coin] = True
        tried.append(weigh_evidence([codes], groups, favoured)[0])
    for one in tried:
        better = np.mean([other.score >= one.score - 1e-12 for other in tried])
        assert one.p_value == pytest.approx(better)


def test_evidence_finds_a_grid_that_was_moved(groups: CodeGroups) -> None:
    favoured = Watermark("key").favours(groups)
    generator = torch.Generator().manual_seed(4)
    codes = torch.stack(
        [
            torch.stack(
                [
                    torch.where(favoured[place(row, column)])[0][
                        torch.randint(20, (1,), generator=generator)
                    ][0]
                    for column in range(8)
                ]
            )
            for row in range(8)
        ]
    )
    cut = codes[1:, 3:]
    moved = weigh_evidence([cut], groups, favoured, shifts=[(0, 0), (1, 3)])
    assert moved[1].score == 1.0
    assert moved[1].p_value < 1e-4 < moved[0].p_value


def test_a_flat_picture_is_no_evidence(groups: CodeGroups) -> None:
    flat = torch.full((16, 16), 5)
    for number in range(20):
        favoured = Watermark(f"key {number}").favours(groups)
        assert weigh_evidence([flat], groups, favoured)[0].p_value >= 2**-16


def test_false_alarms_come_at_the_stated_rate(groups: CodeGroups) -> None:
    """Over keys, for pictures that repeat their codes as real ones do."""
    generator = torch.Generator().manual_seed(5)
    favoured = [Watermark(f"key {number}").favours(groups) for number in range(40)]
    values = []
    for _ in range(8):
        chances = torch.rand(CODES, generator=generator) ** 6
        codes = chances.multinomial(36, replacement=True, generator=generator).view(6, 6)
        values += [weigh_evidence([codes], groups, one)[0].p_value for one in favoured]
    found = np.array(values)
    for level in (0.5, 0.1):
        spread = 4 * (level * (1 - level) / len(found)) ** 0.5
        assert (found <= level).mean() <= level + spread
    assert (found <= 0.5).mean() > 0.4


def test_p_values_of_unmarked_codes_are_even_to_the_tail(groups: CodeGroups) -> None:
    """Kolmogorov and Smirnov, over pictures, keys and places; and one in a hundred below 0.01."""
    generator, found = torch.Generator().manual_seed(6), []
    shifts = [(row, column) for row in range(4) for column in range(4)]
    for number in range(200):
        chances = torch.rand(CODES, generator=generator) ** 4
        codes = chances.multinomial(100, replacement=True, generator=generator).view(10, 10)
        favoured = Watermark(f"unmarked {number}").favours(groups)
        found += weigh_evidence([codes], groups, favoured, shifts=shifts)
    values = np.sort([one.p_value for one in found])
    ranks = np.arange(1, len(values) + 1) / len(values)
    apart = np.abs(ranks - values).max()
    assert apart < 1.63 / len(values) ** 0.5  # the limit of one false alarm in a hundred
    assert 0.005 < (values < 0.01).mean() < 0.016  # 0.01, three standard deviations of 3,200


def test_the_power_is_what_the_votes_say(groups: CodeGroups) -> None:
    """Twenty coins of one weight, of which eighteen fell to the key: the binomial tail."""
    wide = CodeGroups(pairs=torch.arange(80) // 2 * 2, sides=torch.arange(80) % 2)
    favoured = torch.zeros(16, 80, dtype=torch.bool)
    favoured[:, 0::2] = True
    codes = torch.tensor([[2 * pair + (pair < 2) for pair in range(20)]])
    (found,) = weigh_evidence([codes], wide, favoured)
    tail = sum(math.comb(20, hits) for hits in (18, 19, 20)) / 2**20
    assert (found.votes, found.score) == (20, 0.9)
    assert found.p_value == pytest.approx(tail, rel=1e-12)
