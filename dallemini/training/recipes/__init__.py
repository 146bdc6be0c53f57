"""Whole training runs, from files to a saved model: one configuration and one function a part."""

from __future__ import annotations

from .clip import CLIPTrainingConfig, train_clip
from .from_checkpoint import write_model
from .transformer import TransformerTrainingConfig, train_transformer
from .vqgan import VQGANTrainingConfig, train_vqgan

__all__ = [
    "CLIPTrainingConfig",
    "TransformerTrainingConfig",
    "VQGANTrainingConfig",
    "train_clip",
    "train_transformer",
    "train_vqgan",
    "write_model",
]
