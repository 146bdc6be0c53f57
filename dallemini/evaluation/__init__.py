"""Measuring a model: how near its pictures are to real ones, and what it makes of its captions.

`evaluate` measures a pipeline on captions and writes a report; the measures and the feature spaces
can be used alone.
"""

from __future__ import annotations

from .evaluate import EvaluationConfig, evaluate, picture_size
from .features import CLIPSpace, EfficientNetSpace, FeatureSpace, InceptionSpace, feature_space
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
from .reading import CaptionedPicture, PictureSource, read_captions
from .report import DrawnFigures, EvaluationReport, LikelihoodFigures, ReconstructionFigures

__all__ = [
    "CLIPSpace",
    "CaptionedPicture",
    "CodebookUse",
    "DrawnFigures",
    "EfficientNetSpace",
    "EvaluationConfig",
    "EvaluationReport",
    "FeatureSpace",
    "InceptionSpace",
    "Interval",
    "LikelihoodFigures",
    "PictureSource",
    "ReconstructionFigures",
    "Retrieval",
    "codebook_use",
    "evaluate",
    "feature_space",
    "frechet_distance",
    "mean_interval",
    "picture_size",
    "psnr",
    "rank_of",
    "read_captions",
    "retrieval",
    "token_nats",
    "wilson_interval",
]
