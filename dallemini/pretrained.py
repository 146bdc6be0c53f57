"""The former place of `dallemini.models.pretrained`."""

from __future__ import annotations

from .models.pretrained import Loadable, PretrainedModule

Pretrained = Loadable

__all__ = ["Pretrained", "PretrainedModule"]
