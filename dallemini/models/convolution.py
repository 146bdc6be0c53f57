"""Convolutional blocks of the VQGAN's encoder and decoder.

Know feature maps only. Source: `taming/modules/diffusionmodules/model.py` of
github.com/CompVis/taming-transformers, with whose names the parameters agree.

Shapes: N images, C channels, h/w positions of a feature map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .vqgan_config import GROUPS

GROUP_NORM_EPS = 1e-6


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalisation that every block begins with: 32 groups, epsilon 1e-6."""
    return nn.GroupNorm(GROUPS, channels, eps=GROUP_NORM_EPS)


def convolve(conv: nn.Conv2d, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
    """Convolve f[N,C,h,w] to f[N,C',h,w]; beyond an edge are zeros, or the other edge."""
    if not wraps:
        convolved: Tensor = conv(hidden_states)
        return convolved
    reach = conv.weight.shape[2] // 2
    around = F.pad(hidden_states, (reach,) * 4, mode="circular")
    return F.conv2d(around, conv.weight, conv.bias)


class ResnetBlock(nn.Module):
    """Two normalised convolutions with a residual."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.nin_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,C,h,w] to f[N,C',h,w]; `wraps` joins opposite edges, here as below."""
        residual = hidden_states
        hidden_states = convolve(self.conv1, F.silu(self.norm1(hidden_states)), wraps=wraps)
        hidden_states = convolve(self.conv2, F.silu(self.norm2(hidden_states)), wraps=wraps)
        if hasattr(self, "nin_shortcut"):
            residual = self.nin_shortcut(residual)
        return residual + hidden_states


class AttentionBlock(nn.Module):
    """Single-head attention among the positions of a feature map, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map f[N,C,h,w] to f[N,C,h,w]."""
        normed = self.norm(hidden_states)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(query, key, value)[:, 0]
        attended = attended.transpose(1, 2).reshape(hidden_states.shape)
        projected: Tensor = self.proj_out(attended)
        return hidden_states + projected


class Downsample(nn.Module):
    """Halve a feature map; pads right and below only, as the original does."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map f[N,C,h,w] to f[N,C,h/2,w/2]."""
        halved: Tensor = self.conv(F.pad(hidden_states, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Double a feature map by repeating pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,C,h,w] to f[N,C,2h,2w]."""
        doubled = F.interpolate(hidden_states, scale_factor=2.0, mode="nearest")
        return convolve(self.conv, doubled, wraps=wraps)


class Middle(nn.Module):
    """The coarsest level: block, attention, block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels)
        self.attn_1 = AttentionBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,C,h,w] to f[N,C,h,w]."""
        hidden_states = self.attn_1(self.block_1(hidden_states, wraps=wraps))
        hidden: Tensor = self.block_2(hidden_states, wraps=wraps)
        return hidden


class Level(nn.Module):
    """Blocks at one resolution, each followed by attention where the level has it."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(channels_in if index == 0 else channels_out, channels_out)
            for index in range(blocks)
        )
        self.attn = nn.ModuleList(AttentionBlock(channels_out) for _ in range(blocks * attention))

    def forward(self, hidden_states: Tensor, *, wraps: bool = False) -> Tensor:
        """Run the blocks, then the change of resolution if the level has one."""
        for index, block in enumerate(self.block):
            hidden_states = block(hidden_states, wraps=wraps)
            if self.attn:
                hidden_states = self.attn[index](hidden_states)
        if isinstance(down := getattr(self, "downsample", None), nn.Module):
            hidden_states = down(hidden_states)
        if isinstance(up := getattr(self, "upsample", None), nn.Module):
            hidden_states = up(hidden_states, wraps=wraps)
        return hidden_states
