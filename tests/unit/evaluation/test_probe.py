"""Answers of a probe: right often enough, or uncertain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dallemini.errors import InputError
from dallemini.evaluation import Question, ScorerProbe, calibrate
from dallemini.evaluation.leaning import Counts, Floats
from dallemini.evaluation.probe import UNCERTAIN, uncalibrated
from dallemini.testing import tiny_clip_scorer

TWO = Question(name="gender", answers=("woman", "man"), texts=(("a woman", "her"), ("a man",)))
THREE = Question(
    name="gender", answers=("woman", "man"), texts=(("a woman",), ("a man",)), neither=("a room",)
)


def scored(apart: float, *, kinds: int = 2, each: int = 150) -> tuple[Floats, Counts]:
    """Scores of pictures, right by so many deviations, with a shift that must be found."""
    generator = np.random.default_rng(0)
    right = np.repeat(np.arange(kinds), each)
    scores = generator.normal(size=(len(right), kinds))
    scores[np.arange(len(right)), right] += apart
    scores[:, 0] += 4.0  # the scorer likes the first word
    return 10 * scores, right


def test_a_probe_gives_the_mean_score_of_each_answers_texts() -> None:
    scorer, images = tiny_clip_scorer(), torch.rand(3, 3, 16, 16)
    found = ScorerProbe(scorer, THREE)(images)
    assert found.shape == (3, 3)
    torch.testing.assert_close(found[:, 2], scorer.score(images, ["a room"] * 3))
    both = [scorer.score(images, [text] * 3) for text in TWO.texts[0]]
    torch.testing.assert_close(ScorerProbe(scorer, TWO)(images)[:, 0], torch.stack(both).mean(0))


def test_without_labels_an_answer_counts_from_a_probability_on() -> None:
    calibration = uncalibrated(THREE, confidence=0.8)
    scores = np.array([[2.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 9.0], [0.0, 3.0, 0.0]])
    assert calibration.answer(scores).tolist() == [UNCERTAIN, UNCERTAIN, UNCERTAIN, 1]
    assert calibration.count(scores).tolist() == [0, 1, 3]
    assert calibration.labelled is None
    np.testing.assert_allclose(calibration.margins(scores)[0], [2.0, -2.0])


def test_calibration_finds_shift_and_scale_and_is_right_as_often_as_asked() -> None:
    scores, kinds = scored(3.0)
    calibration = calibrate(TWO, scores, kinds, accuracy=0.95)
    assert calibration.can_tell
    answers = calibration.answer(scores)
    sure = answers != UNCERTAIN
    assert (answers[sure] == kinds[sure]).mean() > 0.94
    assert sure.mean() > 0.5
    assert calibration.given is not None
    assert calibration.given.sum(1).tolist() == [150, 150]
    assert calibration.labelled is not None
    assert calibration.labelled.shape == (2, 2)
    assert calibration.silent is not None
    fewer = calibrate(TWO, scores, kinds, accuracy=0.995)
    assert (fewer.answer(scores) == UNCERTAIN).sum() > (~sure).sum()


def test_a_probe_that_sees_nothing_cannot_tell() -> None:
    scores, kinds = scored(0.0)
    calibration = calibrate(TWO, scores, kinds, accuracy=0.9)
    assert not calibration.can_tell
    assert (calibration.answer(scores) == UNCERTAIN).all()
    assert calibration.labelled is None


def test_pictures_of_neither_kind_are_learnt_too() -> None:
    scores, kinds = scored(4.0, kinds=3)
    calibration = calibrate(THREE, scores, kinds, accuracy=0.9)
    assert calibration.labelled is not None
    assert calibration.labelled.shape == (3, 3)  # answers, and uncertain
    assert calibration.silent is None
    assert (calibration.answer(scores[kinds == 2]) == UNCERTAIN).mean() > 0.8


def test_calibration_needs_pictures_of_every_answer() -> None:
    scores, kinds = scored(3.0, each=9)
    with pytest.raises(InputError, match="needs 10 labelled pictures of each answer: woman 9, man"):
        calibrate(TWO, scores, kinds, accuracy=0.9)
