"""Upscalers give the numbers that Real-ESRGAN's code gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dallemini import Upscaler
from dallemini.pipeline.enlarging import enlarge

Arrays = dict[str, NDArray[Any]]
NAMES = ("realesr-general-x4v3", "realesr-compact-x2", "RealESRGAN_x4plus", "RealESRGAN_x2plus")


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "realesrgan"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    with np.load(folder / "vectors.npz") as loaded:
        return dict(loaded)


@pytest.fixture(scope="module")
def upscalers(folder: Path) -> dict[str, Upscaler]:
    return {name: Upscaler.from_pretrained(folder / f"{name}.pth") for name in NAMES}


def recorded(arrays: Arrays, name: str, case: str) -> NDArray[Any]:
    return arrays[f"{name.replace('realesr-', 'realesr_').replace('-x', '_x')}_{case}"]


@pytest.mark.parametrize("name", NAMES)
def test_network_gives_the_recorded_numbers(
    upscalers: dict[str, Upscaler], arrays: Arrays, name: str
) -> None:
    assert upscalers[name].name == name
    with torch.no_grad():
        enlarged = upscalers[name](torch.from_numpy(arrays["input"]))
    assert (enlarged - torch.from_numpy(recorded(arrays, name, "output"))).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("pre10", {}),
        ("pre0", {"pre_pad": 0}),
        ("tile12_pad4_pre0", {"pre_pad": 0, "tile": 12, "tile_pad": 4}),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_odd_sizes_are_enlarged_as_by_the_original(
    upscalers: dict[str, Upscaler], arrays: Arrays, name: str, case: str, settings: dict[str, int]
) -> None:
    picture = torch.from_numpy(arrays["rgb_uint8"]).permute(2, 0, 1)[None].float() / 255
    enlarged = upscalers[name].upscale(picture, **settings)
    levels = (enlarged[0].permute(1, 2, 0) * 255).round().int()
    difference = (levels - torch.from_numpy(recorded(arrays, name, f"enhance_{case}")).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_transparent_pictures_are_enlarged_as_by_the_original(
    upscalers: dict[str, Upscaler], arrays: Arrays, name: str
) -> None:
    picture = Image.fromarray(arrays["rgba_uint8"], "RGBA")

    class Unpadded:
        scale = upscalers[name].scale

        def upscale(self, images: torch.Tensor) -> torch.Tensor:
            return upscalers[name].upscale(images, pre_pad=0)

    expected = recorded(arrays, name, "enhance_rgba_pre0").astype(int)
    alpha = np.asarray(enlarge(picture, Unpadded(), Unpadded.scale))[..., 3]
    assert np.abs(alpha - expected[..., 3]).max() <= 1
    colours = enlarge(picture.convert("RGB"), Unpadded(), Unpadded.scale)  # none are spread
    assert np.abs(np.asarray(colours) - expected[..., :3]).max() <= 1
