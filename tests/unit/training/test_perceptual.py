"""Distances between features of EfficientNet-Lite0, from the packages of the extra `train`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dallemini.evaluation.efficientnet import EfficientNetFeatures
from dallemini.training.perceptual import feature_distance

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def eye() -> EfficientNetFeatures:
    return EfficientNetFeatures()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_distance_passes_gradients_to_the_picture(
    eye: EfficientNetFeatures, pictures: Tensor
) -> None:
    image = pictures.clone().requires_grad_()
    feature_distance(eye(image), eye(pictures.flip(0))).backward()
    assert image.grad is not None
    assert bool(image.grad.any())


def test_distance_is_zero_for_equal_pictures_and_grows_with_noise(
    eye: EfficientNetFeatures, pictures: Tensor
) -> None:
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = eye(pictures)
        distances = [
            float(feature_distance(eye((pictures + amount * noise).clamp(0, 1)), features))
            for amount in (0.0, 0.02, 0.2)
        ]
    assert distances[0] == 0.0
    assert distances[0] < distances[1] < distances[2]
