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
from ..errors import ConfigError, InputError, InputTypeError, UnsupportedOperationError
from ..foreign import show
from ._checks import check_ids, check_range, without_autocast
from .convolution import GROUPS, Downsample, Level, Middle, Upsample, convolve, group_norm
from .pretrained import PretrainedModule, empty_embedding
from .vqgan_cpu import LARGE_BYTES, draw_convolved, draw_level

_MOST_LEVELS = 16
OVERSHOOT = 0.01  # beyond [0, 1], as resizing leaves behind


@dataclass(frozen=True, kw_only=True)
class VQGANConfig(Config):
    """Sizes of the image tokenizer; the defaults are those of the released f16, 16,384 codes.

    Attributes:
        ch: channels at full resolution; `ch_mult` multiplies them level by level.
        attn_resolutions: levels, by their size at `resolution`, that have attention.
        value_range: pixel range that the network was trained on; callers always see [0, 1].
        pixel_shuffle: side of the pixel block that is folded into channels around the network;
            1, as released, folds nothing.
        has_encoder: False for files that only decode.
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
    has_encoder: bool = True

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

    @property
    def downsample_factor(self) -> int:
        """Pixels along each side of the square that one token stands for."""
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
        self.conv_out = nn.Conv2d(widths[0], 3 * config.pixel_shuffle**2, 3, padding=1)

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
        self.embedding = empty_embedding(config.n_embed, config.embed_dim)

    def nearest(self, features: Tensor) -> Tensor:
        """Return the code whose vector is nearest to each of f[M,E], as i64[M]."""
        codes = self.embedding.weight.float()
        features = features.float()
        # |f - c|^2 without the term |f|^2, which is the same for every code
        distances = torch.addmm(codes.square().sum(1), features, codes.T, alpha=-2.0)
        return distances.argmin(dim=1)


class VQGAN(PretrainedModule[VQGANConfig]):
    """Pictures to codes and codes to pictures.

    Constructing it describes the structure on the `meta` device; use `from_pretrained` for stored
    weights and `from_config` for random ones.

    Example:
        >>> from dallemini import VQGAN
        >>> from dallemini.models import VQGANConfig
        >>> sum(p.numel() for p in VQGAN(VQGANConfig()).parameters())
        76073859
    """

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
    def image_length(self) -> int:
        """Number of tokens of a picture at the resolution the model was trained on."""
        return (self.config.resolution // self.config.downsample_factor) ** 2

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

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Turn pictures into codes.

        Args:
            images: f[N,3,H,W] in [0, 1]; H and W multiples of `config.downsample_factor`.

        Returns:
            i64[N,L], row by row from the top left.

        Raises:
            UnsupportedOperationError: this checkpoint holds the decoder only.
            InputTypeError: the images are not a floating-point tensor.
            InputError: wrong shape or size, or values outside [0, 1].
        """
        if not self.config.has_encoder:
            raise UnsupportedOperationError(
                "This VQGAN holds only the decoder (such as min-dalle's detoker.pt); load one with "
                "an encoder, for example 'dalle-mini/vqgan_imagenet_f16_16384'."
            )
        self._check_images(images)
        features = self.encode_features(images.to(self.device, self.dtype))
        flat = features.permute(0, 2, 3, 1).flatten(0, 2)
        return self.quantize.nearest(flat).view(images.shape[0], -1)

    @torch.no_grad()
    def decode(
        self,
        image_tokens: Tensor,
        *,
        shape: tuple[int, int] | None = None,
        wraps: bool = False,
    ) -> Tensor:
        """Turn codes into pictures.

        On the CPU in float32, pictures of the released size and larger are drawn one at a time:
        they are the same in any batch, to the last bit, and need the memory of one.

        Args:
            image_tokens: i64[N,L], 0 <= code < `codebook_size`; L must be a square number, unless
                `shape` is given.
            shape: rows and columns of codes, h and w with L = h * w.
            wraps: let each picture go on at its opposite edges, so that it can be repeated.

        Returns:
            f[N,3,H,W] clipped to [0, 1].

        Raises:
            InputError: L is not a square number or h * w, or a code is outside the codebook.
            InputTypeError: the tokens are not integers.
        """
        height, width = self._check_codes(image_tokens, shape)
        with without_autocast(self.device):
            vectors = self.quantize.embedding(image_tokens.to(self.device, torch.int64))
            vectors = vectors.view(-1, height, width, self.config.embed_dim).permute(0, 3, 1, 2)
            return self._unfold(self._draw(vectors, wraps)).clamp(0, 1)

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
        pixels = F.pixel_shuffle(pixels, self.config.pixel_shuffle)
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

    def _check_images(self, images: Tensor) -> None:
        factor = self.config.downsample_factor
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise InputTypeError(f"images must be a floating-point tensor in [0, 1], not {kind}.")
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            raise InputError(f"images must have shape [N, 3, H, W], not {list(images.shape)}.")
        if images.shape[2] % factor or images.shape[3] % factor:
            raise InputError(
                f"Height and width must be multiples of {factor}, not "
                f"{images.shape[2]}x{images.shape[3]}; resize or crop the images."
            )
        if not images.is_meta:
            low, high = (float(bound) for bound in torch.aminmax(images))
            if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
                raise InputError(f"images must lie in [0, 1], but hold {low:.3g} to {high:.3g}.")

    def _check_codes(self, image_tokens: Tensor, shape: tuple[int, int] | None) -> tuple[int, int]:
        asked = f"[N, L] with L a square number such as {self.image_length}"
        if shape is not None:
            asked = f"[N, {shape[0]} * {shape[1]}]"
        check_ids("image_tokens", image_tokens, shape=asked, axes=2)
        side = math.isqrt(image_tokens.shape[1])
        height, width = (side, side) if shape is None else shape
        if min(height, width) < 1 or height * width != image_tokens.shape[1]:
            raise InputError(
                f"image_tokens must have shape {asked}, not {list(image_tokens.shape)}."
            )
        hint = f"this codebook has {self.codebook_size} codes"
        check_range("Image tokens", image_tokens, limit=self.codebook_size, hint=hint)
        return height, width


def _fan_in(weight: Tensor) -> int:
    return weight[0].numel()
