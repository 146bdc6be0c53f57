"""The sizes of the VQGAN, and what they are refused for. Knows no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..config import LARGEST_SIZE, MOST_LAYERS, Config
from ..errors import ConfigError
from ..foreign import show
from .upscaler_config import UpscalerConfig

GROUPS = 32  # of channels, that a group norm looks at
_MOST_LEVELS = 16


@dataclass(frozen=True, kw_only=True)
class VQGANConfig(Config):
    """Sizes of the image tokenizer; the defaults are those of the released f16, 16,384 codes.

    Attributes:
        ch: channels at full resolution; `ch_mult` multiplies them level by level.
        attn_resolutions: levels, by their size at `resolution`, that have attention.
        value_range: pixel range that the network was trained on; callers always see [0, 1].
        pixel_shuffle: side of the pixel block that is folded into channels around the network;
            1, as released, folds nothing.
        refiner_scale: how many times larger a refiner behind the decoder makes the pictures: a
            chain of convolutions, the compact network of `Upscaler`. 1, as released, has none.
        refiner_width: channels between its convolutions.
        refiner_blocks: convolutions between its first and its last.
        has_encoder: False for files that only decode.
        quantizer: how a code is chosen: "nearest", the nearest vector; "cosine", the one of the
            nearest direction, all vectors having the length 1 (LlamaGen); "gumbel", the highest
            of as many scores as there are codes (GumbelVQ of taming-transformers, ruDALL-E).
        wavelet: the decoder makes four bands, which an inverse Haar transform joins to a picture of
            twice the size (ruDALL-E).
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16,)
    resolution: int = 256
    in_channels: int = 3
    out_ch: int = 3
    z_channels: int = 256
    embed_dim: int = 256
    n_embed: int = 16384
    value_range: tuple[float, ...] = (0.0, 1.0)
    pixel_shuffle: int = 1
    refiner_scale: int = 1
    refiner_width: int = 32
    refiner_blocks: int = 6
    has_encoder: bool = True
    quantizer: Literal["nearest", "cosine", "gumbel"] = "nearest"
    wavelet: bool = False

    def __post_init__(self) -> None:
        self.check_types()
        self._check_sizes()
        if self.ch % GROUPS:
            raise ConfigError(f"VQGANConfig.ch must be a multiple of {GROUPS}, not {self.ch}.")
        if self.in_channels != 3 or self.out_ch != 3:
            raise ConfigError("VQGANConfig.in_channels and out_ch must be 3 (RGB).")
        # so written that it also refuses NaN
        if len(self.value_range) != 2 or not (
            -math.inf < self.value_range[0] < self.value_range[1] < math.inf
        ):
            raise ConfigError(
                f"value_range must be two rising numbers, not {show(self.value_range)}."
            )
        if self.resolution % self.downsample_factor:
            raise ConfigError(
                f"resolution {self.resolution} must be a multiple of the downsampling factor "
                f"{self.downsample_factor}."
            )

    def _check_sizes(self) -> None:
        sizes = (self.ch, *self.ch_mult, self.num_res_blocks, self.resolution, self.z_channels)
        sizes += (self.embed_dim, self.n_embed, self.pixel_shuffle)
        sizes += (self.refiner_scale, self.refiner_width, self.refiner_blocks)
        if min(sizes) < 1 or not self.ch_mult:
            raise ConfigError("Every size of a VQGANConfig must be at least 1.")
        if max(*sizes, self.ch * max(self.ch_mult)) > LARGEST_SIZE:
            raise ConfigError(
                f"Every size of a VQGANConfig must be at most {LARGEST_SIZE}, not "
                f"{show(max(*sizes, self.ch * max(self.ch_mult)))}."
            )
        if (
            len(self.ch_mult) * self.num_res_blocks > MOST_LAYERS
            or len(self.ch_mult) > _MOST_LEVELS
        ):
            raise ConfigError(
                f"A VQGANConfig has at most {_MOST_LEVELS} levels (the numbers in ch_mult) with "
                f"{MOST_LAYERS} blocks in all, not {len(self.ch_mult)} with {self.num_res_blocks} "
                "each."
            )
        if self.refiner_scale > 1:
            _ = self.refiner

    @property
    def refiner(self) -> UpscalerConfig:
        """Sizes of the refiner."""
        return UpscalerConfig(
            scale=self.refiner_scale, width=self.refiner_width, num_blocks=self.refiner_blocks
        )

    @property
    def enlargement(self) -> int:
        """How much larger the pictures are than those that the codes are read from."""
        return self.refiner_scale * (1 + self.wavelet)

    @property
    def downsample_factor(self) -> int:
        """Pixels that the encoder reads along each side of the square of one token."""
        return int(2 ** (len(self.ch_mult) - 1)) * self.pixel_shuffle

    def has_attention(self, level: int) -> bool:
        """Tell whether a level (0 is the finest) has attention; the input's size plays no part."""
        return self.resolution // self.pixel_shuffle // 2**level in self.attn_resolutions
