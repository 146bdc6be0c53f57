"""The networks of the DALL-E Mini family as torch modules, one file each.

They know tensors and configurations, not files or prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import load_when_asked
from .clip_config import CLIPConfig
from .transformer_config import TransformerConfig
from .vqgan_config import VQGANConfig

if TYPE_CHECKING:
    from .cache import DecoderCache, EncoderOutput
    from .clip import CLIP
    from .compiled import StaticCache
    from .dvae import DVAE, DiscreteVAE, DiscreteVAEConfig, DVAEConfig
    from .image_tokenizer import ImageTokenizer
    from .tokenizers import IMAGE_TOKENIZERS
    from .transformer import Transformer
    from .upscaler import Upscaler, UpscalerConfig
    from .vqgan import VQGAN

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

_PLACES = {
    "CLIP": "clip",
    "DVAE": "dvae",
    "DVAEConfig": "dvae",
    "DecoderCache": "cache",
    "DiscreteVAE": "dvae",
    "DiscreteVAEConfig": "dvae",
    "EncoderOutput": "cache",
    "IMAGE_TOKENIZERS": "tokenizers",
    "ImageTokenizer": "image_tokenizer",
    "StaticCache": "compiled",
    "Transformer": "transformer",
    "Upscaler": "upscaler",
    "UpscalerConfig": "upscaler",
    "VQGAN": "vqgan",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
