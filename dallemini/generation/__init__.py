"""Drawing image tokens: settings, samplers, and the one decoding loop."""

from __future__ import annotations

from .config import GenerationConfig, GenerationOverrides
from .loop import generate_tokens
from .memory import MemoryPrediction, predict_memory
from .sampling import Sampler, TopSampler, filter_logits, make_generators

__all__ = [
    "GenerationConfig",
    "GenerationOverrides",
    "MemoryPrediction",
    "Sampler",
    "TopSampler",
    "filter_logits",
    "generate_tokens",
    "make_generators",
    "predict_memory",
]
