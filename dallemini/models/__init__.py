"""The networks of the DALL-E Mini family as torch modules, one file each.

They know tensors and configurations, not files or prompts.
"""

from __future__ import annotations

from .clip import CLIP, CLIPConfig
from .decoding import DecoderCache, EncoderOutput
from .static import StaticCache
from .transformer import Transformer, TransformerConfig
from .vqgan import VQGAN, VQGANConfig

__all__ = [
    "CLIP",
    "VQGAN",
    "CLIPConfig",
    "DecoderCache",
    "EncoderOutput",
    "StaticCache",
    "Transformer",
    "TransformerConfig",
    "VQGANConfig",
]
