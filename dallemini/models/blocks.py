"""One layer of each side of the transformer (DalleBart).

Knows hidden states, masks and the cache. Which norms a layer has is told by
`dallemini.architecture`. Source: `src/dalle_mini/model/modeling.py` of
github.com/borisdayma/dalle-mini.

Shapes: B prompts, R decoder rows, S positions, T text tokens, L image tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..architecture import BARE_NORMS, Side, has_layer_norm, layer_norms
from .attention import AttentionForm, CrossAttention, SelfAttention
from .cache import DecoderCache, EncoderOutput
from .feed_forward import GLU, FeedForward
from .norms import make_norm, normalize
from .scaling import residual_scale
from .transformer_config import TransformerConfig


class Layer(nn.Module):
    """Blocks in a row, each in a residual, with the norms that a placement has.

    Absent norms and blocks are None. The feed-forward block is called `glu` with a gate and `ffn`
    without.

    Args:
        config: of the transformer.
        side: of which this is a layer.
        index: number of the layer in its side.
    """

    self_attn_norm: nn.Module | None
    self_attn_post_norm: nn.Module | None
    self_attn_sum_norm: nn.Module | None
    layer_norm: nn.Module | None
    glu: GLU | None
    ffn: FeedForward | None

    def __init__(self, config: TransformerConfig, *, side: Side, index: int) -> None:
        super().__init__()
        self._config, self._side = config, side
        self._norms = set(layer_norms(config.ln_positions, side))
        if not has_layer_norm(config.ln_positions, index, config.layers(side)):
            self._norms.discard("layer_norm")
        self.scale = residual_scale(config, side)
        self.self_attn_norm = self._norm("self_attn_norm", config.d_model)
        self.self_attn = SelfAttention(
            config.d_model,
            config.heads(side),
            attention_form(config, side),
            norm_mid=self._norm("self_attn.norm_mid", config.d_model),
        )
        self.self_attn_post_norm = self._norm("self_attn_post_norm", config.d_model)
        self.self_attn_sum_norm = self._norm("self_attn_sum_norm", config.d_model)

    def _finish(self) -> None:
        """Add the feed-forward block, and the norm behind the layer."""
        config, kind = self._config, GLU if self._config.use_glu else FeedForward
        block = kind(
            config.d_model,
            config.ffn_dim(self._side),
            norm=lambda name, width: self._norm(f"feed_forward.{name}", width),
            activation=config.activation_function,
            bias=config.use_bias,
        )
        self.glu, self.ffn = (block, None) if isinstance(block, GLU) else (None, block)
        self.layer_norm = self._norm("layer_norm", config.d_model)

    def _norm(self, name: str, width: int) -> nn.Module | None:
        if name not in self._norms:
            return None
        scale = name not in BARE_NORMS or self._config.force_ln_scale
        return make_norm(self._config.ln_type, width, scale=scale)

    def _add(self, hidden_states: Tensor, update: Tensor, norm: nn.Module | None) -> Tensor:
        """Close a residual: what is carried on, and what a block computed from it."""
        if self.scale != 1.0:
            hidden_states = hidden_states * self.scale
        return normalize(norm, hidden_states + update)

    def _feed_forward(self, hidden_states: Tensor) -> Tensor:
        block = self.ffn if self.glu is None else self.glu
        assert block is not None
        return self._add(hidden_states, block(hidden_states), self.layer_norm)


class EncoderLayer(Layer):
    """Bidirectional self-attention and a feed-forward block, each with a residual.

    Args:
        config: of the transformer.
        index: number of the layer.
    """

    def __init__(self, config: TransformerConfig, index: int = 0) -> None:
        super().__init__(config, side="encoder", index=index)
        self._finish()

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Map f[B,T,D] to f[B,T,D]; `mask` bool[B,1,1,T]."""
        attended = self.self_attn(normalize(self.self_attn_norm, hidden_states), mask=mask)
        attended = normalize(self.self_attn_post_norm, attended)
        return self._feed_forward(self._add(hidden_states, attended, self.self_attn_sum_norm))


class DecoderLayer(Layer):
    """Causal self-attention, attention to the text, and a feed-forward block.

    Args:
        config: of the transformer.
        index: number of the layer.
    """

    cross_attn_norm: nn.Module | None
    cross_attn_post_norm: nn.Module | None
    cross_attn_sum_norm: nn.Module | None

    def __init__(self, config: TransformerConfig, index: int = 0) -> None:
        super().__init__(config, side="decoder", index=index)
        width, heads = config.d_model, config.decoder_attention_heads
        self.cross_attn_norm = self._norm("cross_attn_norm", width)
        self.cross_attn = CrossAttention(
            width, heads, attention_form(config, "decoder", to_text=True)
        )
        self.cross_attn_post_norm = self._norm("cross_attn_post_norm", width)
        self.cross_attn_sum_norm = self._norm("cross_attn_sum_norm", width)
        self._finish()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_output: EncoderOutput | None = None,
        *,
        cache: DecoderCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Map f[B,L,D], each position seeing itself and those before it; or go on with a cache.

        Args:
            hidden_states: f[B,L,D]; f[R,S,D] of the next positions with a cache.
            encoder_output: the text; None with a cache, which has what is needed of it.
            cache: read, and extended in this layer.
            layer: number of this layer in the cache.

        Returns:
            As many hidden states.
        """
        normed = normalize(self.self_attn_norm, hidden_states)
        attended = self.self_attn(normed, causal=True, cache=cache, layer=layer)
        attended = normalize(self.self_attn_post_norm, attended)
        hidden_states = self._add(hidden_states, attended, self.self_attn_sum_norm)
        normed = normalize(self.cross_attn_norm, hidden_states)
        if cache is None:
            assert encoder_output is not None
            key, value = self.cross_attn.project_states(encoder_output.hidden_states)
            mask = encoder_output.attention_mask[:, None, None, :]
        else:
            key, value = cache.cross_keys[layer], cache.cross_values[layer]
            mask = cache.cross_mask
        attended = self.cross_attn(normed, key, value, mask, cache=cache)
        attended = normalize(self.cross_attn_post_norm, attended)
        return self._feed_forward(self._add(hidden_states, attended, self.cross_attn_sum_norm))


def attention_form(
    config: TransformerConfig, side: Side, *, to_text: bool = False
) -> AttentionForm:
    """Return what the attention of a side computes, that among its own positions or to the text."""
    keys = config.max_text_length if side == "encoder" or to_text else config.image_length
    queries = config.max_text_length if side == "encoder" else config.image_length
    return AttentionForm(
        bias=config.use_bias,
        tau=config.tau_init if config.use_cosine_attention else None,
        head_scale=config.use_head_scale,
        positions=(queries, keys) if config.use_swin_position_embeddings else None,
        # in the decoder, normalising over queries would tell of what comes later
        sinkhorn_iters=config.sinkhorn_iters if side == "encoder" else 1,
    )
