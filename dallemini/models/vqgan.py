"""The image tokenizer: pictures to codes and back (VQGAN).

Knows pixels and codes, not files. Source: "Taming Transformers for High-Resolution Image
Synthesis" (Esser et al. 2021, section 3.1) and github.com/CompVis/taming-transformers, with whose
names the parameters agree; github.com/patil-suraj/vqgan-jax computes the same.

Shapes: N images, L image tokens, H/W pixels, C channels, h/w positions of a feature map.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import UnsupportedOperationError
from .convolution import Downsample, Level, Middle, Upsample, convolve, group_norm
from .image_tokenizer import ImageTokenizer
from .outlines import empty_embedding, on_meta
from .upscaler import Compact, init_convolutions
from .vqgan_config import VQGANConfig
from .vqgan_cpu import LARGE_BYTES, draw_convolved, draw_level

__all__ = ["VQGAN", "VQGANConfig"]


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
        self.conv_out = nn.Conv2d(widths[0], bands * 3 * config.pixel_shuffle**2, 3, padding=1)

    def forward(self, features: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,z,h,w] to f[N,3p²,H/p,W/p]; `wraps` joins opposite edges."""
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
        with on_meta():
            if config.has_encoder:
                self.encoder = Encoder(config)
                self.quant_conv = nn.Conv2d(config.z_channels, config.embed_dim, 1)
            self.quantize = Codebook(config)
            self.post_quant_conv = nn.Conv2d(config.embed_dim, config.z_channels, 1)
            self.decoder = Decoder(config)
            if config.refiner_scale > 1:
                self.refiner = Compact(config.refiner)

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
        """Draw convolutions scaled by their fan-in and codes from N(0, 1); norms start at 1.

        The refiner starts as an upscaler does.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norm" in name:
                nn.init.ones_(parameter)
            elif parameter.ndim == 4:
                nn.init.normal_(parameter, std=_fan_in(parameter) ** -0.5, generator=generator)
            else:
                nn.init.normal_(parameter, generator=generator)
        if self.config.refiner_scale > 1:
            init_convolutions(self.refiner, generator)

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
        pixels = self._unfold(self._draw(vectors, wraps))
        if self.config.refiner_scale == 1:
            return pixels
        return torch.cat([self.refiner(one, wraps=wraps) for one in pixels.split(1)])

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
        pixels = self._unfold(self.decoder(self.post_quant_conv(vectors)))
        return pixels if self.config.refiner_scale == 1 else cast(Tensor, self.refiner(pixels))

    def _unfold(self, pixels: Tensor) -> Tensor:
        low, high = self.config.value_range
        pixels = F.pixel_shuffle(pixels, self.config.pixel_shuffle)
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
