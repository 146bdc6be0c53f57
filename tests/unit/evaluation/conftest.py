"""Pictures with captions, a pipeline that draws like them, and a feature space in a few lines."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dallemini import Pipeline
from dallemini.data import CaptionedImage
from dallemini.evaluation import FeatureSpace
from dallemini.testing import tiny_pipeline

CAPTIONS = [
    f"a {colour} {thing}"
    for colour in ("red", "green", "blue", "yellow")
    for thing in ("apple", "bird", "rocket")
]


class Mosaic:
    """The mean colours of 2x2 fields."""

    name = "mosaic"
    size = 12

    def __call__(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="session")
def space() -> FeatureSpace:
    return Mosaic()


@pytest.fixture(scope="session")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="session")
def pictures() -> list[CaptionedImage]:
    generator = torch.Generator().manual_seed(0)
    return [
        CaptionedImage(
            key=str(number),
            image=torch.rand(3, 16, 16, generator=generator),
            captions=(caption, f"{caption} on white"),
            columns={"style": "flat" if number % 2 else "round"},
        )
        for number, caption in enumerate(CAPTIONS)
    ]
