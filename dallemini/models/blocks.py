"""One layer of each side of the transformer (DalleBart, NormFormer with GLU).

Knows hidden states, masks and the cache. Source: `src/dalle_mini/model/modeling.py` of
github.com/borisdayma/dalle-mini.

Shapes: B prompts, R decoder rows, S positions, T text tokens, L image tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from .attention import GLU, LAYER_NORM_EPS, BiasNorm, CrossAttention, SelfAttention
from .cache import DecoderCache, EncoderOutput


class EncoderLayer(nn.Module):
    """Bidirectional self-attention and a gated feed-forward block, each with a residual."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.self_attn_norm = BiasNorm(width)
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_post_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.glu = GLU(width, ffn_width)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Map f[B,T,D] to f[B,T,D]; `mask` bool[B,1,1,T]."""
        attended = self.self_attn(self.self_attn_norm(hidden_states), mask=mask)
        hidden_states = hidden_states + self.self_attn_post_norm(attended)
        fed_forward: Tensor = self.glu(hidden_states)
        return hidden_states + fed_forward


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the text, and a gated feed-forward block."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.self_attn_norm = BiasNorm(width)
        self.self_attn = SelfAttention(width, heads)
        self.self_attn_post_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.cross_attn_norm = BiasNorm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.cross_attn_post_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.glu = GLU(width, ffn_width)

    def forward(self, hidden_states: Tensor, encoder_output: EncoderOutput) -> Tensor:
        """Map f[B,L,D] to f[B,L,D], each position seeing itself and those before it."""
        attended = self.self_attn(self.self_attn_norm(hidden_states), causal=True)
        hidden_states = hidden_states + self.self_attn_post_norm(attended)
        key, value = self.cross_attn.project_states(encoder_output.hidden_states)
        mask = encoder_output.attention_mask[:, None, None, :]
        return self._attend_text(hidden_states, key, value, mask)

    def step(self, hidden_states: Tensor, cache: DecoderCache, layer: int) -> Tensor:
        """Map the next positions f[R,S,D], reading and extending the cache of this layer."""
        query, key, value = self.self_attn.project(self.self_attn_norm(hidden_states))
        attended = cache.attend(layer, query, key, value)
        attended = self.self_attn_post_norm(self.self_attn.merge(attended))
        return self._attend_text(
            hidden_states + attended,
            cache.cross_keys[layer],
            cache.cross_values[layer],
            cache.cross_mask,
        )

    def _attend_text(
        self, hidden_states: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> Tensor:
        attended = self.cross_attn(self.cross_attn_norm(hidden_states), key, value, mask)
        hidden_states = hidden_states + self.cross_attn_post_norm(attended)
        fed_forward: Tensor = self.glu(hidden_states)
        return hidden_states + fed_forward
