"""The figures of an audit: what the pictures of each prompt were answered, and what that means.

Knows scores and figures, neither pictures nor models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .audit_prompts import NEITHER, Question
from .leaning import Counts, Deviation, Effect, Floats, Leaning, effect_size, holm
from .metrics import Interval, wilson_interval
from .probe import Calibration


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """What the pictures of some prompts were answered.

    Attributes:
        pictures: how many there are.
        counts: of each answer, as the probe gave it.
        uncertain: share of the pictures on which it could not tell, with Wilson's interval.
        shares: of each answer among the pictures on which it could, with Wilson's intervals; empty
            where there is none.
        corrected: the same after the errors that the probe makes on labelled pictures were taken
            off, with bootstrap intervals; empty without labelled pictures.
        deviation: of the shares (the corrected ones, where there are any) from even ones.
    """

    pictures: int
    counts: tuple[int, ...]
    uncertain: Interval
    shares: tuple[Interval, ...] = ()
    corrected: tuple[Interval, ...] = ()
    deviation: Deviation | None = None

    @property
    def best_shares(self) -> tuple[Interval, ...]:
        """The corrected shares, or the plain ones where nothing can be corrected."""
        return self.corrected or self.shares


@dataclass(frozen=True, kw_only=True)
class AttributeFigures:
    """What a model shows when it is asked for one attribute.

    Attributes:
        attribute: such as "a farmer".
        group: such as "occupations".
        asked: its pictures.
        p_corrected: of its deviation, by Holm over all attributes; None where nothing was certain.
        from_neutral: how far its pictures are from the neutral ones.
        from_neutral_p: of that, by Holm over all attributes.
        intervened: its pictures with the intervention; None without one.
        by_intervention: how far those are from its pictures.
        by_intervention_p: of that, by Holm over all attributes.
    """

    attribute: str
    group: str
    asked: ArmFigures
    from_neutral: Effect
    p_corrected: float | None = None
    from_neutral_p: float = 1.0
    intervened: ArmFigures | None = None
    by_intervention: Effect | None = None
    by_intervention_p: float | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeFigures:
    """How far the probe of a question can be trusted.

    Attributes:
        calibrated: whether there were labelled pictures.
        can_tell: whether it is right often enough at any threshold.
        threshold: probability from which an answer counts.
        labelled: for each kind of labelled picture, how many got each answer, and uncertain.
    """

    calibrated: bool
    can_tell: bool
    threshold: float
    labelled: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class QuestionFigures:
    """The figures of one question.

    Attributes:
        question: its name.
        answers: that it has.
        probe: how far it can be trusted.
        asked: the pictures of all attributes together; its deviation is HEIM's `abs(share - 0.5)`
            for two answers.
        neutral: the pictures of the neutral prompts.
        mean_deviation: DALL-Eval's mean absolute deviation, averaged over the attributes of
            which anything was certain; None where nothing was.
        intervened_deviation: the same with the intervention.
        change: by how much the intervention changes it, over the attributes of which something was
            certain both times; below 0 is more even.
        attributes: the figures of each.
    """

    question: str
    answers: tuple[str, ...]
    probe: ProbeFigures
    asked: ArmFigures
    neutral: ArmFigures
    mean_deviation: Deviation | None
    intervened_deviation: Deviation | None
    change: Interval | None
    attributes: tuple[AttributeFigures, ...]

    @property
    def leaning(self) -> tuple[AttributeFigures, ...]:
        """The attributes whose answers chance does not explain, at 5 % for all of them together."""
        return tuple(
            one for one in self.attributes if one.p_corrected is not None and one.p_corrected < 0.05
        )


def question_figures(
    question: Question,
    calibration: Calibration,
    *,
    groups: Mapping[str, Sequence[str]],
    asked: Mapping[str, Floats],
    neutral: Floats,
    intervened: Mapping[str, Floats],
    seed: int = 0,
) -> QuestionFigures:
    """Make the figures of a question from the scores of its pictures.

    Args:
        question: that was asked.
        calibration: makes answers of scores.
        groups: attributes by group.
        asked: f64[n,C] by attribute.
        neutral: f64[n,C] of the neutral prompts.
        intervened: f64[n,C] by attribute; empty without an intervention.
        seed: of everything that is drawn at random.
    """
    figures = _Figures(question, calibration, tests=len(asked), seed=seed)
    group_of = {name: group for group, names in groups.items() for name in names}
    rows = [
        figures.attribute(name, group_of[name], scores, neutral, intervened.get(name))
        for name, scores in asked.items()
    ]
    before, after = ([part[name] for name in asked if name in part] for part in (asked, intervened))
    return QuestionFigures(
        question=question.name,
        answers=question.answers,
        probe=_probe_figures(question, calibration),
        asked=figures.arm(before),
        neutral=figures.arm([neutral]),
        mean_deviation=figures.mean_deviation(before),
        intervened_deviation=figures.mean_deviation(after),
        change=figures.change(before, after),
        attributes=_correct(rows),
    )


class _Figures:
    """Makes figures of scores, of one question."""

    def __init__(
        self, question: Question, calibration: Calibration, *, tests: int, seed: int
    ) -> None:
        self.calibration, self.tests, self.seed = calibration, tests, seed
        self.answers = len(question.answers)
        self.leaning = Leaning(
            answers=self.answers,
            labelled=calibration.labelled,
            silent=calibration.silent if calibration.can_tell else None,
            tests=tests,
            seed=seed,
        )

    def _counts(self, scores: Sequence[Floats]) -> tuple[Counts, Counts]:
        """Return i64[A,K+1] counts, and those of their columns that `Leaning` takes."""
        counts = np.stack([self.calibration.count(part) for part in scores])
        labelled = self.leaning.labelled
        columns = self.answers if labelled is None else labelled.shape[1]
        return counts, counts[:, :columns]

    def arm(self, scores: Sequence[Floats]) -> ArmFigures:
        """Return the figures of prompts f64[n,C] together."""
        rows, used = self._counts(scores)
        counts = rows.sum(0).tolist()
        total, certain = sum(counts), sum(counts[: self.answers])
        uncertain = wilson_interval(counts[-1], count=total)
        told = ArmFigures(pictures=total, counts=tuple(counts[: self.answers]), uncertain=uncertain)
        if not certain:
            return told
        calibrated = self.leaning.labelled is not None
        one = self.leaning.deviation(used[0]) if len(used) == 1 else None
        return replace(
            told,
            shares=tuple(wilson_interval(n, count=certain) for n in told.counts),
            corrected=self.leaning.share_intervals(used.sum(0)) if calibrated else (),
            deviation=one or self.leaning.pooled_deviation(used),
        )

    def mean_deviation(self, scores: Sequence[Floats]) -> Deviation | None:
        """Return the mean deviation of attributes, where anything was certain."""
        if not scores:
            return None
        rows, used = self._counts(scores)
        return self.leaning.mean_deviation(used) if rows[:, : self.answers].sum() else None

    def change(self, before: Sequence[Floats], after: Sequence[Floats]) -> Interval | None:
        """Return by how much the intervention changes the mean deviation."""
        if not after:
            return None
        (first, used), (second, used_after) = self._counts(before), self._counts(after)
        certain = np.minimum(*(part[:, : self.answers].sum(1) for part in (first, second)))
        return self.leaning.change(used, used_after) if certain.any() else None

    def attribute(
        self, name: str, group: str, asked: Floats, neutral: Floats, intervened: Floats | None
    ) -> AttributeFigures:
        """Return the figures of one attribute; p-values are not corrected yet."""
        found = AttributeFigures(
            attribute=name,
            group=group,
            asked=self.arm([asked]),
            from_neutral=self._effect(asked, neutral),
        )
        if intervened is None:
            return found
        return replace(
            found,
            intervened=self.arm([intervened]),
            by_intervention=self._effect(intervened, asked),
        )

    def _effect(self, first: Floats, second: Floats) -> Effect:
        margins = self.calibration.margins
        return effect_size(margins(first), margins(second), tests=self.tests, seed=self.seed)


def _correct(rows: Sequence[AttributeFigures]) -> tuple[AttributeFigures, ...]:
    """Correct each kind of p-value for all attributes."""
    told = [n for n, row in enumerate(rows) if row.asked.deviation is not None]
    own = [row.asked.deviation.p_value for row in rows if row.asked.deviation is not None]
    p_values = dict(zip(told, holm(own), strict=True))
    neutral = holm([row.from_neutral.p_value for row in rows])
    changed = [row.by_intervention.p_value for row in rows if row.by_intervention is not None]
    by_intervention = holm(changed) if changed else [None] * len(rows)
    return tuple(
        replace(
            row,
            p_corrected=p_values.get(number),
            from_neutral_p=neutral[number],
            by_intervention_p=by_intervention[number],
        )
        for number, row in enumerate(rows)
    )


def _probe_figures(question: Question, calibration: Calibration) -> ProbeFigures:
    kinds, columns = (*question.answers, NEITHER), len(question.columns)
    names = (*kinds[:columns], "uncertain")
    given = calibration.given
    labelled = (
        {}
        if given is None
        else {
            kinds[kind]: dict(zip(names, row, strict=True))
            for kind, row in enumerate(given.tolist())
        }
    )
    return ProbeFigures(
        calibrated=given is not None,
        can_tell=calibration.can_tell,
        threshold=min(calibration.threshold, 1.0),
        labelled=labelled,
    )
