"""The blocks of the VQGAN against their formulas, written out."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dallemini.models.convolution import (
    AttentionBlock,
    Downsample,
    Level,
    ResnetBlock,
    Upsample,
    group_norm,
)

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: ModuleT) -> ModuleT:
    for index, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(index))
    return module.requires_grad_(False)


def test_group_norm_has_32_groups_and_the_small_epsilon() -> None:
    norm = group_norm(64)
    assert (norm.num_groups, norm.eps) == (32, 1e-6)
    features = 1e-3 * randn(2, 64, 3, 3)
    grouped = features.view(2, 32, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(features), expected.view(2, 64, 3, 3))


def test_downsampling_pads_right_and_below_only() -> None:
    block = filled(Downsample(2))
    assert block.conv.bias is not None
    features = randn(1, 2, 4, 6)
    halved = block(features)
    assert halved.shape == (1, 2, 2, 3)
    first = (block.conv.weight * features[:, :, :3, :3]).sum((1, 2, 3)) + block.conv.bias
    torch.testing.assert_close(halved[0, :, 0, 0], first)
    corner = F.pad(features, (0, 1, 0, 1))[:, :, 2:5, 4:7]
    last = (block.conv.weight * corner).sum((1, 2, 3)) + block.conv.bias
    torch.testing.assert_close(halved[0, :, 1, 2], last)


def test_upsampling_repeats_pixels_before_it_convolves() -> None:
    block, features = filled(Upsample(2)), randn(1, 2, 3, 4)
    repeated = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(block(features), block.conv(repeated))


def test_resnet_block_follows_its_formula_with_and_without_shortcut() -> None:
    for channels in (32, 64):
        block, features = filled(ResnetBlock(32, channels)), randn(1, 32, 4, 4)
        hidden = block.norm1(features)
        hidden = block.conv1(hidden * hidden.sigmoid())
        hidden = block.norm2(hidden)
        hidden = block.conv2(hidden * hidden.sigmoid())
        residual = features if channels == 32 else block.nin_shortcut(features)
        torch.testing.assert_close(block(features), residual + hidden)
        assert hasattr(block, "nin_shortcut") == (channels == 64)


def test_attention_block_attends_over_positions() -> None:
    block, features = filled(AttentionBlock(32)), randn(2, 32, 3, 4)
    normed = block.norm(features)
    query, key, value = (layer(normed).flatten(2) for layer in (block.q, block.k, block.v))
    weights = (query.transpose(1, 2) @ key * 32**-0.5).softmax(-1)
    attended = (value @ weights.transpose(1, 2)).view(2, 32, 3, 4)
    torch.testing.assert_close(block(features), features + block.proj_out(attended))


def test_a_level_attends_after_every_block_or_never() -> None:
    assert len(Level(32, 64, 3, attention=True).attn) == 3
    assert len(Level(32, 64, 3, attention=False).attn) == 0
    assert filled(Level(32, 64, 2, attention=True))(randn(1, 32, 4, 4)).shape == (1, 64, 4, 4)
