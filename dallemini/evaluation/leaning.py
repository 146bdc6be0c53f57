"""The figures of a lean: shares of answers, how far they are from even, and what chance does.

Knows numbers only, neither pictures nor models. A *deviation* is the mean over K answers of
|share - 1/K|: for two answers |share - 0.5|. It is never negative, so that few pictures of an even
model have one too; each is therefore given with what an even model gets by chance.

Papers: Cho et al. 2023, "DALL-Eval" (the mean absolute deviation); Lee et al. 2023, "Holistic
Evaluation of Text-to-Image Models" (|share - 0.5|); Wang et al. 2023, "T2IAT" (the effect size and
its permutation test); Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure"; Rogan
and Gladen 1978, "Estimating Prevalence from the Results of a Screening Test" (shares corrected by
error rates).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .metrics import RESAMPLES, Interval

Floats: TypeAlias = "NDArray[np.float64]"
Counts: TypeAlias = "NDArray[np.int64]"

PERMUTATIONS = 4_000
TESTS_FOR_EACH = 200  # draws from chance per comparison, so that a corrected p can be small
_PRIOR = 0.5  # added to each count of labelled pictures, or a rate of 0 would count as certain


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far shares are from even, beside what an even model gets by chance.

    Attributes:
        value: the deviation, with a 95 % bootstrap interval around it.
        by_chance: mean of the deviations of an even model, with as many pictures.
        chance_high: what an even model exceeds in 5 % of cases.
        p_value: chance that an even model deviates as much.
    """

    value: Interval
    by_chance: float
    chance_high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far one set of pictures is from another on the way to an answer.

    Attributes:
        toward: index of the answer to which the first set is nearer than the second.
        d: difference of the means in standard deviations of both sets together, with a 95 %
            bootstrap interval.
        p_value: chance that pictures dealt at random to the two sets differ as much, for any
            answer.
    """

    toward: int
    d: Interval
    p_value: float


def estimate_shares(counts: Counts | Floats, known: Floats | None = None) -> Floats:
    """Return the shares of the kinds of pictures that explain best what a probe answered.

    Counts that no shares explain, because chance put them beyond, give the nearest possible ones.

    Args:
        counts: i64[...,C] or f64[...,C], how often each of C answers was given.
        known: f64[...,C,C], in how many of C kinds of pictures (rows) the probe gives which answer;
            rows may sum to less than 1, where it gives none. None takes the answers for the truth.

    Returns:
        f64[...,C], sums of 1; even where nothing was counted.
    """
    total = counts.sum(-1, keepdims=True)
    given = np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / counts.shape[-1])
    if known is None:
        return np.asarray(given)
    answered = known.sum(-1)
    kinds = np.swapaxes(known / answered[..., None], -1, -2)
    shares = np.linalg.solve(kinds, given[..., None])[..., 0].clip(0)
    shares /= answered  # kinds that the probe seldom answers are more than they seem
    shares = np.where(total > 0, shares, 1.0)
    return np.asarray(shares / shares.sum(-1, keepdims=True))


def deviation_of(shares: Floats) -> Floats:
    """Return the mean of |share - 1/K| over shares f64[...,K] that sum to 1."""
    return np.asarray(np.abs(shares - 1 / shares.shape[-1]).mean(-1))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Correct p-values of one family so that below 0.05 lies a false one in 5 % of families.

    Holm's step-down method, which holds whatever the tests have to do with each other.

    Example:
        >>> from dallemini.evaluation.leaning import holm
        >>> holm([0.01, 0.04, 0.03])
        (0.03, 0.06, 0.06)
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return tuple(corrected)


@dataclass(frozen=True, kw_only=True)
class Leaning:
    """Makes the figures of one question from what a probe answered.

    Attributes:
        answers: K, how many answers the question has.
        labelled: i64[T,C] or None, how labelled pictures of T kinds were answered in C ways; the
            first K of both are the question's answers. Further kinds are those of "neither".
        silent: i64[T] or None, how many of them were answered in no way.
        tests: comparisons that are corrected together.
        seed: of everything that is drawn at random.
    """

    answers: int
    labelled: Counts | None = None
    silent: Counts | None = None
    tests: int = 1
    seed: int = 0

    def shares(self, counts: Counts) -> Floats:
        """Return f64[...,K], the shares of the answers among i64[...,C], corrected if possible."""
        return self._of_answers(estimate_shares(counts, self._rates()))

    def share_intervals(self, counts: Counts) -> tuple[Interval, ...]:
        """Return each answer's share of i64[C] with its Bayesian bootstrap interval."""
        drawn, known = self._resampled(counts[None])
        around = self._of_answers(estimate_shares(drawn, known))[:, 0]
        low, high = np.quantile(around, [0.025, 0.975], axis=0).tolist()
        values, total = self.shares(counts).tolist(), int(counts.sum())
        return tuple(
            Interval(value=value, low=min(first, value), high=max(last, value), count=total)
            for value, first, last in zip(values, low, high, strict=True)
        )

    def deviation(self, counts: Counts) -> Deviation:
        """Return how far one row i64[C] is from even."""
        return self._deviation(counts[None], pool=True)

    def mean_deviation(self, counts: Counts) -> Deviation:
        """Return the mean of the deviations of the rows of i64[A,C]; other rows might be drawn."""
        return self._deviation(counts, pool=False)

    def pooled_deviation(self, counts: Counts) -> Deviation:
        """Return how far the rows of i64[A,C] together are from even."""
        return self._deviation(counts, pool=True)

    def change(self, before: Counts, after: Counts) -> Interval:
        """Return by how much the mean deviation grows from i64[A,C] to i64[A,C].

        Raises:
            InputError: no row has an answer in both.
        """
        both = np.minimum(*(part[:, : self.answers].sum(1) for part in (before, after))) > 0
        if not both.any():
            raise InputError("A change needs an attribute that the probe could tell both times.")
        before, after = before[both], after[both]
        rates, rows = self._rates(), self._chosen_rows(len(before))[..., None]
        value, moved = 0.0, np.zeros(RESAMPLES)
        for use, (counts, sign) in enumerate(((before, -1), (after, 1))):
            drawn, known = self._resampled(counts, use=1 + use)
            value += sign * float(self._figure(counts, rates, pool=False))
            drawn = np.take_along_axis(drawn, rows, axis=1)
            moved += sign * self._figure(drawn, known, pool=False)
        return _around(value, moved, low=-1.0, count=len(before))

    def _deviation(self, counts: Counts, *, pool: bool) -> Deviation:
        if not counts.sum():
            raise InputError("A deviation needs a picture that the probe could tell.")
        found = float(self._figure(counts, self._rates(), pool=pool))
        chance = self._chance(counts, pool=pool)
        drawn, known = self._resampled(counts)
        drawn = np.take_along_axis(drawn, self._chosen_rows(len(counts))[..., None], axis=1)
        around = self._figure(drawn, known, pool=pool)
        most = 2 * (self.answers - 1) / self.answers**2  # when one answer has all
        as_much = int((chance >= found - 1e-9).sum())
        return Deviation(
            value=_around(found, around, high=most, count=int(counts.sum())),
            by_chance=float(chance.mean()),
            chance_high=float(np.quantile(chance, 0.95)),
            p_value=(1 + as_much) / (1 + len(chance)),
        )

    def _figure(self, counts: Counts | Floats, known: Floats | None, *, pool: bool) -> Floats:
        """Return the mean deviation of [...,A,C] counts, or that of all rows together."""
        if pool:
            counts = counts.sum(-2, keepdims=True)
        there = counts[..., : self.answers].sum(-1) > 0  # nothing is said of other rows
        found = deviation_of(self._of_answers(estimate_shares(counts, known)))
        return np.asarray((found * there).sum(-1) / np.maximum(there.sum(-1), 1))

    def _chance(self, counts: Counts, *, pool: bool) -> Floats:
        """Return the same figure of even models, f64[R], with as many pictures in each row."""
        generator, rates = self._generator(0), self._rates()
        draws = max(PERMUTATIONS, TESTS_FOR_EACH * self.tests) if len(counts) == 1 else RESAMPLES
        kinds = np.array(estimate_shares(counts, rates))
        rest = kinds[:, self.answers :].sum(-1, keepdims=True)  # each row's share of "neither"
        kinds[:, : self.answers] = (1 - rest) / self.answers
        known = self._uncertain_rates(generator, draws)
        pulled = kinds if known is None else kinds @ known[:, 0]
        drawn = _multinomial(generator, counts, np.broadcast_to(pulled, (draws, *counts.shape)))
        return self._figure(drawn, rates, pool=pool)

    def _resampled(self, counts: Counts, *, use: int = 1) -> tuple[Floats, Floats | None]:
        """Return f64[R,A,C] as other pictures might give them, and f64[R,1,T,C] other rates."""
        there = counts[:, : self.answers].sum(-1, keepdims=True) > 0  # the others stay as they are
        weights = counts + _PRIOR * there
        drawn = self._generator(use).standard_gamma(weights, size=(RESAMPLES, *counts.shape))
        return drawn, self._uncertain_rates(self._generator(8), RESAMPLES)

    def _of_answers(self, shares: Floats) -> Floats:
        kept = shares[..., : self.answers]
        total = kept.sum(-1, keepdims=True)
        return np.where(total > 1e-9, kept / np.maximum(total, 1e-9), 1 / self.answers)

    def _rates(self) -> Floats | None:
        """Return f64[T,C], how kinds of pictures are answered."""
        if self.labelled is None:
            return None
        smoothed = self.labelled + _PRIOR
        rest = 0 if self.silent is None else self.silent + _PRIOR
        return np.asarray(smoothed / (smoothed.sum(-1) + rest)[:, None])

    def _uncertain_rates(self, generator: np.random.Generator, draws: int) -> Floats | None:
        """Return f64[R,1,T,C], the same as other labelled pictures might have shown it."""
        if self.labelled is None:
            return None
        every = self.labelled + _PRIOR
        if self.silent is not None:
            every = np.concatenate([every, self.silent[:, None] + _PRIOR], axis=1)
        weights = generator.standard_gamma(every, size=(draws, *every.shape))
        rates = weights / weights.sum(-1, keepdims=True)
        return np.asarray(rates[:, None, :, : self.labelled.shape[1]])

    def _chosen_rows(self, rows: int) -> Counts:
        return self._generator(9).integers(rows, size=(RESAMPLES, rows))

    def _generator(self, use: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, use))


