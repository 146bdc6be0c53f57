"""The tiny parts: real classes, small, and the same for the same seed."""

from __future__ import annotations

import dataclasses

import torch

from dallemini import CLIP, VQGAN, CLIPScorer, Pipeline, Tokenizer, Transformer
from dallemini.testing import (
    TINY_CLIP,
    TINY_TRANSFORMER,
    TINY_VQGAN,
    tiny_clip_scorer,
    tiny_pipeline,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)


def test_parts_are_of_the_classes_that_draw_real_pictures() -> None:
    pipe = tiny_pipeline()
    assert type(pipe) is Pipeline
    assert type(pipe.tokenizer) is Tokenizer
    assert type(pipe.transformer) is Transformer
    assert type(pipe.vqgan) is VQGAN
    assert type(pipe.scorer) is CLIPScorer


def test_parts_are_as_small_as_they_say() -> None:
    def kilobytes(model: torch.nn.Module) -> float:
        return sum(4 * parameter.numel() for parameter in model.parameters()) / 1000

    assert kilobytes(tiny_transformer()) < 100
    assert kilobytes(tiny_vqgan()) < 1000
    assert kilobytes(tiny_clip_scorer().clip) < 100


def test_the_same_seed_gives_the_same_weights() -> None:
    for make in (tiny_transformer, tiny_vqgan, lambda seed: tiny_clip_scorer(seed=seed).clip):
        first, again, other = make(seed=1), make(seed=1), make(seed=2)
        pairs = zip(first.parameters(), again.parameters(), strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)
        pairs = zip(first.parameters(), other.parameters(), strict=True)
        assert not all(torch.equal(left, right) for left, right in pairs)


def test_models_are_ready_to_draw() -> None:
    for model in (tiny_transformer(), tiny_vqgan(), tiny_clip_scorer().clip):
        assert isinstance(model, Transformer | VQGAN | CLIP)
        assert not model.training
        assert model.device.type == "cpu"


def test_sizes_can_be_changed() -> None:
    assert tiny_transformer(dataclasses.replace(TINY_TRANSFORMER, d_model=32)).config.d_model == 32
    assert tiny_vqgan(dataclasses.replace(TINY_VQGAN, n_embed=32)).codebook_size == 32
    config = dataclasses.replace(TINY_CLIP, context_length=20)
    assert tiny_clip_scorer(config).tokenizer.config.context_length == 20
    assert tiny_tokenizer(max_length=8).max_length == 8


def test_the_tokenizer_reads_any_text() -> None:
    tokens = tiny_tokenizer()(["a red apple", "ünïcödé", ""])
    assert int(tokens.input_ids.max()) < TINY_TRANSFORMER.text_vocab_size
