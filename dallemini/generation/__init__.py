"""Drawing image tokens: settings, samplers, and the one decoding loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_asked
from .blend import Blend
from .config import GenerationConfig, GenerationOverrides

if TYPE_CHECKING:
    from .canvas import Canvas
    from .drawing import Drawing
    from .likelihood import text_likelihood
    from .lookahead import Particles
    from .loop import generate_tokens
    from .memory import MemoryPrediction, predict_memory
    from .sampling import Sampler, SamplerState, TopSampler, filter_logits, make_generators
    from .slot import Slot, Tally
    from .slots import Slots
    from .watermark import Watermark

__all__ = [
    "Blend",
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
    "Tally",
    "TopSampler",
    "Watermark",
    "filter_logits",
    "generate_tokens",
    "make_generators",
    "predict_memory",
    "text_likelihood",
]

_PLACES = {
    "Canvas": "canvas",
    "Drawing": "drawing",
    "MemoryPrediction": "memory",
    "Particles": "lookahead",
    "Sampler": "sampling",
    "SamplerState": "sampling",
    "Slot": "slot",
    "Slots": "slots",
    "Tally": "slot",
    "TopSampler": "sampling",
    "Watermark": "watermark",
    "filter_logits": "sampling",
    "generate_tokens": "loop",
    "make_generators": "sampling",
    "predict_memory": "memory",
    "text_likelihood": "likelihood",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
