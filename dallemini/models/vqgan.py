"""The image tokenizer: pictures to codes and back (VQGAN).

Knows pixels and codes, not files. Source: "Taming Transformers for High-Resolution Image
Synthesis" (Esser et al. 2021, section 3.1) and github.com/CompVis/taming-transformers, with whose
names the parameters agree; github.com/patil-suraj/vqgan-jax computes the same.

Shapes: N images, L image tokens, H/W pixels, C channels, h/w positions of a feature map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LARGEST_SIZE, MOST_LAYERS, Config
from ..errors import ConfigError, UnsupportedOperationError
from ..foreign import show
from .convolution import GROUPS, Downsample, Level, Middle, Upsample, convolve, group_norm
from .image_tokenizer import ImageTokenizer
from .pretrained import empty_embedding
from .vqgan_cpu import LARGE_BYTES, draw_convolved, draw_level

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
        decoder_pixel_shuffle: the same behind the decoder; None, as released, takes
            `pixel_shuffle`. A multiple of it makes larger pictures of the same codes.
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
    decoder_pixel_shuffle: int | None = None
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
        sizes += (self.embed_dim, self.n_embed, self.pixel_shuffle, self.unfolded)
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
        if self.unfolded % self.pixel_shuffle:
            raise ConfigError(
                f"decoder_pixel_shuffle must be a multiple of pixel_shuffle, {self.pixel_shuffle}, "
                f"not {self.unfolded}."
            )

    @property
    def unfolded(self) -> int:
        """Side of the pixel block that is unfolded behind the decoder."""
        if self.decoder_pixel_shuffle is None:
            return self.pixel_shuffle
        return self.decoder_pixel_shuffle

    @property
    def enlargement(self) -> int:
        """How much larger the pictures are than those that the codes are read from."""
        return self.unfolded // self.pixel_shuffle * (1 + self.wavelet)

    @property
    def downsample_factor(self) -> int:
        """Pixels that the encoder reads along each side of the square of one token."""
        return int(2 ** (len(self.ch_mult) - 1)) * self.pixel_shuffle

    def has_attention(self, level: int) -> bool:
        """Tell whether a level (0 is the finest) has attention; the input's size plays no part."""
        return self.resolution // self.pixel_shuffle // 2**level in self.attn_resolutions


class Encoder(nn.Module):
    """Pixels to features: levels from fine to coarse."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.ch * multiple for multiple in config.ch_mult]
        self.conv_in = nn.Conv2d(3 * config.pixel_shuffle**2, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for index, (before, width) in enumerate(zip([config.ch, *widths], widths, strict=False)):
            level = Level(before, width, config.num_res_blocks, config.has_attention(index))
            if index < len(widths) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map f[N,3p²,H/p,W/p] to f[N,z,h,w]."""
        hidden_states = self.conv_in(pixels)
        for level in self.down:
            hidden_states = level(hidden_states)
        hidden: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(hidden_states))))
        return hidden


class Decoder(nn.Module):
    """Features to pixels: levels from coarse to fine; `up[0]` is the finest and runs last."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        widths = [config.ch * multiple for multiple in config.ch_mult]
        self.conv_in = nn.Conv2d(config.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        levels = []
        for index, (before, width) in enumerate(
            zip([*widths[1:], widths[-1]], widths, strict=True)
        ):
            level = Level(before, width, config.num_res_blocks + 1, config.has_attention(index))
            if index > 0:
                level.upsample = Upsample(width)
            levels.append(level)
        self.up = nn.ModuleList(levels)
        self.norm_out = group_norm(widths[0])
        bands = 4 if config.wavelet else 1
        self.conv_out = nn.Conv2d(widths[0], bands * 3 * config.unfolded**2, 3, padding=1)

    def forward(self, features: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,z,h,w] to f[N,3q²,H/q,W/q], q what is unfolded; `wraps` joins opposite edges."""
        hidden_states = self.mid(convolve(self.conv_in, features, wraps=wraps), wraps=wraps)
        for index in reversed(range(len(self.up))):
            hidden_states = self.up[index](hidden_states, wraps=wraps)
        return convolve(self.conv_out, F.silu(self.norm_out(hidden_states)), wraps=wraps)

    def draw(self, features: Tensor) -> Tensor:
        """Compute the same for f[1,z,h,w] on the CPU, faster, in less memory, without gradients."""
        hidden_states = self.mid(self.conv_in(features.contiguous()))
        for index in reversed(range(len(self.up))):
            hidden_states = draw_level(cast("Level", self.up[index]), hidden_states)
        return draw_convolved(self.norm_out, self.conv_out, hidden_states)


class Codebook(nn.Module):
    """The vectors that the codes stand for."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.kind = config.quantizer
        self.embedding = empty_embedding(config.n_embed, config.embed_dim)
        if config.quantizer == "gumbel" and config.has_encoder:
            self.proj = nn.Conv2d(config.embed_dim, config.n_embed, 1)

    def choose(self, features: Tensor) -> Tensor:
        """Return the code of each of f[M,E], as i64[M]."""
        if self.kind == "gumbel":
            scores = F.linear(features, self.proj.weight.flatten(1), self.proj.bias)
            return scores.float().argmax(dim=1)
        return self.nearest(features)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return f[*,E], what codes i64[*] stand for."""
        vectors: Tensor = self.embedding(codes)
        return F.normalize(vectors, dim=-1) if self.kind == "cosine" else vectors

    def nearest(self, features: Tensor) -> Tensor:
        """Return the code whose vector is nearest to each of f[M,E], as i64[M]."""
        codes = self.embedding.weight.float()
        features = features.float()
        if self.kind == "cosine":
            codes, features = F.normalize(codes, dim=1), F.normalize(features, dim=1)
        # |f - c|^2 without the term |f|^2, which is the same for every code
        distances = torch.addmm(codes.square().sum(1), features, codes.T, alpha=-2.0)
        return distances.argmin(dim=1)


