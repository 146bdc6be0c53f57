"""Drawing strip by strip against the formulas, written out with torch's own functions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dallemini.models import vqgan_cpu
from dallemini.models.convolution import Level, ResnetBlock, Upsample, group_norm
from dallemini.models.vqgan_cpu import draw_convolved, draw_level

SIZES = [(2, 1), (1, 6), (5, 7), (8, 3)]
ROWS = [1, 3, 100]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def filled(level: Level) -> Level:
    for index, parameter in enumerate(level.parameters()):
        generator = torch.Generator().manual_seed(index)
        mean = 1.0 if parameter.ndim == 1 else 0.0  # so that no bias and no scale is left out
        nn.init.normal_(parameter, mean=mean, std=0.2, generator=generator)
    return level


def plain_block(block: ResnetBlock, features: Tensor) -> Tensor:
    residual = features
    for norm, conv in ((block.norm1, block.conv1), (block.norm2, block.conv2)):
        features = F.group_norm(features, 32, norm.weight, norm.bias, 1e-6)
        features = F.conv2d(features * features.sigmoid(), conv.weight, conv.bias, padding=1)
    if hasattr(block, "nin_shortcut"):
        residual = F.conv2d(residual, block.nin_shortcut.weight, block.nin_shortcut.bias)
    return residual + features


def plain_doubled(upsample: Upsample, features: Tensor) -> Tensor:
    features = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return F.conv2d(features, upsample.conv.weight, upsample.conv.bias, padding=1)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=ROWS)
def strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Draw every map in strips of so many rows of 64 channels and 7 positions."""
    monkeypatch.setattr(vqgan_cpu, "LARGE_BYTES", 0)
    monkeypatch.setattr(vqgan_cpu, "STRIP_BYTES", 4 * 64 * 7 * request.param)
    return int(request.param)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("doubled", [True, False])
def test_a_level_computes_its_blocks_and_the_doubling(size: tuple[int, int], doubled: bool) -> None:
    level = Level(32, 64, 3, attention=False)
    if doubled:
        level.upsample = Upsample(64)
    filled(level)
    features = randn(1, 32, *size)
    expected = features
    for block in level.block:
        assert isinstance(block, ResnetBlock)
        expected = plain_block(block, expected)
    if doubled:
        assert isinstance(level.upsample, Upsample)
        expected = plain_doubled(level.upsample, expected)
    torch.testing.assert_close(draw_level(level, features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("strips")
def test_a_level_keeps_its_attention() -> None:
    level = filled(Level(64, 64, 2, attention=True))
    features = randn(1, 64, 5, 7)
    expected = level(features)
    torch.testing.assert_close(draw_level(level, features), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("size", SIZES)
def test_the_last_convolution_keeps_the_order_of_its_input(size: tuple[int, int]) -> None:
    norm, conv = group_norm(64), nn.Conv2d(64, 3, 3, padding=1)
    features = 5 + randn(1, 64, *size)
    expected = conv(F.silu(norm(features)))
    before = features.clone()
    torch.testing.assert_close(draw_convolved(norm, conv, features), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(features, before)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_statistics_are_those_of_groups(offset: float) -> None:
    features = offset + randn(1, 64, 9, 11) * torch.linspace(0.1, 3, 64).view(1, 64, 1, 1)
    grouped = features.double().view(32, -1)
    mean, variance = vqgan_cpu._group_statistics(features, 32)
    expected = grouped.mean(1).repeat_interleave(2).float()
    torch.testing.assert_close(mean, expected)
    expected = grouped.var(1, unbiased=False).repeat_interleave(2).float()
    torch.testing.assert_close(variance, expected, rtol=1e-4, atol=1e-4)


def test_strips_cover_every_row_once_and_see_the_one_above() -> None:
    features = torch.empty(1, 64, 7, 3)
    assert list(vqgan_cpu._strips(features)) == [(0, 7, 0)]
    large = torch.empty(1, 128, 257, 256, device="meta")
    found = list(vqgan_cpu._strips(large))
    assert [row for start, stop, _ in found for row in range(start, stop)] == list(range(257))
    assert [low for _, _, low in found] == [0, *(start - 1 for start, _, _ in found[1:])]
    assert all(4 * 128 * 256 * (stop - start) <= vqgan_cpu.STRIP_BYTES for start, stop, _ in found)


def test_small_maps_go_through_the_level_itself() -> None:
    level = filled(Level(32, 64, 1, attention=False))
    features = randn(1, 32, 8, 8)
    before = features.clone()
    assert torch.equal(draw_level(level, features), level(before))
    assert torch.equal(features, before)
