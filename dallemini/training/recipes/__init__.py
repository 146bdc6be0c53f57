"""Whole training runs, from files to a saved model: one configuration and one function a part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import load_when_asked
from .config import CLIPTrainingConfig, TransformerTrainingConfig, VQGANTrainingConfig

if TYPE_CHECKING:
    from .clip import train_clip
    from .from_checkpoint import write_model
    from .transformer import train_transformer
    from .vqgan import train_vqgan

__all__ = [
    "CLIPTrainingConfig",
    "TransformerTrainingConfig",
    "VQGANTrainingConfig",
    "train_clip",
    "train_transformer",
    "train_vqgan",
    "write_model",
]

_PLACES = {
    "train_clip": "clip",
    "train_transformer": "transformer",
    "train_vqgan": "vqgan",
    "write_model": "from_checkpoint",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_asked(__name__, _PLACES)