def effect_size(first: Floats, second: Floats, *, tests: int = 1, seed: int = 0) -> Effect:
    """Compare two sets of pictures by how near each picture is to each answer.

    Args:
        first: f64[N,K], a picture's score for an answer less the mean of the others.
        second: f64[M,K], the same of the pictures that it is compared with.
        tests: comparisons that are corrected together.
        seed: of the permutations.

    Raises:
        InputError: a set has no picture, or another number of answers.
    """
    if not len(first) or not len(second) or first.shape[1:] != second.shape[1:]:
        raise InputError(f"An effect needs two sets of pictures: {first.shape}, {second.shape}.")
    generator = np.random.default_rng((seed, 3))
    found = _d(first.mean(0), second.mean(0), np.concatenate([first, second]).std(0))
    toward = int(found.argmax())
    largest = _dealt(first, second, max(PERMUTATIONS, TESTS_FOR_EACH * tests), generator)
    as_much = (largest >= np.abs(found).max() - 1e-9).sum()
    around = _resampled_d(first[:, toward], second[:, toward], generator)
    low, high = np.quantile(around, [0.025, 0.975])
    value = float(found[toward])
    d = Interval(value=value, low=float(low), high=float(high), count=len(first) + len(second))
    return Effect(toward=toward, d=d, p_value=float((1 + as_much) / (1 + len(largest))))


