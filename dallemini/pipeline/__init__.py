"""Prompts in, pictures out: the pipeline, how it finds its parts, and what a call returns."""

from __future__ import annotations

from .enlarging import ImageUpscaler, enlarge, enlarge_file
from .outputs import GenerationOutput, GenerationStep
from .parts import ImageTokenizer
from .pipeline import Pipeline

__all__ = [
    "GenerationOutput",
    "GenerationStep",
    "ImageTokenizer",
    "ImageUpscaler",
    "Pipeline",
    "enlarge",
    "enlarge_file",
]
