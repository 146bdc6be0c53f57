"""The sampler: greedy, filters, distribution, one random stream for each image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.errors import ConfigError
from dallemini.generation import GenerationConfig, TopSampler, filter_logits, make_generators


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


def left(filtered: Tensor) -> list[int]:
    """How many tokens of each row may be drawn."""
    return [int(row.isfinite().sum()) for row in filtered]


def share(sampler: TopSampler, logits: Tensor, draws: int = 4000) -> Tensor:
    """How often each token of f[V] is drawn."""
    tokens = sampler(logits.expand(draws, -1), make_generators(range(draws)))
    return torch.bincount(tokens, minlength=logits.numel()) / draws


def test_top_k_of_1_is_greedy(logits: Tensor) -> None:
    tokens = TopSampler(top_k=1)(logits, make_generators(range(6)))
    assert tokens.dtype == torch.int64
    assert torch.equal(tokens, logits.argmax(-1))


def test_a_tiny_top_p_is_greedy(logits: Tensor) -> None:
    tokens = TopSampler(top_k=None, top_p=1e-9)(logits, make_generators(range(6)))
    assert torch.equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize("top_k", [None, 5])
def test_the_lowest_temperature_is_greedy(logits: Tensor, top_k: int | None) -> None:
    sampler = TopSampler(temperature=1e-6, top_k=top_k)
    assert torch.equal(sampler(logits, make_generators(range(6))), logits.argmax(-1))


def test_top_k_keeps_exactly_k(logits: Tensor) -> None:
    filtered = filter_logits(logits, top_k=7)
    assert left(filtered) == [7] * 6
    assert torch.equal(filtered.topk(7).values, logits.topk(7).values)


def test_top_k_keeps_exactly_k_of_equal_tokens() -> None:
    assert left(filter_logits(torch.zeros(2, 40), top_k=7)) == [7, 7]


def test_top_k_beyond_the_vocabulary_keeps_everything(logits: Tensor) -> None:
    assert torch.equal(filter_logits(logits, top_k=10**6), logits)


def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_it(logits: Tensor) -> None:
    filtered = filter_logits(logits, top_p=0.8)
    for row, kept in zip(logits.softmax(-1), filtered.isfinite(), strict=True):
        assert row[kept].sum() >= 0.8
        assert row[kept].sum() - row[kept].min() < 0.8
        assert row[kept].min() >= row[~kept].max()


def test_top_p_of_1_keeps_everything_that_can_be_drawn() -> None:
    assert left(filter_logits(torch.tensor([[1.0, 2.0, 3.0]]), top_p=1.0)) == [3]


def test_temperature_comes_before_top_k_and_top_k_before_top_p() -> None:
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    # of the three likeliest, 0.4 / 0.9 < 0.5 <= 0.7 / 0.9; of all, 0.4 < 0.5 <= 0.7
    assert left(filter_logits(probabilities.log(), top_k=3, top_p=0.44)) == [1]
    assert left(filter_logits(probabilities.log(), top_p=0.44)) == [2]
    # twice as cold, the likeliest has 16 / 30 of the probability
    assert left(filter_logits(probabilities.log(), temperature=0.5, top_p=0.5)) == [1]
    assert left(filter_logits(probabilities.log(), temperature=1.0, top_p=0.5)) == [2]


def test_temperature_divides(logits: Tensor) -> None:
    torch.testing.assert_close(filter_logits(logits, temperature=2.0), logits / 2)


def test_filters_leave_the_logits_alone(logits: Tensor) -> None:
    before = logits.clone()
    filter_logits(logits, temperature=0.5, top_k=3, top_p=0.5)
    TopSampler(temperature=0.5, top_k=3, top_p=0.5)(logits, make_generators(range(6)))
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(None, None, 1.0), (3, None, 1.0), (None, 0.7, 2.0)]
)
def test_tokens_are_drawn_as_often_as_they_should(
    top_k: int | None, top_p: float | None, temperature: float
) -> None:
    logits = torch.tensor([0.0, 1.5, -1.0, 2.0, 0.5])
    found = share(TopSampler(top_k=top_k, top_p=top_p, temperature=temperature), logits)
    kept = filter_logits(logits[None], top_k=top_k, top_p=top_p, temperature=temperature)[0]
    torch.testing.assert_close(found, kept.softmax(-1), rtol=0, atol=0.03)
    assert bool((found[~kept.isfinite()] == 0).all())


@pytest.mark.parametrize("top_k", [None, 3])
def test_a_forbidden_token_is_never_drawn(top_k: int | None) -> None:
    logits = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])
    found = share(TopSampler(top_k=top_k), logits, draws=500)
    assert found[1] == found[3] == 0


def test_a_row_is_drawn_the_same_alone_and_in_any_order(logits: Tensor) -> None:
    sampler, seeds = TopSampler(top_k=20), [5, 2, 9, 0, 7, 1]
    together = sampler(logits, make_generators(seeds))
    for row, seed in enumerate(seeds):
        alone = sampler(logits[row : row + 1], make_generators([seed]))
        assert alone == together[row]
    order = [3, 0, 5, 1, 4, 2]
    shuffled = sampler(logits[order], make_generators([seeds[row] for row in order]))
    assert torch.equal(shuffled, together[order])


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_k": 50}, {"top_k": None, "top_p": 0.1}])
def test_each_token_takes_one_number_of_the_stream(logits: Tensor, settings: Any) -> None:
    generators, expected = make_generators(range(6)), make_generators(range(6))
    TopSampler(**settings)(logits, generators)
    for used, other in zip(generators, expected, strict=True):
        torch.rand(1, generator=other)
        assert torch.equal(used.get_state(), other.get_state())


def test_the_global_random_state_plays_no_part(logits: Tensor) -> None:
    state = torch.get_rng_state()
    first = TopSampler()(logits, make_generators(range(6)))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(TopSampler()(logits, make_generators(range(6))), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_read_as_float32(logits: Tensor, dtype: torch.dtype) -> None:
    assert filter_logits(logits.to(dtype), top_k=3).dtype == torch.float32
    tokens = TopSampler()(logits.to(dtype), make_generators(range(6)))
    assert torch.equal(tokens, TopSampler()(logits.to(dtype).float(), make_generators(range(6))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_k": -3}, "top_k must be at least 1, not -3"),
        ({"top_k": 2.5}, "top_k must be int"),
        ({"top_k": True}, "top_k must be int"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 2.0}, "top_p must be above 0 and at most 1, not 2.0"),
        ({"top_p": "0.9"}, "top_p must be float"),
    ],
)
def test_impossible_settings_are_refused(logits: Tensor, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TopSampler(**settings)
    with pytest.raises(ConfigError, match=message):
        filter_logits(logits, **settings)


def test_a_filter_makes_no_configuration_at_every_token(
    logits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = filter_logits(logits, temperature=0.7, top_k=5, top_p=0.9)
    monkeypatch.setattr(GenerationConfig, "__init__", None)
    assert torch.equal(filter_logits(logits, temperature=0.7, top_k=5, top_p=0.9), expected)
