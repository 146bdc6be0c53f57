"""CLIP: one width for sentences and pictures, so that their cosine says how well they fit.

Holds the two towers. Knows nothing about files, prompts or resizing: ids and normalised pixels come
in, features go out. Paper: Radford et al. 2021, "Learning Transferable Visual Models From Natural
Language Supervision", https://arxiv.org/abs/2103.00020; the same mathematics as
https://github.com/openai/CLIP, https://github.com/mlfoundations/open_clip and the
CLIP of Hugging Face transformers.

Letters: N sentences or pictures, M the other side, T text tokens, P patches + 1, W width of a
tower, E width of the shared space, S pixels of a side.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..errors import InputError, InputTypeError
from .clip_config import CLIPConfig
from .outlines import empty_embedding, on_meta
from .pretrained import PretrainedModule

__all__ = ["CLIP", "CLIPConfig"]

_INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # section 2.5 of the paper


class CLIP(PretrainedModule[CLIPConfig]):
    """Two transformers that put sentences and pictures into one space.

    Example:
        >>> import torch
        >>> from dallemini.models.clip import CLIP, CLIPConfig
        >>> config = CLIPConfig(embed_dim=8, image_size=16, patch_size=8, vocab_size=10,
        ...     vision_width=16, vision_layers=1, vision_heads=2, vision_mlp_dim=32, text_width=16,
        ...     text_layers=1, text_heads=2, text_mlp_dim=32, context_length=6, eos_token_id=9)
        >>> clip = CLIP.from_config(config, seed=0)
        >>> clip.encode_text(torch.tensor([[8, 1, 2, 9]])).shape
        torch.Size([1, 8])
    """

    config_class: ClassVar[type[Config]] = CLIPConfig
    component: ClassVar[Literal["clip"]] = "clip"

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__(config)
        with on_meta():
            self.text = TextTower(config)
            self.vision = VisionTower(config)
            self.logit_scale = nn.Parameter(torch.empty((), dtype=torch.float32))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Read sentences.

        Attention is causal, so whatever follows the end token never changes the result; the mask
        is only needed for ids that are to be ignored before it.

        Args:
            input_ids: i64[N,T], T at most `context_length`, start token ... end token, padding.
            attention_mask: bool or int [N,T], true where an id counts.

        Returns:
            f[N,E], projected, not normalised.

        Raises:
            InputTypeError: the ids are not whole numbers.
            InputError: wrong shape, too many tokens, an id outside the vocabulary, a mask of
                another shape, or (pooling "first_eos") a row without an end token.
        """
        self._check_ids(input_ids, attention_mask)
        hidden_states = self.text(input_ids, attention_mask)
        rows = torch.arange(len(input_ids), device=input_ids.device, dtype=torch.int64)
        pooled = hidden_states[rows, self._end_positions(input_ids)]
        features: Tensor = self.text.projection(pooled)
        return features

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Look at pictures.

        Args:
            pixel_values: f[N,3,H,W], already normalised by `image_mean` and `image_std`; cast to
                the dtype of the weights.

        Returns:
            f[N,E], projected, not normalised.

        Raises:
            InputTypeError: the pixels are not floating point.
            InputError: the shape is not [N,3,H,W] with the height and width of `config.size`.
        """
        height, width = self.config.size
        if not pixel_values.is_floating_point():
            raise InputTypeError(
                f"pixel_values must be floating point and normalised, not {pixel_values.dtype}."
            )
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, height, width):
            raise InputError(
                f"pixel_values must have the shape [N, 3, {height}, {width}], "
                f"not {list(pixel_values.shape)}."
            )
        features: Tensor = self.vision.projection(self.vision(pixel_values)[:, 0])
        return features

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Compare every picture with every sentence: `exp(logit_scale) * cosine`.

        Args:
            image_features: f[N,E], from `encode_image`.
            text_features: f[M,E], from `encode_text`.

        Returns:
            f[N,M]; for the released models, whose scale is 100, in [-100, 100].
        """
        image_features = F.normalize(image_features, dim=-1)
        text_features = F.normalize(text_features, dim=-1)
        return self.logit_scale.exp() * image_features @ text_features.T

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill all weights with random values to train from scratch.

        Normal weights with the deviations of OpenAI's code, for both towers: embeddings 0.02 and
        0.01, attention W^-0.5, feed-forward (2W)^-0.5, layers that write into the residual stream
        (2 W layers)^-0.5, projections and vision embeddings W^-0.5; biases 0; temperature 0.07.
        """
        self.logit_scale.fill_(_INITIAL_LOGIT_SCALE)
        self.text.init_weights(generator)
        self.vision.init_weights(generator)

    def _end_positions(self, input_ids: Tensor) -> Tensor:
        """Return i64[N]: where each sentence is read off."""
        if self.config.pooling == "argmax":
            return input_ids.argmax(dim=-1)
        is_end = input_ids == self.config.eos_token_id
        if not bool(is_end.any(dim=-1).all()):
            raise InputError(
                f"Every row of input_ids needs the end token {self.config.eos_token_id}, where "
                "this model reads a sentence off; tokenize with the model's own tokenizer."
            )
        return is_end.int().argmax(dim=-1)

    def _check_ids(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise InputTypeError(f"input_ids must be int64, not {input_ids.dtype}.")
        limit = self.config.context_length
        if input_ids.ndim != 2 or not 1 <= input_ids.shape[1] <= limit:
            raise InputError(
                f"input_ids must have the shape [N, T] with T from 1 to {limit} "
                f"(context_length), not {list(input_ids.shape)}."
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise InputError(
                f"attention_mask has the shape {list(attention_mask.shape)}, "
                f"input_ids {list(input_ids.shape)}; they must agree."
            )
        if input_ids.numel():
            low, high = (int(bound) for bound in torch.aminmax(input_ids))
            if low < 0 or high >= self.config.vocab_size:
                raise InputError(
                    f"input_ids must lie in 0..{self.config.vocab_size - 1} (vocab_size), "
                    f"but hold {low}..{high}; is this the model's own tokenizer?"
                )


class TextTower(nn.Module):
    """Causal transformer over the ids of a sentence; the projection is applied by `CLIP`."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = empty_embedding(config.vocab_size, width)
        self.position_embedding = empty_embedding(config.context_length, width)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.text_heads, config.text_mlp_dim, config)
            for _ in range(config.text_layers)
        )
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.projection = nn.Linear(width, config.embed_dim, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return the hidden states f[N,T,W] of ids i64[N,T]."""
        length = input_ids.shape[1]
        hidden_states = self.token_embedding(input_ids) + self.position_embedding.weight[:length]
        mask = None if attention_mask is None else _causal_mask(attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask=mask, causal=mask is None)
        normed: Tensor = self.final_norm(hidden_states)
        return normed

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill with random values; see `CLIP.init_weights`."""
        nn.init.normal_(self.token_embedding.weight, std=0.02, generator=generator)
        nn.init.normal_(self.position_embedding.weight, std=0.01, generator=generator)
        _init_layers(self.layers, generator)
        self.final_norm.reset_parameters()
        _init_linear(self.projection, self.projection.in_features**-0.5, generator)


class VisionTower(nn.Module):
    """Vision transformer over patches and one class token; the projection is applied by `CLIP`."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        width, patch, eps = config.vision_width, config.patch_size, config.layer_norm_eps
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width, dtype=torch.float32))
        self.position_embedding = empty_embedding(config.num_patches + 1, width)
        self.pre_norm = nn.LayerNorm(width, eps=eps)
        self.layers = nn.ModuleList(
            EncoderLayer(width, config.vision_heads, config.vision_mlp_dim, config)
            for _ in range(config.vision_layers)
        )
        self.post_norm = nn.LayerNorm(width, eps=eps)
        self.projection = nn.Linear(width, config.embed_dim, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the hidden states f[N,P,W] of pixels f[N,3,H,W]; the class token comes first."""
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        hidden_states = torch.cat([class_token, patches], dim=1)
        hidden_states = self.pre_norm(hidden_states + self.position_embedding.weight)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask=None, causal=False)
        normed: Tensor = self.post_norm(hidden_states)
        return normed

    def init_weights(self, generator: torch.Generator) -> None:
        """Fill with random values; see `CLIP.init_weights`."""
        scale = self.class_embedding.numel() ** -0.5
        bound = self.patch_embedding.weight[0].numel() ** -0.5
        nn.init.uniform_(self.patch_embedding.weight, -bound, bound, generator=generator)
        nn.init.normal_(self.class_embedding, std=scale, generator=generator)
        nn.init.normal_(self.position_embedding.weight, std=scale, generator=generator)
        self.pre_norm.reset_parameters()
        _init_layers(self.layers, generator)
        self.post_norm.reset_parameters()
        _init_linear(self.projection, scale, generator)


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: `h + attn(norm1 h)`, then `h + mlp(norm2 h)`."""

    def __init__(self, width: int, heads: int, mlp_dim: int, config: CLIPConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(width, mlp_dim, config.activation)

    def forward(self, hidden_states: Tensor, *, mask: Tensor | None, causal: bool) -> Tensor:
        """Return f[N,T,W]; `mask` is bool[N,1,T,T], true where a query sees a key."""
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states), mask, causal)
        out: Tensor = hidden_states + self.mlp(self.norm2(hidden_states))
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases and one fused projection (query, key, value)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Return f[N,T,W]."""
        rows, length, width = hidden_states.shape
        fused = self.qkv_proj(hidden_states).view(rows, length, 3, self.heads, -1)
        query, key, value = fused.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return out


