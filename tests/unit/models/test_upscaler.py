"""Upscaler: sizes, tiles, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dallemini.errors import ConfigError, InputError, InputTypeError
from dallemini.models.upscaler import Upscaler, UpscalerConfig

COMPACT = UpscalerConfig(width=8, blocks=2)
RRDB = UpscalerConfig(architecture="rrdb", scale=2, width=8, blocks=1, growth=4)


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


@pytest.mark.parametrize("config", [COMPACT, RRDB], ids=["compact", "rrdb"])
def test_tiles_with_enough_context_give_the_same_picture(config: UpscalerConfig) -> None:
    upscaler, picture = Upscaler.from_config(config), pictures(1, 50, 71)
    whole = upscaler.upscale(picture, tile=None, context=40)
    assert torch.allclose(upscaler.upscale(picture, tile=16, context=40), whole, atol=1e-5)


def test_a_picture_is_the_same_alone_and_in_a_batch() -> None:
    upscaler, batch = Upscaler.from_config(COMPACT), pictures(3, 20, 24)
    alone = torch.cat([upscaler.upscale(batch[index : index + 1]) for index in range(3)])
    assert torch.equal(upscaler.upscale(batch), alone)


def test_a_fresh_compact_network_hardly_changes_the_enlarged_picture() -> None:
    picture = pictures(1, 12, 12)
    plain = torch.nn.functional.interpolate(picture, scale_factor=4, mode="nearest")
    assert (Upscaler.from_config(COMPACT).upscale(picture, context=0) - plain).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "swin"}, "must be one of 'compact', 'rrdb', not 'swin'"),
        ({"architecture": "rrdb", "scale": 3}, "scale of 'rrdb' must be one of 1, 2, 4, not 3"),
        ({"scale": 10**9}, r"must be one of 1, 2, .*, not 1e\+09"),
        ({"blocks": 10**9}, "blocks must be from 1 to 1000"),
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
        (torch.zeros(1, 4, 8, 8), {}, InputError, r"not \[1, 4, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), {}, InputError, r"not \[1, 3, 0, 8\]"),
        (torch.full((1, 3, 8, 8), torch.nan), {}, InputError, "finite numbers"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), {}, InputTypeError, "not torch.uint8"),
        ([[0.0]], {}, InputTypeError, "not list"),
        (torch.zeros(1, 3, 8, 8), {"tile": 4}, InputError, "at least 16 pixels, not 4"),
        (torch.zeros(1, 3, 8, 8), {"context": -1}, InputError, "from 0 to 256 pixels, not -1"),
    ],
)
def test_wrong_pictures_and_settings_are_refused(
    images: Any, settings: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Upscaler.from_config(COMPACT).upscale(images, **settings)
