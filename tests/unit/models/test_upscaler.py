"""Upscaler: sizes, tiles, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    InputTypeError,
    UnsupportedOperationError,
)
from dallemini.models.upscaler import Upscaler, UpscalerConfig

COMPACT = UpscalerConfig(width=8, num_blocks=2)
RRDB = UpscalerConfig(architecture="rrdb", scale=2, width=8, num_blocks=1, growth=4)


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, height, width, generator=generator)


@pytest.mark.parametrize("config", [COMPACT, RRDB], ids=["compact", "rrdb"])
@pytest.mark.parametrize("size", [(16, 16), (19, 33), (1, 1), (5, 40)])
def test_every_size_becomes_scale_times_larger(
    config: UpscalerConfig, size: tuple[int, int]
) -> None:
    enlarged = Upscaler.from_config(config).upscale(pictures(2, *size))
    assert enlarged.shape == (2, 3, size[0] * config.scale, size[1] * config.scale)
    assert 0 <= float(enlarged.min()) <= float(enlarged.max()) <= 1


@pytest.mark.parametrize("size", [(50, 71), (16, 40)])
def test_tiles_of_the_compact_network_give_the_same_picture(size: tuple[int, int]) -> None:
    upscaler, picture = Upscaler.from_config(COMPACT), pictures(1, *size)
    whole = upscaler.upscale(picture, tile=None)
    assert upscaler.reach == 4
    assert torch.allclose(upscaler.upscale(picture, tile=16), whole, atol=1e-6)
    seams = (upscaler.upscale(picture, tile=16, tile_pad=1) - whole).abs()
    assert seams.max() > 1e-4  # so that the comparison can fail


def test_tiles_of_dense_blocks_with_enough_context_give_the_same_picture() -> None:
    upscaler, picture = Upscaler.from_config(RRDB), pictures(1, 50, 71)
    whole = upscaler.upscale(picture, tile=None)
    assert torch.allclose(upscaler.upscale(picture, tile=17, tile_pad=38), whole, atol=1e-6)
    assert (upscaler.upscale(picture, tile=17) - whole).abs().max() < 1 / 255


def test_a_picture_is_the_same_alone_and_in_a_batch() -> None:
    upscaler, batch = Upscaler.from_config(COMPACT), pictures(3, 20, 24)
    alone = torch.cat([upscaler.upscale(batch[index : index + 1]) for index in range(3)])
    assert torch.equal(upscaler.upscale(batch), alone)


def test_autocast_and_gradients_change_nothing() -> None:
    upscaler, picture = Upscaler.from_config(COMPACT), pictures(1, 12, 12)
    expected = upscaler.upscale(picture)
    with torch.autocast("cpu"):
        assert torch.equal(upscaler.upscale(picture.requires_grad_()), expected)
    assert not expected.requires_grad


@pytest.mark.parametrize("config", [COMPACT, RRDB], ids=["compact", "rrdb"])
def test_saved_upscaler_is_loaded_again(tmp_path: Path, config: UpscalerConfig) -> None:
    upscaler = Upscaler.from_config(config, seed=2)
    upscaler.save_pretrained(tmp_path)
    loaded = Upscaler.from_pretrained(tmp_path, dtype="bfloat16")
    assert (loaded.config, loaded.dtype) == (config, torch.bfloat16)
    assert loaded.upscale(pictures(1, 8, 8)).dtype == torch.bfloat16
    with pytest.raises(UnsupportedOperationError, match="An Upscaler has no int8 weights"):
        Upscaler.from_pretrained(tmp_path, dtype="int8")


def test_more_blocks_than_tensors_are_refused_before_they_are_built(tmp_path: Path) -> None:
    Upscaler.from_config(RRDB).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"num_blocks": 1', '"num_blocks": 900'))
    with pytest.raises(CheckpointError, match="900 num_blocks, but there are only"):
        Upscaler.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "swin"}, "must be one of 'compact', 'rrdb', not 'swin'"),
        ({"architecture": "rrdb", "scale": 3}, "scale of 'rrdb' must be one of 1, 2, 4, not 3"),
        ({"scale": 10**9}, r"must be one of 1, 2, .*, not 1000000000"),
        ({"num_blocks": 10**9}, "num_blocks must be from 1 to 1000"),
        ({"width": 0}, "width must be from 1 to 1024"),
    ],
)
def test_config_refuses_what_is_not_computed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UpscalerConfig(**fields)


@pytest.mark.parametrize(
    ("images", "settings", "error", "message"),
    [
        (torch.zeros(3, 8, 8), {}, InputError, r"\[N, 3, H, W\], not \[3, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), {}, InputError, r"not \[1, 3, 0, 8\]"),
        (torch.full((1, 3, 8, 8), torch.nan), {}, InputError, "finite numbers"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, InputTypeError, "not torch.uint8"),
        ([[0.0]], {}, InputTypeError, "not list"),
        (torch.zeros(1, 3, 8, 8), {"tile": 4}, InputError, "from 8 pixels, not 4"),
        (torch.zeros(1, 3, 8, 8), {"tile_pad": -1}, InputError, "tile_pad must be from 0 to 1024"),
        (torch.zeros(1, 3, 8, 8), {"pre_pad": 1.5}, InputError, "pre_pad must be .* not 1.5"),
    ],
)
def test_wrong_pictures_and_settings_are_refused(
    images: Any, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Upscaler.from_config(COMPACT).upscale(images, **settings)
