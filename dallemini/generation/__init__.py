"""Drawing image tokens: settings, samplers, and the one decoding loop."""

from __future__ import annotations

from .canvas import Canvas
from .config import GenerationConfig, GenerationOverrides
from .drawing import Drawing
from .likelihood import text_likelihood
from .lookahead import Particles
from .loop import generate_tokens
from .memory import MemoryPrediction, predict_memory
from .sampling import Sampler, SamplerState, TopSampler, filter_logits, make_generators
from .slots import Slot, Slots

__all__ = [
    "Canvas",
    "Drawing",
    "GenerationConfig",
    "GenerationOverrides",
    "MemoryPrediction",
    "Particles",
    "Sampler",
    "SamplerState",
    "Slot",
    "Slots",
    "TopSampler",
    "filter_logits",
    "generate_tokens",
    "make_generators",
    "predict_memory",
    "text_likelihood",
]
