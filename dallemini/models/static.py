"""The former place of `dallemini.models.compiled`."""

from __future__ import annotations

from .compiled import CompiledStep, StaticCache

__all__ = ["CompiledStep", "StaticCache"]
