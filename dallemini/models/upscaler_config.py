"""The sizes of an upscaler, and what they are refused for. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Config
from ..errors import ConfigError
from ..foreign import show


@dataclass(frozen=True, kw_only=True)
class UpscalerConfig(Config):
    """Sizes of an upscaler; the defaults are those of realesr-animevideov3.

    Attributes:
        architecture: "compact", a chain of convolutions; "rrdb", residual dense blocks.
        scale: how many times larger a picture becomes.
        width: channels between the convolutions.
        num_blocks: convolutions of the chain between the first and the last, or residual blocks.
        growth: channels that each convolution of a dense block adds; of "rrdb" only.
        name: what pictures record that were made larger by it.

    Raises:
        ConfigError: a size is out of range, or no such architecture or scale is computed here.
    """

    architecture: Literal["compact", "rrdb"] = "compact"
    scale: int = 4
    width: int = 64
    num_blocks: int = 16
    growth: int = 32
    name: str = "custom"

    def __post_init__(self) -> None:
        self.check_types()
        scales = range(1, 9) if self.architecture == "compact" else (1, 2, 4)
        if self.scale not in scales:
            raise ConfigError(
                f"scale of {self.architecture!r} must be one of {', '.join(map(str, scales))}, not "
                f"{show(self.scale)}."
            )
        for name, most in (("width", 1024), ("num_blocks", 1000), ("growth", 1024)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be from 1 to {most}.")
