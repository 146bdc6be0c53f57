"""The former place of `dallemini.text.tokenizer`."""

from __future__ import annotations

from .text.tokenizer import TextTokens, Tokenizer, TokenizerConfig

__all__ = ["TextTokens", "Tokenizer", "TokenizerConfig"]
