"""The networks of the DALL-E Mini family as torch modules, one file each.

They know tensors and configurations, not files or prompts.
"""

from __future__ import annotations

from .cache import DecoderCache, EncoderOutput
from .clip import CLIP, CLIPConfig
from .compiled import StaticCache
from .dvae import DVAE, DiscreteVAE, DiscreteVAEConfig, DVAEConfig
from .image_tokenizer import ImageTokenizer
from .tokenizers import IMAGE_TOKENIZERS
from .transformer import Transformer, TransformerConfig
from .upscaler import Upscaler, UpscalerConfig
from .vqgan import VQGAN, VQGANConfig

__all__ = [
    "CLIP",
    "DVAE",
    "IMAGE_TOKENIZERS",
    "VQGAN",
    "CLIPConfig",
    "DVAEConfig",
    "DecoderCache",
    "DiscreteVAE",
    "DiscreteVAEConfig",
    "EncoderOutput",
    "ImageTokenizer",
    "StaticCache",
    "Transformer",
    "TransformerConfig",
    "Upscaler",
    "UpscalerConfig",
    "VQGANConfig",
]