class MLP(nn.Module):
    """Two dense layers around a GELU, exact or in OpenAI's cheaper form."""

    def __init__(self, width: int, mlp_dim: int, activation: str) -> None:
        super().__init__()
        self.quick = activation == "quick_gelu"
        self.fc1 = nn.Linear(width, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, width)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return f[N,T,W]."""
        inner = self.fc1(hidden_states)
        inner = inner * torch.sigmoid(1.702 * inner) if self.quick else F.gelu(inner)
        out: Tensor = self.fc2(inner)
        return out


def _causal_mask(attention_mask: Tensor) -> Tensor:
    """Return bool[N,1,T,T]: query i sees the valid keys up to i, and itself (else it were NaN)."""
    length, device = attention_mask.shape[1], attention_mask.device
    past = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=device)
    return (past & attention_mask.bool()[:, None, None, :]) | itself


def _init_layers(layers: nn.ModuleList, generator: torch.Generator) -> None:
    for layer in layers:
        assert isinstance(layer, EncoderLayer)
        width = layer.attn.out_proj.in_features
        residual = width**-0.5 * (2 * len(layers)) ** -0.5
        _init_linear(layer.attn.qkv_proj, width**-0.5, generator)
        _init_linear(layer.attn.out_proj, residual, generator)
        _init_linear(layer.mlp.fc1, (2 * width) ** -0.5, generator)
        _init_linear(layer.mlp.fc2, residual, generator)
        layer.norm1.reset_parameters()
        layer.norm2.reset_parameters()


def _init_linear(linear: nn.Linear, std: float, generator: torch.Generator) -> None:
    nn.init.normal_(linear.weight, std=std, generator=generator)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
