"""Drawing on the CPU, strip by strip: the VQGAN's blocks without what only training needs.

The blocks compute what `convolution` computes, up to the rounding of float32, on one picture,
channels last, in three ways that save time and memory:

- normalisation, SiLU and convolution run together on strips of rows that stay in the cache, so
  that no whole feature map is written between them (a new map of 32 MiB costs more than SiLU);
- statistics are taken per channel and joined to groups, since torch has a fast kernel for that;
- a convolution of doubled pixels meets every pixel twice, so it is four convolutions of 2x2 on
  the small map, whose weights are sums of the 3x3: 4/9 of the multiplications.

Convolutions in static int8 do not pay: pictures drawn with them keep a signal of 15 dB only.

Shapes: C channels, h/w positions of a feature map; every map is of one picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import Level, ResnetBlock, Upsample

LARGE_BYTES = 2 << 20  # feature maps below are as fast in torch's own order and layout
STRIP_BYTES = 8 << 20  # strips below lose more to their edges than the cache gives back


def draw_level(level: Level, hidden_states: Tensor) -> Tensor:
    """Map f[1,C,h,w], which may be overwritten, to f[1,C',2h,2w]; the finest doubles nothing."""
    if _size(hidden_states) < LARGE_BYTES:
        small: Tensor = level(hidden_states)
        return small
    hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
    blocks = cast("list[ResnetBlock]", list(level.block))
    scratch = _empty_map(blocks[0].conv2.out_channels, *hidden_states.shape[2:])
    for index, block in enumerate(blocks):
        hidden_states = _draw_block(block, hidden_states, scratch)
        if level.attn:
            hidden_states = level.attn[index](hidden_states)
    if hasattr(level, "upsample"):
        hidden_states = _draw_doubled(cast("Upsample", level.upsample), hidden_states)
    return hidden_states


def draw_convolved(norm: nn.GroupNorm, conv: nn.Conv2d, hidden_states: Tensor) -> Tensor:
    """Normalise f[1,C,h,w], apply SiLU and convolve to f[1,C',h,w]."""
    convolved = _empty_map(conv.out_channels, *hidden_states.shape[2:])
    _convolve(norm, conv, hidden_states, convolved)
    return convolved


def _draw_block(block: ResnetBlock, hidden_states: Tensor, scratch: Tensor) -> Tensor:
    """Map f[1,C,h,w] to f[1,C',h,w], in place where C' is C; scratch is f[1,C',h,w]."""
    _convolve(block.norm1, block.conv1, hidden_states, scratch)
    if hasattr(block, "nin_shortcut"):
        hidden_states = block.nin_shortcut(hidden_states)
    _convolve(block.norm2, block.conv2, scratch, hidden_states, add=True)
    return hidden_states


def _convolve(
    norm: nn.GroupNorm, conv: nn.Conv2d, hidden_states: Tensor, out: Tensor, *, add: bool = False
) -> None:
    """Write a convolution of the normalised f[1,C,h,w], after SiLU, to f[1,C',h,w], or add it."""
    mean, variance = _group_statistics(hidden_states, norm.num_groups)
    for start, stop, low in _strips(hidden_states):
        strip = hidden_states[:, :, low : stop + 1]
        strip = F.batch_norm(strip, mean, variance, norm.weight, norm.bias, eps=norm.eps)
        strip = F.conv2d(F.silu(strip, inplace=True), conv.weight, conv.bias, padding=1)
        strip, rows = strip[:, :, start - low : stop - low], out[:, :, start:stop]
        if add:
            rows.add_(strip)
        else:
            rows.copy_(strip)


def _draw_doubled(upsample: Upsample, hidden_states: Tensor) -> Tensor:
    """Map f[1,C,h,w] to f[1,C,2h,2w]; pixel (2y+a, 2x+b) belongs to the convolution (a, b)."""
    height, width = hidden_states.shape[2:]
    doubled = _empty_map(upsample.conv.out_channels, 2 * height, 2 * width)
    weights = _doubled_weights(upsample.conv.weight)
    for start, stop, low in _strips(hidden_states):
        strip = hidden_states[:, :, low : stop + 1]
        for (down, right), weight in weights.items():
            # row y of this convolution sees rows y - 1 and y of the strip
            pixels = F.conv2d(strip, weight, upsample.conv.bias, padding=1)
            pixels = pixels[:, :, start - low + down : stop - low + down, right : right + width]
            doubled[:, :, 2 * start + down : 2 * stop : 2, right::2] = pixels
    return doubled


def _doubled_weights(weight: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return f[O,I,2,2] for each place in the 2x2 that a pixel becomes, from f[O,I,3,3].

    The three taps of an axis meet two pixels: the first tap one and two taps the other at place
    0, two taps one and the last tap the other at place 1.
    """
    top, middle, bottom = weight.permute(2, 3, 0, 1).contiguous()
    rows = torch.stack([top, top + middle, middle + bottom, bottom])
    left, centre, right = rows.unbind(1)
    taps = torch.stack([left, left + centre, centre + right, right], dim=1)
    places = [(down, across) for down in range(2) for across in range(2)]
    return {(a, b): taps[a::2, b::2].permute(2, 3, 0, 1).contiguous() for a, b in places}


def _group_statistics(hidden_states: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each channel's group, both f[C], from f[1,C,h,w]."""
    means, variances = torch.batch_norm_update_stats(hidden_states, None, None, 0.0)
    means, variances = means.view(groups, -1), variances.view(groups, -1)
    mean = means.mean(dim=1, keepdim=True)
    variance = (variances + (means - mean).square()).mean(dim=1, keepdim=True)
    return mean.expand_as(means).flatten(), variance.expand_as(means).flatten()


def _strips(hidden_states: Tensor) -> Iterator[tuple[int, int, int]]:
    """Yield start and stop of strips of rows of f[1,C,h,w], and the first row that they see."""
    height = hidden_states.shape[2]
    rows = -(-height // -(-_size(hidden_states) // STRIP_BYTES))
    for start in range(0, height, rows):
        yield start, min(start + rows, height), max(start - 1, 0)


def _size(hidden_states: Tensor) -> int:
    return hidden_states.numel() * hidden_states.element_size()


def _empty_map(channels: int, height: int, width: int) -> Tensor:
    return torch.empty(
        (1, channels, height, width),
        memory_format=torch.channels_last,
        dtype=torch.float32,
        device="cpu",
    )
