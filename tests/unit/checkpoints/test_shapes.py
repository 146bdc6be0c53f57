"""Tests of `dallemini.checkpoints.shapes`: tensors against configurations, both ways."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dallemini.checkpoints.lazy import LazyTensor
from dallemini.checkpoints.shapes import (
    check_tensors,
    count,
    find_misfit,
    infer_transformer,
    infer_vqgan,
    shape_of,
)
from dallemini.errors import CheckpointError, ConfigError
from dallemini.models.transformer import Transformer, TransformerConfig
from dallemini.models.vqgan import VQGAN, VQGANConfig

TRANSFORMERS: list[dict[str, Any]] = [
    {},
    {
        "d_model": 128,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "encoder_ffn_dim": 7,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 9,
        "image_vocab_size": 40,
        "decoder_start_token_id": 40,
        "text_vocab_size": 11,
    },
]
VQGANS: list[dict[str, Any]] = [
    {},
    {"has_encoder": False},
    {
        "ch": 32,
        "ch_mult": (2, 1, 4),
        "num_res_blocks": 1,
        "attn_resolutions": (128, 64),
        "z_channels": 8,
        "embed_dim": 5,
        "n_embed": 7,
    },
]


def lazy(shapes: dict[str, tuple[int, ...]]) -> dict[str, LazyTensor]:
    return {
        name: LazyTensor.of(name, torch.empty(shape, device="meta"))
        for name, shape in shapes.items()
    }


def test_shapes_count_the_parameters_of_the_released_models() -> None:
    mega: dict[str, Any] = {
        "d_model": 2048,
        "encoder_layers": 24,
        "decoder_layers": 24,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "text_vocab_size": 50272,
        "image_vocab_size": 16415,
    }
    for shapes, expected in (
        (Transformer.expected_shapes(TransformerConfig().to_dict()), 437_833_712),
        (Transformer.expected_shapes(TransformerConfig(**mega).to_dict()), 2_587_521_024),
        (VQGAN.expected_shapes(VQGANConfig().to_dict()), 76_073_859),
    ):
        assert sum(map(math.prod, shapes.values())) == expected


@pytest.mark.parametrize("fields", TRANSFORMERS)
def test_transformer_is_inferred_from_its_shapes(fields: dict[str, Any]) -> None:
    config = TransformerConfig(**fields)
    shapes = Transformer.expected_shapes(config.to_dict())
    inferred = infer_transformer(lazy(shapes), origin="x")
    assert TransformerConfig.from_dict(inferred) == config


def test_mega_starts_from_16384_although_its_vocabulary_is_larger() -> None:
    config = TransformerConfig(image_vocab_size=16415).to_dict()
    inferred = infer_transformer(lazy(Transformer.expected_shapes(config)), origin="x")
    assert inferred["decoder_start_token_id"] == 16384


@pytest.mark.parametrize("fields", VQGANS)
def test_vqgan_is_inferred_from_its_shapes(fields: dict[str, Any]) -> None:
    if fields.get("ch_mult", (1,))[0] != 1:  # only an encoder tells them apart
        fields = {**fields, "has_encoder": True}
    config = VQGANConfig(**fields)
    inferred = infer_vqgan(lazy(VQGAN.expected_shapes(config.to_dict())), origin="x")
    found = VQGANConfig.from_dict(inferred)
    assert sorted(found.attn_resolutions) == sorted(config.attn_resolutions)
    assert VQGAN.expected_shapes(inferred) == VQGAN.expected_shapes(config.to_dict())
    assert found.has_encoder == config.has_encoder


def test_width_that_is_no_multiple_of_64_needs_a_configuration() -> None:
    config = TransformerConfig(
        d_model=96, encoder_attention_heads=2, decoder_attention_heads=2
    ).to_dict()
    tensors = lazy(Transformer.expected_shapes(config))
    with pytest.raises(
        CheckpointError, match=r"width 96 is not a multiple of 64. Put the DalleBart"
    ):
        infer_transformer(tensors, origin="folder")
    assert infer_transformer(tensors, origin="folder", heads_known=True)["d_model"] == 96


def test_missing_and_misshapen_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match="folder lacks the tensor that becomes 'a'"):
        shape_of({}, "a", 2, origin="folder")
    with pytest.raises(
        CheckpointError, match=r"folder: 'a' has the shape \(3,\), but 'a' has 2 axes"
    ):
        shape_of(lazy({"a": (3,)}), "a", 2, origin="folder")


def test_count_needs_a_tensor() -> None:
    assert count(lazy({"x.3.y": (1,)}), r"x\.(\d+)\.y", origin="folder") == 4
    with pytest.raises(CheckpointError, match="folder has no tensors like"):
        count({}, r"x\.(\d+)\.y", origin="folder")


@pytest.mark.parametrize("number", ["256", "999999999", "9" * 5000])
def test_numbers_that_no_layer_has_are_refused(number: str) -> None:
    with pytest.raises(CheckpointError, match=r"layers up to \d{3,20}, but no model has more than"):
        count(lazy({f"x.{number}.y": (1,)}), r"x\.(\d+)\.y", origin="folder")


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"a": (2,)}, None),
        ({"a": (2,), "b": (1,)}, r"lacks tensors that its configuration asks for \(1: b\)"),
        ({"a": (3,)}, r"holds a \(from 'foreign/a'\) with shape \(2,\), but .* asks for \(3,\)"),
        ({}, r"has unknown tensors that its configuration does not ask for \(1: a\)"),
        (dict.fromkeys("abcdefg", (1,)), r"lacks tensors .* \(6: b, c, d, \.\.\.\)"),
    ],
)
def test_misfits_are_named(expected: dict[str, tuple[int, ...]], message: str | None) -> None:
    tensors = {"a": LazyTensor.of("foreign/a", torch.ones(2))}
    if message is None:
        assert find_misfit(tensors, expected) is None
        check_tensors(tensors, expected, origin="folder")
        return
    with pytest.raises(CheckpointError, match=rf"^folder {message}.* Use the configuration that"):
        check_tensors(tensors, expected, origin="folder")


def test_a_wrong_configuration_is_refused_before_a_model_is_described() -> None:
    with pytest.raises(ConfigError, match="decoder_layers must be at least 1, not 0"):
        Transformer.expected_shapes({"decoder_layers": 0})
