"""Feature spaces by name and of one's own; each refuses what it cannot read."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dallemini.errors import CheckpointError, ConfigError, InputError, MissingFileError
from dallemini.evaluation import (
    CLIPSpace,
    EfficientNetSpace,
    FeatureSpace,
    InceptionSpace,
    feature_space,
)
from dallemini.evaluation.config import EvaluationConfig
from dallemini.evaluation.features import embed
from dallemini.testing import tiny_clip_scorer


class Stand(nn.Module):
    """Called as the Inception file is; the means of the channels, 2,048 times over."""

    def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
        if return_features:
            return images.float().mean(dim=(2, 3)).repeat(1, 683)[:, :2048]
        return images.float()


def write_script(path: Path, network: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return path


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))


def test_efficientnet_is_the_default_and_sees_pictures_of_any_size(images: Tensor) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    space = feature_space()
    assert isinstance(space, EfficientNetSpace)
    assert (space.name, space.size) == ("efficientnet-lite0", 1280)
    found = embed(space, images)
    assert found.shape == (3, 1280)
    assert torch.allclose(space(images[1:2]), found[1:2], atol=1e-4)
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_clip_space_is_the_scorers_image_side(images: Tensor) -> None:
    scorer = tiny_clip_scorer()
    space = feature_space("clip", scorer=scorer)
    assert isinstance(space, CLIPSpace)
    assert (space.name, space.size) == ("clip", 8)
    with torch.no_grad():
        assert torch.equal(embed(space, images), scorer.encode_images(images))


def test_clip_space_loads_a_model_of_its_own(tmp_path: Path, images: Tensor) -> None:
    tiny_clip_scorer().save_pretrained(tmp_path)
    space = feature_space(f"clip:{tmp_path}")
    assert space.name == f"clip:{tmp_path}"
    assert torch.equal(space(images), CLIPSpace(tiny_clip_scorer())(images))


@pytest.mark.parametrize("scorer", [None, object()])
def test_clip_space_needs_a_clip(scorer: object) -> None:
    with pytest.raises(InputError, match="clip:openai/clip-vit-base-patch32"):
        feature_space("clip", scorer=scorer)  # type: ignore[arg-type]


def test_inception_space_calls_the_file_as_it_is_published(tmp_path: Path, images: Tensor) -> None:
    path = write_script(tmp_path / "inception.pt", Stand())
    space = feature_space(f"inception:{path}")
    assert isinstance(space, InceptionSpace)
    found = embed(space, images)
    levels = (images * 255).round().mean(dim=(2, 3))
    assert torch.allclose(found[:, :3], levels)


def test_inception_space_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"Download inception-2015-12-05\.pt"):
        InceptionSpace(tmp_path / "none.pt")


@pytest.mark.parametrize("weights", [True, False])
def test_inception_space_refuses_what_is_no_torchscript(tmp_path: Path, weights: bool) -> None:
    path = tmp_path / "weights.pt"
    if weights:
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="no TorchScript file"):
        InceptionSpace(path)


def test_inception_space_refuses_another_network(tmp_path: Path, images: Tensor) -> None:
    path = write_script(tmp_path / "other.pt", nn.Conv2d(3, 4, 3))
    with pytest.raises(CheckpointError, match="is not inception-2015-12-05"):
        InceptionSpace(path)(images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet", "Did you mean 'efficientnet-lite0'"),
        ("pixels", "no feature space 'pixels'"),
        ("inception", "is written 'inception:FILE'"),
        ("efficientnet-lite0:x", "is written 'efficientnet-lite0'"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        feature_space(name)
    with pytest.raises(ConfigError, match=message):  # whatever is measured
        EvaluationConfig(features=name, measure=("clip_score",))


class Own:
    """Returns what it was given."""

    name = "own"
    size = 2

    def __init__(self, features: object) -> None:
        self.features = features

    def __call__(self, images: Tensor) -> Tensor:
        return self.features  # type: ignore[return-value]


def test_space_of_ones_own_needs_three_members_only(images: Tensor) -> None:
    own = Own(torch.zeros(3, 2, dtype=torch.bfloat16))
    assert isinstance(own, FeatureSpace)
    assert embed(own, images).dtype == torch.float32


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(3, 4), r"must return \[3, 2\] for 3 pictures, not \[3, 4\]"),
        ([1, 2], r"must return \[3, 2\] for 3 pictures, not list"),
        (torch.full((3, 2), math.nan), "not finite"),
    ],
)
def test_space_of_ones_own_is_checked(features: object, message: str, images: Tensor) -> None:
    with pytest.raises(InputError, match=message):
        embed(Own(features), images)
