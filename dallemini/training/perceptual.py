"""Feature distances for training the VQGAN, in a network that has seen photographs.

Source of the idea: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(Zhang et al. 2018, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..evaluation.efficientnet import BLOCKS, CHANNELS, EfficientNetFeatures

__all__ = ["BLOCKS", "CHANNELS", "EfficientNetFeatures", "feature_distance"]


def feature_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Mean squared distance between features normalised over channels, averaged over blocks."""
    total = torch.zeros((), device=first[0].device, dtype=torch.float32)
    for left, right in zip(first, second, strict=True):
        difference = nn.functional.normalize(left.float()) - nn.functional.normalize(right.float())
        total = total + difference.square().sum(1).mean()
    return total / len(first)
