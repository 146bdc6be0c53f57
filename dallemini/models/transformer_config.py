"""The sizes and switches of the transformer, and what they are refused for.

The switches are those of `DalleBartConfig` (`src/dalle_mini/model/configuration.py` of
github.com/borisdayma/dalle-mini, version 0.1.5), under its names; their defaults are the released
architecture. Knows no tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..architecture import SIDES, Activation, NormPositions, NormType, Side
from ..config import LARGEST_SIZE, MOST_LAYERS, Config
from ..errors import ConfigError, InputError
from ..foreign import show

MOST_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Config):
    """Sizes and switches of the transformer; the defaults are DALL-E Mini's.

    The image embedding and the head have `image_vocab_size + 1` rows; ids from the VQGAN's number
    of codes up never stand for a picture, one of them is the start token.

    Attributes:
        scale_embedding: multiply embedded tokens by the root of `d_model`.
        ln_positions: where layers have norms: before and after attention and inside the
            feed-forward block ("normformer"), before blocks ("preln"), after sums ("postln"),
            before and after blocks ("cogview"), after blocks and every sixth layer ("swinv2"), or
            inside blocks ("subln").
        ln_type: layer norm, or RMS norm, which has no biases.
        force_ln_scale: give a scale to those norms too that feed a dense layer.
        use_final_ln_encoder: whether a norm closes the encoder; "postln" never has it.
        use_final_ln_decoder: whether a norm closes the decoder, likewise.
        use_bias: give every dense layer but the head a bias.
        use_glu: gate the feed-forward blocks.
        activation_function: of the gate, or of the block without one. "smelu" is 1/4 below -1, as
            the original computes it, and not 0.
        use_cosine_attention: compare directions only; scores are divided by `tau_init`.
        tau_init: above 0, of cosine attention; it is not trained.
        sinkhorn_iters: how often the encoder's attention is normalised, over keys and queries in
            turns; 1 is the usual softmax. Padding takes part from 2 on.
        use_head_scale: train a factor for each head.
        use_absolute_position_embeddings: add an embedding of the position to each token.
        use_swin_position_embeddings: add a trained number to the score of each pair of positions.
        use_deepnet_scaling: enlarge what residuals carry on, and begin with smaller weights.
        use_subln_init: begin with the larger weights of "subln"; nothing else changes.
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
    ln_positions: NormPositions = "normformer"
    ln_type: NormType = "layernorm"
    force_ln_scale: bool = False
    use_final_ln_encoder: bool = True
    use_final_ln_decoder: bool = True
    use_bias: bool = False
    use_glu: bool = True
    activation_function: Activation = "gelu"
    use_cosine_attention: bool = False
    tau_init: float = 0.05
    sinkhorn_iters: int = 1
    use_head_scale: bool = False
    use_absolute_position_embeddings: bool = True
    use_swin_position_embeddings: bool = False
    use_deepnet_scaling: bool = False
    use_subln_init: bool = False
    image_grid: tuple[int, ...] | None = None
    image_tokenizer: str | None = None

    def __post_init__(self) -> None:
        self.check_types()
        for name, value in self.to_dict().items():
            if isinstance(value, int) and not isinstance(value, bool):
                _check_size(name, value)
        for side in SIDES:
            heads = self.heads(side)
            if self.d_model % heads:
                raise ConfigError(
                    f"d_model {self.d_model} must be a multiple of {side}_attention_heads {heads}."
                )
        if self.decoder_start_token_id > self.image_vocab_size:
            raise ConfigError(
                f"decoder_start_token_id {self.decoder_start_token_id} must be at most "
                f"image_vocab_size {self.image_vocab_size}."
            )
        self._check_grid()
        self._check_switches()

    def _check_grid(self) -> None:
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

    def _check_switches(self) -> None:
        if not 0 < self.tau_init < math.inf:
            raise ConfigError(
                f"TransformerConfig.tau_init must be a finite number above 0, not {self.tau_init}."
            )
        for side in SIDES:
            if self.ln_positions == "postln" and not self.wants_final_norm(side):
                raise ConfigError(
                    f"ln_positions 'postln' has no final norm that use_final_ln_{side} could take "
                    "away; leave it true."
                )

    def heads(self, side: Side) -> int:
        """Return the number of attention heads of a side."""
        return self.encoder_attention_heads if side == "encoder" else self.decoder_attention_heads

    def layers(self, side: Side) -> int:
        """Return the number of layers of a side."""
        return self.encoder_layers if side == "encoder" else self.decoder_layers

    def ffn_dim(self, side: Side) -> int:
        """Return the inner width of the feed-forward blocks of a side."""
        return self.encoder_ffn_dim if side == "encoder" else self.decoder_ffn_dim

    def wants_final_norm(self, side: Side) -> bool:
        """Return `use_final_ln_encoder` or `use_final_ln_decoder`."""
        return self.use_final_ln_encoder if side == "encoder" else self.use_final_ln_decoder


def _check_size(name: str, value: int) -> None:
    lowest = 0 if name == "decoder_start_token_id" else 1
    highest = MOST_LAYERS if name.endswith("_layers") else LARGEST_SIZE
    highest = MOST_ITERATIONS if name == "sinkhorn_iters" else highest
    if not lowest <= value <= highest:
        bound = f"at least {lowest}" if value < lowest else f"at most {highest}"
        raise ConfigError(f"TransformerConfig.{name} must be {bound}, not {show(value)}.")
