"""Measuring a model: how near its pictures are to real ones, and what it makes of its captions.

`evaluate` measures a pipeline on captions and writes a report; the measures and the feature spaces
can be used alone. `audit` measures what a pipeline leans towards when nobody asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_asked
from .config import EvaluationConfig

if TYPE_CHECKING:
    from .audit_figures import ArmFigures, AttributeFigures, QuestionFigures
    from .audit_prompts import AuditPrompts, Question
    from .audit_report import AuditReport
    from .auditing import AuditConfig, audit, read_labelled
    from .features import CLIPSpace, EfficientNetSpace, FeatureSpace, InceptionSpace, feature_space
    from .leaning import Deviation, Effect, Leaning, effect_size, holm
    from .measuring import evaluate, picture_size
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

_PLACES = {
    "ArmFigures": "audit_figures",
    "AttributeFigures": "audit_figures",
    "AuditConfig": "auditing",
    "AuditPrompts": "audit_prompts",
    "AuditReport": "audit_report",
    "CLIPSpace": "features",
    "Calibration": "probe",
    "CaptionedPicture": "reading",
    "CodebookUse": "metrics",
    "Deviation": "leaning",
    "DrawnFigures": "report",
    "Effect": "leaning",
    "EfficientNetSpace": "features",
    "EvaluationReport": "report",
    "FeatureSpace": "features",
    "InceptionSpace": "features",
    "Interval": "metrics",
    "Leaning": "leaning",
    "LikelihoodFigures": "report",
    "PictureSource": "reading",
    "Probe": "probe",
    "Question": "audit_prompts",
    "QuestionFigures": "audit_figures",
    "ReconstructionFigures": "report",
    "Retrieval": "metrics",
    "ScorerProbe": "probe",
    "audit": "auditing",
    "calibrate": "probe",
    "codebook_use": "metrics",
    "effect_size": "leaning",
    "evaluate": "measuring",
    "feature_space": "features",
    "frechet_distance": "metrics",
    "holm": "leaning",
    "mean_interval": "metrics",
    "picture_size": "measuring",
    "psnr": "metrics",
    "rank_of": "metrics",
    "read_captions": "reading",
    "read_labelled": "auditing",
    "retrieval": "metrics",
    "token_nats": "metrics",
    "wilson_interval": "metrics",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
