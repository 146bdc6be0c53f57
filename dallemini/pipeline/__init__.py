"""Prompts in, pictures out: the pipeline, how it finds its parts, and what a call returns."""

from __future__ import annotations

from ..models.image_tokenizer import ImageTokenizer
from .enlarging import ImageUpscaler, enlarge, enlarge_file
from .outputs import GenerationOutput, GenerationStep
from .pipeline import Pipeline
from .pixels import ImageTokenizerLike

__all__ = [
    "GenerationOutput",
    "GenerationStep",
    "ImageTokenizer",
    "ImageTokenizerLike",
    "ImageUpscaler",
    "Pipeline",
    "enlarge",
    "enlarge_file",
]
