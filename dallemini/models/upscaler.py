"""Pictures made larger: the two networks of Real-ESRGAN.

Knows pixels, not files. Sources: "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
Synthetic Data" (Wang et al. 2021) and github.com/xinntao/Real-ESRGAN for the compact network;
"ESRGAN" (Wang et al. 2018, section 3.1) and github.com/XPixelGroup/BasicSR for the one of residual
dense blocks. Parameters have the names of the released files.

Shapes: N images, H/W pixels, s the factor of the enlargement, C channels.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import InputError, InputTypeError
from ..foreign import show
from ._checks import without_autocast
from .convolution import convolve
from .outlines import on_meta
from .pretrained import PretrainedModule
from .upscaler_config import UpscalerConfig

__all__ = ["Upscaler", "UpscalerConfig"]

PRE_PAD = 10
"""Pixels that the original mirrors below and right of a picture."""
TILE = 256
SMALLEST_TILE = 8

_RESIDUAL = 0.2  # ESRGAN, section 3.1: residuals are scaled down, which keeps training stable
_SLOPE = 0.2
_NEAR = 32  # pixels of context for dense blocks; the original takes 10


class Compact(nn.Module):
    """A chain of convolutions at the size of the input; what it adds is shuffled into pixels."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.scale = config.scale
        width = config.width
        self.body = nn.ModuleList([_convolution(3, width), nn.PReLU(width)])
        for _ in range(config.num_blocks):
            self.body.extend([_convolution(width, width), nn.PReLU(width)])
        self.body.append(_convolution(width, 3 * config.scale**2))

    def forward(self, pixels: Tensor, *, wraps: bool = False) -> Tensor:
        """Map f[N,3,H,W] to f[N,3,sH,sW]; `wraps` joins opposite edges."""
        hidden_states = pixels
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                hidden_states = convolve(layer, hidden_states, wraps=wraps)
            else:
                hidden_states = layer(hidden_states)
        enlarged = F.interpolate(pixels, scale_factor=self.scale, mode="nearest")
        return F.pixel_shuffle(hidden_states, self.scale) + enlarged


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it saw and made."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 5):
            self.add_module(f"conv{number}", _convolution(width + (number - 1) * growth, growth))
        self.conv5 = _convolution(width + 4 * growth, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map f[N,C,H,W] to f[N,C,H,W]."""
        seen = features
        for number in range(1, 5):
            made = F.leaky_relu(self.get_submodule(f"conv{number}")(seen), _SLOPE)
            seen = torch.cat([seen, made], dim=1)
        added: Tensor = self.conv5(seen)
        return features + _RESIDUAL * added


class ResidualBlock(nn.Module):
    """Three dense blocks in a row, with a residual around them."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(width, growth) for _ in range(3))

    def forward(self, features: Tensor) -> Tensor:
        """Map f[N,C,H,W] to f[N,C,H,W]."""
        added: Tensor = self.rdb3(self.rdb2(self.rdb1(features)))
        return features + _RESIDUAL * added


class RRDB(nn.Module):
    """Residual dense blocks; features are enlarged four times, from smaller ones for less."""

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__()
        self.fold = 4 // config.scale  # pixels along each side that become channels first
        width = config.width
        self.conv_first = _convolution(3 * self.fold**2, width)
        self.body = nn.ModuleList(
            [ResidualBlock(width, config.growth) for _ in range(config.num_blocks)]
        )
        self.conv_body = _convolution(width, width)
        self.conv_up1, self.conv_up2 = _convolution(width, width), _convolution(width, width)
        self.conv_hr, self.conv_last = _convolution(width, width), _convolution(width, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map f[N,3,H,W], a multiple of `fold` each way, to f[N,3,sH,sW]."""
        features = self.conv_first(F.pixel_unshuffle(pixels, self.fold))
        hidden_states = features
        for block in self.body:
            hidden_states = block(hidden_states)
        hidden_states = features + self.conv_body(hidden_states)
        for layer in (self.conv_up1, self.conv_up2):
            hidden_states = F.interpolate(hidden_states, scale_factor=2, mode="nearest")
            hidden_states = F.leaky_relu(layer(hidden_states), _SLOPE)
        enlarged: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(hidden_states), _SLOPE))
        return enlarged


class Upscaler(PretrainedModule[UpscalerConfig]):
    """Makes pictures larger, `config.scale` times along each side.

    Example:
        >>> import torch
        >>> from dallemini.models.upscaler import Upscaler, UpscalerConfig
        >>> config = UpscalerConfig(scale=2, width=8, num_blocks=1)
        >>> Upscaler.from_config(config).upscale(torch.rand(1, 3, 16, 24)).shape
        torch.Size([1, 3, 32, 48])
    """

    config_class: ClassVar[type[Config]] = UpscalerConfig
    component: ClassVar[Literal["upscaler"]] = "upscaler"

    def __init__(self, config: UpscalerConfig) -> None:
        super().__init__(config)
        with on_meta():
            self.network = Compact(config) if config.architecture == "compact" else RRDB(config)

    @property
    def scale(self) -> int:
        """How many times larger a picture becomes along each side."""
        return self.config.scale

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter, as `init_convolutions` does."""
        init_convolutions(self.network, generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map f[N,3,H,W] to f[N,3,sH,sW], as the network does, not clipped."""
        enlarged: Tensor = self.network(pixels)
        return enlarged

    @property
    def name(self) -> str:
        """What pictures record that were made larger by it."""
        return self.config.name

    @property
    def reach(self) -> int:
        """How many pixels away a pixel still changes the result, along each side."""
        config = self.config
        if config.architecture == "compact":
            return config.num_blocks + 2
        return self._fold * (15 * config.num_blocks + 4)  # the last three see enlarged pixels

    @property
    def context(self) -> int:
        """How many pixels around what is enlarged it is shown: `reach`, or 32 of dense blocks.

        Dense blocks see so far that it would take too long; of what lies beyond little is left.
        """
        return self.reach if self.config.architecture == "compact" else _NEAR

    @torch.no_grad()
    def upscale(
        self,
        images: Tensor,
        *,
        tile: int | None = TILE,
        tile_pad: int | None = None,
        pre_pad: int = PRE_PAD,
    ) -> Tensor:
        """Enlarge pictures, one at a time, so that a picture is the same in any batch.

        Args:
            images: f[N,3,H,W] in [0, 1].
            tile: side in pixels of the squares that larger pictures are cut into, which bounds the
                memory; None never cuts.
            tile_pad: pixels that a square sees around it. None is `context`, which for the compact
                network gives what no cutting gives but for the rounding of float32; the other one
                sees farther, so that its seams are only near to it.
            pre_pad: pixels that are mirrored below and right of a picture, as in the original.

        Returns:
            f[N,3,sH,sW] in [0, 1], of the dtype and on the device of the weights.

        Raises:
            InputTypeError: `images` is not a tensor of floats.
            InputError: it has another shape, or values that are not numbers; or `tile`,
                `tile_pad` or `pre_pad` is out of range.
        """
        _check(images, tile, tile_pad, pre_pad)
        if tile_pad is None:
            tile_pad = self.context
        made = images.new_empty(
            len(images),
            3,
            *(side * self.scale for side in images.shape[2:]),
            dtype=self.dtype,
            device=self.device,
        )
        with without_autocast(self.device):
            for image, place in zip(images, made, strict=True):
                own = image[None].to(self.device, self.dtype)
                self._enlarge(own, place, tile, tile_pad, pre_pad)
        return made.clamp_(0, 1)

    @property
    def _fold(self) -> int:
        """What the sides of a picture must be multiples of; the original asks it of both."""
        return max(1, 4 // self.scale)

    def _enlarge(
        self, image: Tensor, made: Tensor, tile: int | None, tile_pad: int, pre_pad: int
    ) -> None:
        """Enlarge f[1,3,H,W], square by square with what lies around each, into f[3,sH,sW]."""
        (rows, columns), fold, scale = image.shape[2:], self._fold, self.scale
        padded = _mirror(image, bottom=pre_pad, right=pre_pad)
        padded = _mirror(padded, bottom=-padded.shape[2] % fold, right=-padded.shape[3] % fold)
        if tile is None or max(rows, columns) <= tile:
            step, around = max(padded.shape[2:]), 0
        else:
            step, around = (-(-size // fold) * fold for size in (tile, tile_pad))
        for top in range(0, rows, step):
            for left in range(0, columns, step):
                above, before = max(top - around, 0), max(left - around, 0)
                seen = padded[:, :, above : top + step + around, before : left + step + around]
                place = made[
                    :, top * scale : (top + step) * scale, left * scale : (left + step) * scale
                ]
                height, width = place.shape[1:]
                first, second = (top - above) * scale, (left - before) * scale
                place[:] = self(seen)[0, :, first : first + height, second : second + width]


def init_convolutions(network: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter: He's normal for what is followed by a rectifier, but smaller.

    "Delving Deep into Rectifiers" (He et al. 2015, section 2.2).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0.0, 0.1 * (2 / fan_in) ** 0.5, generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, 0.25)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, device="meta")


def _mirror(image: Tensor, *, bottom: int, right: int) -> Tensor:
    """Mirror pixels below and right; a picture with fewer repeats its last ones."""
    height, width = image.shape[2:]
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode) if bottom or right else image


def _check(images: object, tile: object, tile_pad: object, pre_pad: object) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputTypeError(f"images must be a tensor of floats in [0, 1], not {found}.")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise InputError(f"images must have shape [N, 3, H, W], not {list(images.shape)}.")
    if not bool(images.isfinite().all()):
        raise InputError("images must be finite numbers in [0, 1].")
    if tile is not None and not (type(tile) is int and tile >= SMALLEST_TILE):
        raise InputError(
            f"tile must be a whole number from {SMALLEST_TILE} pixels, not {show(tile)}; None "
            "never cuts."
        )
    for name, pad in (("tile_pad", 0 if tile_pad is None else tile_pad), ("pre_pad", pre_pad)):
        if not (type(pad) is int and 0 <= pad <= 1024):
            raise InputError(f"{name} must be from 0 to 1024 pixels, not {show(pad)}.")
