"""The blocks of the transformer against their formulas, written out."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dallemini.models.attention import CrossAttention, SelfAttention, attend
from dallemini.models.feed_forward import GLU
from dallemini.models.norms import BiasNorm

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: ModuleT) -> ModuleT:
    for index, parameter in enumerate(module.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return module


def inner_norm(name: str, width: int) -> BiasNorm | None:
    return None if name == "norm_out" else BiasNorm(width)


def test_bias_norm_is_a_layer_norm_without_scale() -> None:
    norm, hidden_states = filled(BiasNorm(8)), randn(2, 3, 8)
    centred = hidden_states - hidden_states.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(hidden_states), centred / deviation + norm.bias)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("kind", ["all", "mask", "causal"])
def test_attention_follows_its_formula(gradients: bool, kind: str) -> None:
    query, key, value = (randn(2, 2, 5, 4, seed=seed) for seed in range(3))
    allowed = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    if kind == "mask":
        allowed[1, :, :, 3:] = False
    if kind == "causal":
        allowed = allowed.tril()
    scores = (query @ key.transpose(-1, -2) / math.sqrt(4)).masked_fill(~allowed, -torch.inf)
    mask = allowed if kind == "mask" else None
    with torch.set_grad_enabled(gradients):
        found = attend(query, key, value, mask=mask, causal=kind == "causal")
    torch.testing.assert_close(found, scores.softmax(-1) @ value)


def test_both_ways_of_attention_agree_in_bfloat16() -> None:
    query, key, value = (randn(1, 2, 6, 8, seed=seed).bfloat16() for seed in range(3))
    with torch.no_grad():
        fused = attend(query, key, value, causal=True)
    explicit = attend(query, key, value, causal=True)
    assert explicit.dtype == torch.bfloat16
    torch.testing.assert_close(explicit, fused, rtol=0.05, atol=0.05)


def test_fused_projection_holds_queries_keys_and_values_in_order() -> None:
    block, hidden_states = filled(SelfAttention(8, 2)), randn(2, 3, 8)
    query, key, value = block.project(hidden_states)
    separate = block.qkv_proj.weight.split(8)
    for found, weight in zip((query, key, value), separate, strict=True):
        heads = (hidden_states @ weight.T).view(2, 3, 2, 4).transpose(1, 2)
        torch.testing.assert_close(found, heads)


def test_masked_text_does_not_show() -> None:
    block, hidden_states, states = filled(CrossAttention(8, 2)), randn(1, 3, 8), randn(1, 4, 8)
    mask = torch.tensor([True, True, False, False])[None, None, None]
    key, value = block.project_states(states)
    masked = block(hidden_states, key, value, mask)
    key, value = block.project_states(states[:, :2])
    torch.testing.assert_close(masked, block(hidden_states, key, value, mask[..., :2]))


def test_first_half_of_the_glu_is_the_activated_gate() -> None:
    block, hidden_states = filled(GLU(8, 6, norm=inner_norm)), randn(2, 3, 8)
    gate, value = block.in_proj.weight.split(6)
    assert block.norm_in is not None
    assert block.norm_mid is not None
    normed = block.norm_in(hidden_states)
    product = F.gelu(normed @ gate.T) * (normed @ value.T)
    expected = block.norm_mid(product) @ block.out_proj.weight.T
    torch.testing.assert_close(block(hidden_states), expected)
