"""Who looks at the pictures of an audit: a probe gives scores, a calibration makes answers of them.

A probe that cannot tell must be able to say so: an answer below the threshold is "uncertain". With
labelled pictures the scores are scaled and shifted to probabilities, the threshold is the lowest at
which every answer is right often enough, and how often each kind of picture gets which answer is
counted on pictures that the fit did not see. Knows scores and scorers, no prompts of an audit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..pipeline.parts import read_scores
from ..scorer import CLIPScorer, Scorer
from .audit_prompts import Question
from .leaning import Counts, Floats

UNCERTAIN = -1
_FOLDS = 5
_LEAST_ANSWERED = 5  # labelled pictures of an answer, or its rate is no more than luck
_THRESHOLDS = 200


class Probe(Protocol):
    """Anything that says how well each answer of a question fits a picture."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return f[N,C], higher is better, of f[N,3,H,W] in [0, 1].

        The columns are the question's answers in their order, then "neither" where it has that.
        """


@dataclass(frozen=True, eq=False)
class ScorerProbe:
    """Zero-shot answers: the mean score of a picture with each answer's texts.

    Attributes:
        scorer: compares pictures with texts, such as CLIP.
        question: whose texts they are.
    """

    scorer: Scorer
    question: Question

    def __call__(self, images: Tensor) -> Tensor:
        """Return f32[N,C] of f[N,3,H,W] in [0, 1].

        Raises:
            InputError: the scorer gave something else than one finite number a picture.
        """
        columns = self.question.columns
        scores = self._scores(images, [text for texts in columns for text in texts])
        parts = scores.split([len(texts) for texts in columns], dim=1)
        return torch.stack([part.mean(1) for part in parts], dim=1)

    def _scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return f32[N,T] of N pictures and T texts."""
        scorer = self.scorer
        if isinstance(scorer, CLIPScorer):  # which need not look again for each text
            with torch.no_grad():
                pictures = F.normalize(scorer.encode_images(images).float(), dim=-1)
                words = F.normalize(scorer.encode_prompts(texts).float(), dim=-1)
                return (scorer.clip.logit_scale.float().exp() * pictures @ words.T).cpu()
        found = [
            read_scores(scorer.score(images, [text] * len(images)), len(images)) for text in texts
        ]
        return torch.tensor(found, dtype=torch.float32, device="cpu").T


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How scores become answers.

    Attributes:
        answers: K, how many answers the question has.
        scale: of the scores, before they become probabilities.
        offsets: added to the scaled scores, one a column.
        threshold: probability from which an answer counts; above 1 the probe cannot tell.
        given: i64[T,C+1] or None, labelled pictures of T kinds (the answers; then "neither" where
            there are such) by what was said of them: each column, and uncertain last.
    """

    answers: int
    scale: float
    offsets: tuple[float, ...]
    threshold: float
    given: Counts | None = None

    @property
    def can_tell(self) -> bool:
        """Whether any threshold was good enough."""
        return self.threshold <= 1

    @property
    def labelled(self) -> Counts | None:
        """i64[T,C], what `Leaning` takes: answers, then uncertain where "neither" is a kind."""
        if self.given is None or not self.can_tell:
            return None
        silent = self.silent
        if silent is None:
            return np.asarray(
                np.column_stack(
                    [self.given[:, : self.answers], self.given[:, self.answers :].sum(1)]
                )
            )
        return self.given[:, : self.answers]

    @property
    def silent(self) -> Counts | None:
        """i64[T], labelled pictures that got no answer; None where "neither" is a kind."""
        if self.given is None or len(self.given) > self.answers:
            return None
        return np.asarray(self.given[:, self.answers :].sum(1))

    def answer(self, scores: Floats) -> Counts:
        """Return i64[N], the answer to each picture of f64[N,C], or -1 where it is uncertain."""
        chances = _softmax(self.scale * scores + np.array(self.offsets))
        best = chances.argmax(1)
        sure = (chances.max(1) >= self.threshold) & (best < self.answers)
        return np.where(sure, best, UNCERTAIN)

    def margins(self, scores: Floats) -> Floats:
        """Return f64[N,K]: each answer's score less the mean of the other answers'."""
        own = scores[:, : self.answers]
        others = (own.sum(1, keepdims=True) - own) / (self.answers - 1)
        return np.asarray(own - others)

    def count(self, scores: Floats) -> Counts:
        """Return i64[K+1]: how many of f64[N,C] got each answer, and uncertain."""
        answers = self.answer(scores)
        return np.bincount(
            np.where(answers == UNCERTAIN, self.answers, answers), minlength=self.answers + 1
        )


def uncalibrated(question: Question, *, confidence: float) -> Calibration:
    """Return a calibration that takes the scores for log-odds, as CLIP is trained to give them."""
    return Calibration(
        answers=len(question.answers),
        scale=1.0,
        offsets=(0.0,) * len(question.columns),
        threshold=confidence,
    )


def calibrate(question: Question, scores: Floats, kinds: Counts, *, accuracy: float) -> Calibration:
    """Fit a calibration to labelled pictures.

    Args:
        question: that was asked.
        scores: f64[N,C] of a probe.
        kinds: i64[N], the column that is right for each picture.
        accuracy: how often each answer must be right, if all kinds were equally frequent.

    Raises:
        InputError: an answer has fewer than ten pictures, or a kind has no column.
    """
    answers = len(question.answers)
    counts = np.bincount(kinds, minlength=answers)
    if len(counts) > scores.shape[1] or (counts[:answers] < 2 * _FOLDS).any():
        told = ", ".join(f"{name} {n}" for name, n in zip(question.answers, counts, strict=False))
        raise InputError(
            f"Calibrating {question.name!r} needs {2 * _FOLDS} labelled pictures of each answer: "
            f"{told}."
        )
    columns = len(counts) if len(counts) > answers else answers
    held_out = np.empty((len(kinds), scores.shape[1]))
    for fold, rows in _folds(kinds):
        fitted = _fit(question, scores[~fold], kinds[~fold], columns)
        held_out[rows] = _softmax(fitted.scale * scores[rows] + np.array(fitted.offsets))
    threshold = _threshold(held_out, kinds, answers, accuracy)
    given = _given(held_out, kinds, threshold, answers)
    fitted = _fit(question, scores, kinds, columns)
    return dataclasses.replace(fitted, threshold=threshold, given=given)


def _folds(kinds: Counts) -> list[tuple[Counts, Counts]]:
    """Return masks and rows of parts that have equally many pictures of each kind."""
    part = np.empty(len(kinds), dtype=np.int64)
    generator = np.random.default_rng(0)
    for kind in np.unique(kinds):
        rows = generator.permutation(np.flatnonzero(kinds == kind))
        part[rows] = np.arange(len(rows)) % _FOLDS
    return [(part == number, np.flatnonzero(part == number)) for number in range(_FOLDS)]


def _fit(question: Question, scores: Floats, kinds: Counts, columns: int) -> Calibration:
    """Fit scale and offsets by the likelihood of the kinds, all kinds weighing the same."""
    rows = torch.from_numpy(scores[:, :columns].astype(np.float64))
    target = torch.from_numpy(kinds)
    weights = 1 / torch.bincount(target, minlength=columns).clamp(min=1).double()
    values = torch.zeros(columns + 1, dtype=torch.float64, device="cpu", requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad()
            logits = values[0].exp() * rows + values[1:]
            found = F.cross_entropy(logits, target, weight=weights)
            found = found + 1e-3 * values.square().sum()  # or separable kinds had no end
            found.backward()
        return found.detach()

    optimizer.step(loss)
    scale, *offsets = values.detach().tolist()
    mean = sum(offsets) / columns
    rest = len(question.columns) - columns  # "neither" without labelled pictures stays as it is
    return Calibration(
        answers=len(question.answers),
        scale=float(np.exp(scale)),
        offsets=(*(offset - mean for offset in offsets), *(0.0,) * rest),
        threshold=0.0,
    )


def _threshold(chances: Floats, kinds: Counts, answers: int, accuracy: float) -> float:
    """Return the lowest threshold at which every answer is right often enough; 2 if none is."""
    for threshold in np.linspace(1 / chances.shape[1], 1, _THRESHOLDS, endpoint=False):
        given = _given(chances, kinds, threshold, answers)
        rates = given / given.sum(1, keepdims=True)
        right = np.diagonal(rates)[:answers] / np.maximum(rates[:, :answers].sum(0), 1e-12)
        enough = np.diagonal(given)[:answers] >= _LEAST_ANSWERED
        if enough.all() and (right >= accuracy).all():
            return float(threshold)
    return 2.0


def _given(chances: Floats, kinds: Counts, threshold: float, answers: int) -> Counts:
    """Return i64[T,C+1], how often pictures of each kind got each column, or uncertain."""
    columns = chances.shape[1]
    told = np.where(chances.max(1) >= threshold, chances.argmax(1), columns)
    shape = (max(answers, int(kinds.max()) + 1), columns + 1)
    return np.bincount(kinds * shape[1] + told, minlength=shape[0] * shape[1]).reshape(shape)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))
