"""Text to image with the DALL-E Mini family of models, in PyTorch.

Example:
    >>> from dallemini import Pipeline
    >>> pipe = Pipeline.from_pretrained()
    >>> pipe("a red apple", seed=0, progress=False).images[0].size
    (160, 160)
"""

from __future__ import annotations

from ._version import __version__
from .generation.config import GenerationConfig
from .models.clip import CLIP
from .models.transformer import Transformer
from .models.upscaler import Upscaler
from .models.vqgan import VQGAN
from .pipeline.outputs import GenerationOutput, GenerationStep
from .pipeline.pipeline import Pipeline
from .scorer import CLIPScorer
from .text.tokenizer import TextTokens, Tokenizer

__all__ = [
    "CLIP",
    "VQGAN",
    "CLIPScorer",
    "GenerationConfig",
    "GenerationOutput",
    "GenerationStep",
    "Pipeline",
    "TextTokens",
    "Tokenizer",
    "Transformer",
    "Upscaler",
    "__version__",
]
