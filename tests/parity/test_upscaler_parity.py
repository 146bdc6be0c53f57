"""Upscalers give the numbers that Real-ESRGAN's code gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dallemini.checkpoints.torch_file import read_torch
from dallemini.checkpoints.upscaler import PREFIX, infer_config
from dallemini.models.upscaler import Upscaler, UpscalerConfig

Arrays = dict[str, NDArray[Any]]
NAMES = {
    "realesr-general-x4v3": ("realesr_general_x4v3", "params"),
    "realesr-compact-x2": ("realesr_compact_x2", "params"),
    "RealESRGAN_x4plus": ("RealESRGAN_x4plus", "params_ema"),
    "RealESRGAN_x2plus": ("RealESRGAN_x2plus", "params_ema"),
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "realesrgan"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    with np.load(folder / "vectors.npz") as loaded:
        return dict(loaded)


def load(folder: Path, name: str) -> Upscaler:
    key = NAMES[name][1] + "."
    tensors = {
        key_of.removeprefix(key): tensor
        for key_of, tensor in read_torch(folder / f"{name}.pth").items()
        if key_of.startswith(key)
    }
    config = UpscalerConfig.from_dict(infer_config(tensors, origin=name))
    upscaler = Upscaler.from_config(config)
    state = {PREFIX + key: tensor.load() for key, tensor in tensors.items()}
    upscaler.load_state_dict(state, strict=True)
    return upscaler


@pytest.mark.parametrize("name", NAMES)
def test_network_gives_the_recorded_numbers(folder: Path, arrays: Arrays, name: str) -> None:
    with torch.no_grad():
        enlarged = load(folder, name)(torch.from_numpy(arrays["input"]))
    recorded = torch.from_numpy(arrays[f"{NAMES[name][0]}_output"])
    assert (enlarged - recorded).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("pre10", {}),
        ("pre0", {"context": 0}),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_odd_sizes_are_enlarged_as_by_the_original(
    folder: Path, arrays: Arrays, name: str, case: str, settings: dict[str, int]
) -> None:
    picture = torch.from_numpy(arrays["rgb_uint8"]).permute(2, 0, 1)[None].float() / 255
    enlarged = load(folder, name).upscale(picture, **settings)
    levels = (enlarged[0].permute(1, 2, 0) * 255).round().int()
    difference = (levels - torch.from_numpy(arrays[f"{NAMES[name][0]}_enhance_{case}"]).int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
