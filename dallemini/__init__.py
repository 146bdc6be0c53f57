"""Text to image with the DALL-E Mini family of models, in PyTorch.

Example:
    >>> from dallemini import Pipeline
    >>> pipe = Pipeline.from_pretrained()
    >>> pipe("a red apple", seed=0, progress=False).images[0].size
    (320, 320)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._lazy import load_when_asked
from ._version import __version__

if TYPE_CHECKING:
    from .generation.blend import Blend
    from .generation.config import GenerationConfig
    from .generation.watermark import Watermark
    from .images import image_to_tensor
    from .models.clip import CLIP
    from .models.image_tokenizer import ImageTokenizer
    from .models.transformer import Transformer
    from .models.upscaler import Upscaler
    from .models.vqgan import VQGAN
    from .pipeline.detecting import Detection
    from .pipeline.edits import Inpaint, Outpaint, Vary
    from .pipeline.outputs import GenerationOutput, GenerationStep
    from .pipeline.pipeline import Pipeline
    from .pipeline.progress import GenerationProgress
    from .pipeline.signing import C2PASigner
    from .safety import (
        PictureSafetyChecker,
        SafetyChecker,
        SafetyCheckers,
        SafetyFlag,
        WordSafetyChecker,
    )
    from .scorer import CLIPScorer
    from .text.tokenizer import TextTokens, Tokenizer

__all__ = [
    "CLIP",
    "VQGAN",
    "Blend",
    "C2PASigner",
    "CLIPScorer",
    "Detection",
    "GenerationConfig",
    "GenerationOutput",
    "GenerationProgress",
    "GenerationStep",
    "ImageTokenizer",
    "Inpaint",
    "Outpaint",
    "PictureSafetyChecker",
    "Pipeline",
    "SafetyChecker",
    "SafetyCheckers",
    "SafetyFlag",
    "TextTokens",
    "Tokenizer",
    "Transformer",
    "Upscaler",
    "Vary",
    "Watermark",
    "WordSafetyChecker",
    "__version__",
    "image_to_tensor",
]

_PLACES = {
    "C2PASigner": "pipeline.signing",
    "CLIP": "models.clip",
    "VQGAN": "models.vqgan",
    "Blend": "generation.blend",
    "CLIPScorer": "scorer",
    "Detection": "pipeline.detecting",
    "GenerationConfig": "generation.config",
    "GenerationOutput": "pipeline.outputs",
    "GenerationProgress": "pipeline.progress",
    "GenerationStep": "pipeline.outputs",
    "ImageTokenizer": "models.image_tokenizer",
    "Inpaint": "pipeline.edits",
    "Outpaint": "pipeline.edits",
    "PictureSafetyChecker": "safety",
    "Pipeline": "pipeline.pipeline",
    "SafetyChecker": "safety",
    "SafetyCheckers": "safety",
    "SafetyFlag": "safety",
    "TextTokens": "text.tokenizer",
    "Tokenizer": "text.tokenizer",
    "Transformer": "models.transformer",
    "Upscaler": "models.upscaler",
    "Vary": "pipeline.edits",
    "Watermark": "generation.watermark",
    "WordSafetyChecker": "safety",
    "image_to_tensor": "images",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
