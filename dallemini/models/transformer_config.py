"""Sizes of the transformer, and what its tokens mean.

Knows numbers, no network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import LARGEST_SIZE, MOST_LAYERS, Config
from ..errors import ConfigError, InputError
from ..foreign import show


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """Sizes of the transformer; the defaults are DALL-E Mini's.

    The image embedding and the head have `image_vocab_size + 1` rows; ids from the VQGAN's number
    of codes up never stand for a picture, one of them is the start token.

    Attributes:
        image_grid: rows and columns of its tokens, which are `image_length` together; None for a
            square.
        image_tokenizer: `fingerprint` of the image tokenizer whose codes it was trained on; None
            where nobody noted it, as in released checkpoints.
    """

    text_vocab_size: int = 50264
    image_vocab_size: int = 16384
    image_length: int = 256
    max_text_length: int = 64
    d_model: int = 1024
    encoder_layers: int = 12
    decoder_layers: int = 12
    encoder_attention_heads: int = 16
    decoder_attention_heads: int = 16
    encoder_ffn_dim: int = 2730
    decoder_ffn_dim: int = 2730
    decoder_start_token_id: int = 16384
    scale_embedding: bool = False
    image_grid: tuple[int, ...] | None = None
    image_tokenizer: str | None = None

    def __post_init__(self) -> None:
        self.check_types()
        for name, value in self.to_dict().items():
            if not isinstance(value, int):
                continue
            lowest = 0 if name == "decoder_start_token_id" else 1
            highest = MOST_LAYERS if name.endswith("_layers") else LARGEST_SIZE
            if not isinstance(value, bool) and not lowest <= value <= highest:
                bound = f"at least {lowest}" if value < lowest else f"at most {highest}"
                raise ConfigError(f"TransformerConfig.{name} must be {bound}, not {show(value)}.")
        for side in ("encoder", "decoder"):
            heads = getattr(self, f"{side}_attention_heads")
            if self.d_model % heads:
                raise ConfigError(
                    f"d_model {self.d_model} must be a multiple of {side}_attention_heads {heads}."
                )
        if self.decoder_start_token_id > self.image_vocab_size:
            raise ConfigError(
                f"decoder_start_token_id {self.decoder_start_token_id} must be at most "
                f"image_vocab_size {self.image_vocab_size}."
            )
        grid = self.image_grid
        if grid is not None and (len(grid) != 2 or math.prod(grid) != self.image_length):
            raise ConfigError(
                f"image_grid must be rows and columns that make image_length {self.image_length} "
                f"tokens, not {show(grid)}."
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a picture's tokens.

        Raises:
            InputError: their number is no square, and `image_grid` does not say it.
        """
        if self.image_grid is not None:
            rows, columns = self.image_grid
            return rows, columns
        side = math.isqrt(self.image_length)
        if side * side != self.image_length:
            raise InputError(
                f"The transformer draws {self.image_length} tokens, which is no square picture; "
                "say the rows and columns in its configuration, as image_grid."
            )
        return side, side
