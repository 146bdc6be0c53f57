"""Leans of known size are found at their size, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from dallemini.errors import InputError
from dallemini.evaluation import Leaning, effect_size, holm
from dallemini.evaluation.leaning import Counts, Floats, deviation_of, estimate_shares

EVEN, LEANING = (0.5, 0.5), (0.8, 0.2)
ATTRIBUTES, COUNT = 20, 32
# How a probe answers pictures of two kinds: right, wrong; for the rest it is uncertain.
RATES = np.array([[0.80, 0.05], [0.15, 0.60]])


def answered(shares: tuple[float, ...], *, seed: int, rows: int = ATTRIBUTES) -> Counts:
    """What a perfect probe says of a synthetic model with these shares."""
    return np.random.default_rng(seed).multinomial(COUNT, shares, size=rows)


def answered_with_errors(shares: Floats, *, seed: int, rows: int = ATTRIBUTES) -> Counts:
    """What a probe with those error rates says; the uncertain ones are left out."""
    told = shares @ RATES
    every = np.random.default_rng(seed).multinomial(COUNT, [*told, 1 - told.sum()], size=rows)
    return every[:, :2]


@pytest.fixture(scope="module")
def corrected() -> Leaning:
    """Knows the error rates from 400 labelled pictures of each kind."""
    labelled = np.round(400 * RATES).astype(np.int64)
    return Leaning(answers=2, labelled=labelled, silent=400 - labelled.sum(1), tests=ATTRIBUTES)


def test_a_planted_lean_is_found_at_its_size() -> None:
    leaning = Leaning(answers=2, tests=ATTRIBUTES)
    found = leaning.mean_deviation(answered(LEANING, seed=1))
    assert found.value.value == pytest.approx(0.3, abs=0.03)
    assert found.value.low < 0.3 < found.value.high
    assert found.p_value < 0.001
    assert leaning.pooled_deviation(answered(LEANING, seed=1)).value.low > 0.2


def test_none_is_found_where_there_is_none() -> None:
    leaning = Leaning(answers=2, tests=ATTRIBUTES)
    counts = answered(EVEN, seed=2)
    found = leaning.mean_deviation(counts)
    assert found.value.value == pytest.approx(found.by_chance, abs=0.02)  # and not zero
    assert found.value.value < found.chance_high
    assert found.p_value > 0.05
    assert found.value.low < 0.01
    assert min(holm([leaning.deviation(row).p_value for row in counts[:5]])) > 0.05


def test_leans_that_cancel_out_are_seen_by_the_mean_and_not_by_all_together() -> None:
    leaning = Leaning(answers=2)
    both = np.concatenate([answered(LEANING, seed=3), answered(LEANING, seed=4)[:, ::-1]])
    assert leaning.mean_deviation(both).value.low > 0.2
    assert leaning.pooled_deviation(both).value.low < 0.03


def test_three_answers_have_a_deviation_of_their_own() -> None:
    found = Leaning(answers=3).mean_deviation(answered((0.6, 0.3, 0.1), seed=5))
    assert found.value.value == pytest.approx((0.6 - 1 / 3) * 2 / 3, abs=0.03)


def test_false_alarms_come_at_the_stated_rate() -> None:
    """The p-value of one attribute is below 0.05 in at most 5 % of even models."""
    leaning = Leaning(answers=2)
    p_of = {k: leaning.deviation(np.array([k, COUNT - k])).p_value for k in range(COUNT // 2 + 1)}
    drawn = answered(EVEN, seed=6, rows=20_000).min(1)
    alarms = np.array([p_of[int(k)] for k in drawn]) < 0.05
    assert 0.02 < alarms.mean() <= 0.052
    families = np.array([p_of[int(k)] for k in drawn]).reshape(-1, ATTRIBUTES)
    assert np.mean([min(holm(family.tolist())) < 0.05 for family in families]) < 0.06


def test_intervals_of_a_planted_lean_hold_it() -> None:
    leaning = Leaning(answers=2)
    inside = 0
    for row in answered(LEANING, seed=7, rows=60):
        (first, _) = leaning.share_intervals(row)
        inside += first.low <= LEANING[0] <= first.high
    assert inside >= 53  # of 57 expected


def test_errors_of_the_probe_are_taken_off(corrected: Leaning) -> None:
    counts = answered_with_errors(np.array(LEANING), seed=8)
    plain = Leaning(answers=2).pooled_deviation(counts).value
    found = corrected.pooled_deviation(counts).value
    assert found.value == pytest.approx(0.3, abs=0.05)
    assert found.low < 0.3 < found.high
    assert plain.high > found.value > 0.25
    (first, second) = corrected.share_intervals(counts.sum(0))
    assert first.low < 0.8 < first.high
    assert first.value + second.value == pytest.approx(1)


def test_an_even_model_is_even_to_a_probe_that_favours_an_answer(corrected: Leaning) -> None:
    counts = answered_with_errors(np.array(EVEN), seed=9)
    assert Leaning(answers=2).pooled_deviation(counts).p_value < 0.01  # the probe's lean
    found = corrected.pooled_deviation(counts)
    assert found.p_value > 0.05
    assert found.value.low < 0.01


def test_false_alarms_of_a_corrected_figure_come_at_the_stated_rate() -> None:
    """Even where the error rates come from few labelled pictures."""
    generator, alarms = np.random.default_rng(10), 0
    for seed in range(40):
        full = [generator.multinomial(60, [*row, 1 - row.sum()]) for row in RATES]
        labelled = np.stack(full)
        leaning = Leaning(answers=2, labelled=labelled[:, :2], silent=labelled[:, 2], seed=seed)
        row = answered_with_errors(np.array(EVEN), seed=100 + seed, rows=1)
        alarms += leaning.deviation(row[0]).p_value < 0.05
    assert alarms <= 6  # of 2 expected; more than 6 come in 0.3 % of cases


def test_pictures_of_neither_kind_are_told_apart() -> None:
    rates = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
    leaning = Leaning(answers=2, labelled=(400 * rates).astype(np.int64))
    told = np.array([0.2, 0.2, 0.6]) @ rates  # even, among many of neither kind
    counts = np.random.default_rng(11).multinomial(400, told, size=4)
    assert Leaning(answers=2).pooled_deviation(counts[:, :2]).p_value < 0.01
    found = leaning.pooled_deviation(counts)
    assert found.value.value < 0.06
    assert found.p_value > 0.05


def test_shares_that_no_picture_explains_are_the_nearest_possible() -> None:
    counts = np.array([[30, 0], [0, 0]])
    np.testing.assert_allclose(estimate_shares(counts, RATES), [[1.0, 0.0], [0.5, 0.5]])


def test_change_is_that_of_an_intervention() -> None:
    leaning = Leaning(answers=2)
    found = leaning.change(answered(LEANING, seed=12), answered(EVEN, seed=13))
    assert found.value == pytest.approx(-0.23, abs=0.04)  # an even model has 0.07 by chance
    assert found.high < -0.1
    none = leaning.change(answered(LEANING, seed=12), answered(LEANING, seed=14))
    assert none.low < 0 < none.high


def test_an_effect_of_known_size_is_found() -> None:
    generator = np.random.default_rng(15)
    first = generator.normal(0.8, 1, (200, 1)) * [1, -1]
    second = generator.normal(0.0, 1, (200, 1)) * [1, -1]
    found = effect_size(first, second)
    assert found.toward == 0
    assert found.d.value == pytest.approx(0.8 / (1 + 0.4**2) ** 0.5, abs=0.15)
    assert found.d.low < 0.743 < found.d.high
    assert found.p_value < 0.001
    assert effect_size(second, first).toward == 1


def test_effects_of_equal_sets_are_significant_at_the_stated_rate() -> None:
    generator = np.random.default_rng(16)
    p_values = [
        effect_size(generator.normal(size=(8, 3)), generator.normal(size=(8, 3))).p_value
        for _ in range(60)
    ]
    assert np.mean(np.array(p_values) < 0.05) < 0.12
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.12)


def test_the_same_seed_gives_the_same_figures() -> None:
    counts = answered(LEANING, seed=17)
    assert Leaning(answers=2).mean_deviation(counts) == Leaning(answers=2).mean_deviation(counts)
    other = Leaning(answers=2, seed=1).mean_deviation(counts)
    assert other != Leaning(answers=2).mean_deviation(counts)


def test_holm_is_that_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03]) == (0.03, 0.06, 0.06)
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


def test_the_deviation_is_the_field_s() -> None:
    assert deviation_of(np.array([0.8, 0.2])) == pytest.approx(abs(0.8 - 0.5))
    assert deviation_of(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(2 * 3 / 16)


def test_nothing_certain_has_no_deviation() -> None:
    with pytest.raises(InputError, match="needs a picture that the probe could tell"):
        Leaning(answers=2).deviation(np.array([0, 0]))


def test_an_effect_needs_two_sets() -> None:
    with pytest.raises(InputError, match="needs two sets of pictures"):
        effect_size(np.zeros((0, 2)), np.zeros((3, 2)))
