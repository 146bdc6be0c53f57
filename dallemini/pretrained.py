"""The former place of `dallemini.models.pretrained`."""

from __future__ import annotations

from .models.pretrained import Pretrained, PretrainedModule

__all__ = ["Pretrained", "PretrainedModule"]
