"""Measuring a model: how near its pictures are to real ones, and what it makes of its captions.

`evaluate` measures a pipeline on captions and writes a report; the measures and the feature spaces
can be used alone. `audit` measures what a pipeline leans towards when nobody asked.
"""

from __future__ import annotations

from .audit import AuditConfig, audit, read_labelled
from .audit_figures import ArmFigures, AttributeFigures, QuestionFigures
from .audit_prompts import AuditPrompts, Question
from .audit_report import AuditReport
from .evaluate import EvaluationConfig, evaluate, picture_size
from .features import CLIPSpace, EfficientNetSpace, FeatureSpace, InceptionSpace, feature_space
from .leaning import Deviation, Effect, Leaning, effect_size, holm
from .metrics import (
    CodebookUse,
    Interval,
    Retrieval,
    codebook_use,
    frechet_distance,
    mean_interval,
    psnr,
    rank_of,
    retrieval,
    token_nats,
    wilson_interval,
)
from .probe import Calibration, Probe, ScorerProbe, calibrate
from .reading import CaptionedPicture, PictureSource, read_captions
from .report import DrawnFigures, EvaluationReport, LikelihoodFigures, ReconstructionFigures

__all__ = [
    "ArmFigures",
    "AttributeFigures",
    "AuditConfig",
    "AuditPrompts",
    "AuditReport",
    "CLIPSpace",
    "Calibration",
    "CaptionedPicture",
    "CodebookUse",
    "Deviation",
    "DrawnFigures",
    "Effect",
    "EfficientNetSpace",
    "EvaluationConfig",
    "EvaluationReport",
    "FeatureSpace",
    "InceptionSpace",
    "Interval",
    "Leaning",
    "LikelihoodFigures",
    "PictureSource",
    "Probe",
    "Question",
    "QuestionFigures",
    "ReconstructionFigures",
    "Retrieval",
    "ScorerProbe",
    "audit",
    "calibrate",
    "codebook_use",
    "effect_size",
    "evaluate",
    "feature_space",
    "frechet_distance",
    "holm",
    "mean_interval",
    "picture_size",
    "psnr",
    "rank_of",
    "read_captions",
    "read_labelled",
    "retrieval",
    "token_nats",
    "wilson_interval",
]
