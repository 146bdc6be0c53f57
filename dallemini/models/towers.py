"""The two sides of the transformer (DalleBart): embeddings, positions, layers, and a final norm.

Knows token ids, hidden states and the cache. Source: `src/dalle_mini/model/modeling.py` of
github.com/borisdayma/dalle-mini.

Shapes: B prompts, R decoder rows, S positions, T text tokens, L image tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..architecture import Side
from .blocks import DecoderLayer, EncoderLayer
from .cache import DecoderCache, EncoderOutput
from .decoder_layers import run_layers
from .norms import make_norm, normalize
from .outlines import empty_embedding
from .transformer_config import TransformerConfig


class Tower(nn.Module):
    """What both sides have: embeddings, positions, layers, and a final norm.

    Args:
        config: of the transformer.
        side: which of the two.
        vocabulary: rows of the token embedding.
        positions: rows of the position embedding.
    """

    embed_positions: nn.Embedding | None
    final_norm: nn.Module | None

    def __init__(
        self, config: TransformerConfig, *, side: Side, vocabulary: int, positions: int
    ) -> None:
        super().__init__()
        width, kind = config.d_model, EncoderLayer if side == "encoder" else DecoderLayer
        self.embed_scale: float = width**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = empty_embedding(vocabulary, width)
        absolute = config.use_absolute_position_embeddings
        self.embed_positions = empty_embedding(positions, width) if absolute else None
        self.layernorm_embedding = make_norm(config.ln_type, width)
        self.layers = nn.ModuleList(kind(config, index) for index in range(config.layers(side)))
        closes = config.wants_final_norm(side) and config.ln_positions != "postln"
        self.final_norm = None
        if closes:
            self.final_norm = make_norm(config.ln_type, width, scale=config.force_ln_scale)

    def embed(self, input_ids: Tensor, cache: DecoderCache | None = None) -> Tensor:
        """Embed i64[B,S] at the first positions, or at the next ones of a cache, as f[B,S,D]."""
        embedded = self.embed_tokens(input_ids) * self.embed_scale
        if self.embed_positions is not None:
            table, count = self.embed_positions.weight, input_ids.shape[1]
            here = table[:count] if cache is None else cache.take_positions(table, count)
            embedded = embedded + here
        normed: Tensor = self.layernorm_embedding(embedded)
        return normed


class Encoder(Tower):
    """The text side: embeddings, positions, layers, final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(
            config,
            side="encoder",
            vocabulary=config.text_vocab_size,
            positions=config.max_text_length,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map i64[B,T] with mask bool[B,T] to f[B,T,D]."""
        hidden_states = self.embed(input_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask[:, None, None, :])
        return normalize(self.final_norm, hidden_states)


class Decoder(Tower):
    """The image side: embeddings, positions, layers, final norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(
            config,
            side="decoder",
            vocabulary=config.image_vocab_size + 1,
            positions=config.image_length,
        )

    def forward(
        self,
        input_ids: Tensor,
        encoder_output: EncoderOutput | None = None,
        *,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Map i64[B,L] (start token first) to f[B,L,D]; or the next i64[R,S] of a cache.

        Args:
            input_ids: of the first positions, or of the next ones of the cache's rows.
            encoder_output: the text; None with a cache, which has what is needed of it.
            cache: whose rows go on; their positions are written.

        Returns:
            As many hidden states.
        """
        hidden_states = self.embed(input_ids, cache)
        computed = None if cache is None else run_layers(self.layers, hidden_states, cache)
        if computed is not None:
            return normalize(self.final_norm, computed)
        for number, layer in enumerate(self.layers):
            if cache is None:
                hidden_states = layer(hidden_states, encoder_output)
            else:  # as it is, without what training puts around a call
                hidden_states = layer.forward(hidden_states, cache=cache, layer=number)
        return normalize(self.final_norm, hidden_states)
