"""The sizes of CLIP, and what they are refused for. Knows no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..config import LARGEST_SIZE, MOST_LAYERS, Config, both_sides
from ..errors import ConfigError
from ..foreign import show

_SIZES = ("embed_dim", "patch_size", "context_length", "vocab_size")
_TOWER_SIZES = ("width", "layers", "heads", "mlp_dim")
_CHOICES = {
    "activation": ("quick_gelu", "gelu"),
    "pooling": ("argmax", "first_eos"),
    "crop_rounding": ("down", "even"),
}
_LARGEST_IMAGE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(Config):
    """Sizes of a CLIP model; the defaults are ViT-B/32 as OpenAI released it.

    `image_size` is the side of the pictures, or their height and width.

    `pooling` says where a sentence is read off: "argmax" at its highest id (OpenAI, open_clip, and
    the released Hugging Face files), "first_eos" at the first `eos_token_id`. `crop_rounding` says
    where an odd margin is cut: Hugging Face rounds its half "down", torchvision (OpenAI, open_clip)
    to "even".

    Raises:
        ConfigError: a size is not positive, or a value has the wrong type or range.

    Example:
        >>> from dallemini.models.clip import CLIPConfig
        >>> CLIPConfig(image_size=64, patch_size=8).num_patches
        64
    """

    embed_dim: int = 512
    image_size: int | tuple[int, ...] = 224
    patch_size: int = 32
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    vision_mlp_dim: int = 3072
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    text_mlp_dim: int = 2048
    context_length: int = 77
    vocab_size: int = 49408
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    pooling: Literal["argmax", "first_eos"] = "argmax"
    eos_token_id: int = 49407
    pad_token_id: int = 49407
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    crop_rounding: Literal["down", "even"] = "down"
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        self.check_types()
        towers = [f"{tower}_{size}" for tower in ("vision", "text") for size in _TOWER_SIZES]
        for name in (*_SIZES, *towers):
            size = getattr(self, name)
            highest = MOST_LAYERS if name.endswith("_layers") else LARGEST_SIZE
            _require(size >= 1, f"{name} must be at least 1, not {show(size)}")
            _require(size <= highest, f"{name} must be at most {highest}, not {show(size)}")
        for tower in ("vision", "text"):
            width, heads = getattr(self, f"{tower}_width"), getattr(self, f"{tower}_heads")
            _require(
                width % heads == 0,
                f"{tower}_width={width} must be a multiple of {tower}_heads={heads}",
            )
        image = self.image_size
        _require(
            isinstance(image, int) or len(image) == 2,
            f"image_size must be a side, or height and width, not {show(image)}",
        )
        _require(min(self.size) >= 1, f"image_size must be at least 1, not {show(image)}")
        patch = self.patch_size
        _require(patch <= min(self.size), f"patch_size={patch} exceeds image_size={show(image)}")
        for name, choices in _CHOICES.items():
            choice = getattr(self, name)
            _require(choice in choices, f"{name} must be one of {choices}, not {show(choice)}")
        for name in ("eos_token_id", "pad_token_id"):
            token = getattr(self, name)
            _require(0 <= token <= LARGEST_SIZE, f"{name} must be an id, not {show(token)}")
        _require(
            max(self.size) <= _LARGEST_IMAGE,
            f"image_size must be at most {_LARGEST_IMAGE}, not {show(image)}",
        )
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            finite = len(values) == 3 and all(map(math.isfinite, values))
            _require(finite, f"{name} needs 3 numbers (red, green, blue), not {show(values)}")
        _require(min(self.image_std) > 0, f"image_std must be above 0, not {show(self.image_std)}")
        _require(
            0 < self.layer_norm_eps < math.inf,
            f"layer_norm_eps={self.layer_norm_eps} must be above 0",
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return both_sides(self.image_size)

    @property
    def num_patches(self) -> int:
        """Number of patches of one picture, without the class token."""
        return math.prod(side // self.patch_size for side in self.size)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"CLIPConfig.{rule}.")