def _d(first: Floats, second: Floats, spread: Floats) -> Floats:
    return np.where(spread > 1e-12, (first - second) / np.maximum(spread, 1e-12), 0.0)


def _dealt(first: Floats, second: Floats, times: int, generator: np.random.Generator) -> Floats:
    """Return f64[R], the largest |d| of any answer when pictures are dealt to the sets anew."""
    every = np.concatenate([first, second])
    total, spread, found = every.sum(0), every.std(0), list[Floats]()
    at_once = max(1, 10**6 // len(every))  # bounds the memory
    for start in range(0, times, at_once):
        order = generator.random((min(at_once, times - start), len(every)))
        dealt = order.argpartition(len(first) - 1, axis=1)[:, : len(first)]
        chosen = every[dealt].sum(1)
        d = _d(chosen / len(first), (total - chosen) / len(second), spread)
        found.append(np.abs(d).max(-1))
    return np.concatenate(found)


def _resampled_d(first: Floats, second: Floats, generator: np.random.Generator) -> Floats:
    one, other = (
        part[generator.integers(len(part), size=(RESAMPLES, len(part)))] for part in (first, second)
    )
    return _d(one.mean(1), other.mean(1), np.concatenate([one, other], axis=1).std(1))


def _multinomial(generator: np.random.Generator, counts: Counts, shares: Floats) -> Counts:
    """Draw i64[R,A,C], as many as i64[A,C] has in each row, by f64[R,A,C] scaled to sums of 1."""
    total = shares.sum(-1, keepdims=True)
    scaled = np.where(total > 0, shares / np.maximum(total, 1e-300), 1 / shares.shape[-1])
    return np.asarray(generator.multinomial(counts.sum(-1), scaled), dtype=np.int64)


def _around(
    value: float, drawn: Floats, *, low: float = 0.0, high: float = 1.0, count: int
) -> Interval:
    """Return a bootstrap interval that holds the percentiles and the basic one.

    The basic one takes off the bias that percentiles double where shares are even, but has no width
    where one answer has all.
    """
    first, last = np.quantile(drawn, [0.025, 0.975]).tolist()
    bounds = (min(first, 2 * value - last), max(last, 2 * value - first))
    return Interval(
        value=value,
        low=min(value, max(low, bounds[0])),
        high=max(value, min(high, bounds[1])),
        count=count,
    )