class VQGAN(ImageTokenizer):
    """Pictures to codes and codes to pictures.

    Constructing it describes the structure on the `meta` device; use `from_pretrained` for stored
    weights and `from_config` for random ones.

    Example:
        >>> from dallemini import VQGAN
        >>> from dallemini.models import VQGANConfig
        >>> sum(p.numel() for p in VQGAN(VQGANConfig()).parameters())
        76073859
    """

    config: VQGANConfig
    config_class: ClassVar[type[Config]] = VQGANConfig
    component: ClassVar[Literal["vqgan"]] = "vqgan"

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__(config)
        with torch.device("meta"):
            if config.has_encoder:
                self.encoder = Encoder(config)
                self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
            self.quantize = Codebook(config)
            self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
            self.decoder = Decoder(config)

    @property
    def codebook_size(self) -> int:
        """Number of codes; ids from here up have no picture."""
        return self.config.n_embed

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that it was trained on."""
        return self.config.resolution, self.config.resolution

    @property
    def downsample_factor(self) -> int:
        """Pixels that `encode` reads for a token, along each side."""
        return self.config.downsample_factor

    @property
    def token_size(self) -> int:
        """Pixels that `decode` makes of a token, along each side."""
        return self.config.downsample_factor * self.config.enlargement

    @property
    def code_vectors(self) -> Tensor:
        """f[V,E], the codebook."""
        return self.quantize.embedding.weight

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw convolutions scaled by their fan-in and codes from N(0, 1); norms start at 1."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            elif parameter.ndim == 4:
                nn.init.normal_(parameter, std=_fan_in(parameter) ** -0.5, generator=generator)
            else:
                nn.init.normal_(parameter, generator=generator)

    def _check_encoder(self) -> None:
        if not self.config.has_encoder:
            raise UnsupportedOperationError(
                "This VQGAN holds only the decoder (such as min-dalle's detoker.pt); load one with "
                "an encoder, for example 'dalle-mini/vqgan_imagenet_f16_16384'."
            )

    def _encode(self, images: Tensor) -> Tensor:
        features = self.encode_features(images)
        flat = features.permute(0, 2, 3, 1).flatten(0, 2)
        return self.quantize.choose(flat).view(-1, *features.shape[2:])

    def _decode(self, codes: Tensor, *, wraps: bool) -> Tensor:
        vectors = self.quantize.vectors(codes).permute(0, 3, 1, 2)
        return self._unfold(self._draw(vectors, wraps))

    def _draw(self, vectors: Tensor, wraps: bool) -> Tensor:
        if wraps or not self._draws_singly(*vectors.shape[2:]):
            pixels: Tensor = self.decoder(self.post_quant_conv(vectors), wraps=wraps)
            return pixels
        features = [self.post_quant_conv(one) for one in vectors.split(1)]
        return torch.cat([self.decoder.draw(one) for one in features])

    def encode_features(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to the vectors before quantisation, f[N,E,h,w]; for training."""
        low, high = self.config.value_range
        pixels = images * (high - low) + low
        pixels = F.pixel_unshuffle(pixels, self.config.pixel_shuffle)
        features: Tensor = self.quant_conv(self.encoder(pixels))
        return features

    def decode_features(self, vectors: Tensor) -> Tensor:
        """Map code vectors f[N,E,h,w] to pixels f[N,3,H,W], not clipped; for training."""
        return self._unfold(self.decoder(self.post_quant_conv(vectors)))

    def _unfold(self, pixels: Tensor) -> Tensor:
        low, high = self.config.value_range
        pixels = F.pixel_shuffle(pixels, self.config.unfolded)
        if self.config.wavelet:
            pixels = inverse_haar(pixels)
        return (pixels - low) / (high - low)

    def _draws_singly(self, height: int, width: int) -> bool:
        """Tell whether the finest feature map of one picture keeps the processor busy."""
        finest = self.config.downsample_factor // self.config.pixel_shuffle
        size = (
            height
            * width
            * finest**2
            * self.config.ch
            * self.config.ch_mult[0]
            * self.dtype.itemsize
        )
        large = size >= LARGE_BYTES
        return large and self.device.type == "cpu" and self.dtype == torch.float32


def inverse_haar(bands: Tensor) -> Tensor:
    """Join f[N,12,H,W], the three colours small and three details of each, to f[N,3,2H,2W]."""
    small, details = bands[:, :3], bands[:, 3:].unflatten(1, (3, 3))
    rows, columns, both = details.unbind(2)
    places = [small + p * rows + q * columns + p * q * both for p in (1, -1) for q in (1, -1)]
    return F.pixel_shuffle(torch.stack(places, dim=2).flatten(1, 2) / 2, 2)


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()
