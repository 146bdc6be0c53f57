"""Prompts on their way to ids: the clean-up, the tokenizers of the transformer and of CLIP."""

from __future__ import annotations

from .knowledge import Knowledge
from .normalizer import HashtagSplitter, TextNormalizer
from .tokenizer import TextTokens, Tokenizer, TokenizerConfig

__all__ = [
    "HashtagSplitter",
    "Knowledge",
    "TextNormalizer",
    "TextTokens",
    "Tokenizer",
    "TokenizerConfig",
]
