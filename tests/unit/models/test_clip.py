"""CLIP: structure, pooling, padding, initial weights, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini.errors import ConfigError, InputError, InputTypeError
from dallemini.models.clip import CLIP, CLIPConfig

TINY = CLIPConfig(
    embed_dim=12,
    image_size=16,
    patch_size=8,
    vision_width=16,
    vision_layers=2,
    vision_heads=2,
    vision_mlp_dim=32,
    text_width=24,
    text_layers=2,
    text_heads=3,
    text_mlp_dim=48,
    context_length=10,
    vocab_size=50,
    eos_token_id=49,
)
SENTENCE = torch.tensor([[48, 3, 7, 49]])


@pytest.fixture
def clip() -> CLIP:
    return CLIP.from_config(TINY, seed=1).eval()


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def first_eos(clip: CLIP, **changes: Any) -> CLIP:
    """The same weights with the other pooling."""
    other = CLIP(dataclasses.replace(clip.config, pooling="first_eos", **changes))
    other.load_state_dict(clip.state_dict(), assign=True)
    return other


def test_default_config_is_vit_b_32() -> None:
    assert sum(weight.numel() for weight in CLIP(CLIPConfig()).parameters()) == 151_277_313


def test_construction_takes_no_memory_and_no_random_numbers() -> None:
    state = torch.get_rng_state()
    clip = CLIP(CLIPConfig())
    assert all(tensor.is_meta for tensor in clip.state_dict().values())
    assert torch.equal(torch.get_rng_state(), state)


def test_state_dict_names_are_the_documented_ones(clip: CLIP) -> None:
    names = set(clip.state_dict())
    assert {name for name in names if ".layers." not in name} == {
        "logit_scale",
        "text.token_embedding.weight",
        "text.position_embedding.weight",
        "text.final_norm.weight",
        "text.final_norm.bias",
        "text.projection.weight",
        "vision.patch_embedding.weight",
        "vision.class_embedding",
        "vision.position_embedding.weight",
        "vision.pre_norm.weight",
        "vision.pre_norm.bias",
        "vision.post_norm.weight",
        "vision.post_norm.bias",
        "vision.projection.weight",
    }
    assert {name for name in names if name.startswith("text.layers.0.")} == {
        f"text.layers.0.{part}.{kind}"
        for part in ("norm1", "norm2", "attn.qkv_proj", "attn.out_proj", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }


def test_same_seed_gives_the_same_weights() -> None:
    first, second, other = (CLIP.from_config(TINY, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["text.projection.weight"], other["text.projection.weight"])


def test_initial_weights_have_the_published_deviations() -> None:
    config = dataclasses.replace(TINY, text_width=96, vision_width=64, vocab_size=400)
    weights = CLIP.from_config(config, seed=0).state_dict()
    expected = {
        "text.token_embedding.weight": 0.02,
        "text.position_embedding.weight": 0.01,
        "text.layers.1.attn.qkv_proj.weight": 96**-0.5,
        "text.layers.1.attn.out_proj.weight": (96 * 2 * 2) ** -0.5,
        "text.layers.1.mlp.fc1.weight": (2 * 96) ** -0.5,
        "text.layers.1.mlp.fc2.weight": (96 * 2 * 2) ** -0.5,
        "vision.position_embedding.weight": 64**-0.5,
        "vision.projection.weight": 64**-0.5,
    }
    for name, deviation in expected.items():
        assert float(weights[name].std()) == pytest.approx(deviation, rel=0.12), name
    assert float(weights["logit_scale"]) == pytest.approx(math.log(1 / 0.07))
    assert not weights["vision.layers.0.mlp.fc1.bias"].any()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_features_have_the_width_of_the_shared_space(
    activation: str, pixel_values: torch.Tensor
) -> None:
    config = CLIPConfig.from_dict(TINY.to_dict() | {"activation": activation})
    clip = CLIP.from_config(config)
    assert clip.encode_image(pixel_values).shape == (3, 12)
    assert clip.encode_text(SENTENCE.expand(5, -1)).shape == (5, 12)


def test_activations_differ(clip: CLIP, pixel_values: torch.Tensor) -> None:
    other = CLIP(dataclasses.replace(TINY, activation="gelu"))
    other.load_state_dict(clip.state_dict(), assign=True)
    assert not torch.allclose(clip.encode_image(pixel_values), other.encode_image(pixel_values))


@pytest.mark.parametrize("pooling", ["argmax", "first_eos"])
@pytest.mark.parametrize("pad", [0, 49])
def test_padding_never_changes_the_features(clip: CLIP, pooling: str, pad: int) -> None:
    model = clip if pooling == "argmax" else first_eos(clip)
    padded = torch.nn.functional.pad(SENTENCE, (0, 6), value=pad)
    torch.testing.assert_close(model.encode_text(padded), model.encode_text(SENTENCE))


def test_mask_of_the_padding_never_changes_the_features(clip: CLIP) -> None:
    padded = torch.nn.functional.pad(SENTENCE, (0, 6), value=0)
    mask = torch.arange(10)[None] < 4
    torch.testing.assert_close(clip.encode_text(padded, mask), clip.encode_text(SENTENCE))


def test_masked_ids_are_ignored_and_never_give_nan(clip: CLIP) -> None:
    mask = torch.tensor([[0, 1, 1, 1]])
    other = SENTENCE.clone()
    other[0, 0] = 20
    features = clip.encode_text(SENTENCE, mask)
    assert features.isfinite().all()
    torch.testing.assert_close(features, clip.encode_text(other, mask))
    assert not torch.allclose(clip.encode_text(SENTENCE), clip.encode_text(other))


def test_first_eos_reads_at_the_end_token_and_argmax_at_the_highest_id(clip: CLIP) -> None:
    model = first_eos(clip, eos_token_id=7)
    short = torch.tensor([[48, 3, 7]])
    torch.testing.assert_close(model.encode_text(SENTENCE), model.encode_text(short))
    assert not torch.allclose(clip.encode_text(SENTENCE), model.encode_text(SENTENCE))


def test_batch_equals_single(clip: CLIP, pixel_values: torch.Tensor) -> None:
    together = clip.encode_image(pixel_values)
    alone = torch.cat([clip.encode_image(pixel[None]) for pixel in pixel_values])
    torch.testing.assert_close(together, alone)


def test_logits_are_the_scaled_cosine(clip: CLIP) -> None:
    images, texts = torch.randn(4, 12), torch.randn(2, 12)
    logits = clip.logits(images, texts)
    cosine = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    torch.testing.assert_close(logits, cosine / 0.07)
    assert logits.shape == (4, 2)


def test_every_weight_gets_a_gradient(clip: CLIP, pixel_values: torch.Tensor) -> None:
    sentences = torch.tensor([[48, 3, 49], [48, 7, 49], [48, 9, 49]])
    logits = clip.logits(clip.encode_image(pixel_values), clip.encode_text(sentences))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(3))
    gradients = torch.autograd.grad(loss, list(clip.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_half_precision_weights_take_float32_pixels(pixel_values: torch.Tensor) -> None:
    clip = CLIP.from_config(TINY, dtype=torch.bfloat16)
    assert clip.encode_image(pixel_values).dtype == torch.bfloat16


def test_save_and_load_is_identity(clip: CLIP, tmp_path: Path, pixel_values: torch.Tensor) -> None:
    clip.save_pretrained(tmp_path)
    loaded = CLIP.from_pretrained(tmp_path)
    assert loaded.config == clip.config
    for name, weight in clip.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    torch.testing.assert_close(loaded.encode_image(pixel_values), clip.encode_image(pixel_values))
    torch.testing.assert_close(loaded.encode_text(SENTENCE), clip.encode_text(SENTENCE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 0}, "embed_dim must be at least 1, not 0"),
        ({"text_layers": -1}, "text_layers must be at least 1, not -1"),
        ({"vision_heads": 3}, "vision_width=16 must be a multiple of vision_heads=3"),
        ({"patch_size": 17}, "patch_size=17 exceeds image_size=16"),
        ({"activation": "relu"}, "activation must be one of .*not 'relu'"),
        ({"pooling": "mean"}, "pooling must be one of .*not 'mean'"),
        ({"crop_rounding": "up"}, "crop_rounding must be one of .*not 'up'"),
        ({"text_layers": 10**9}, "text_layers must be at most 256, not 1000000000"),
        ({"vision_width": 10**30}, "vision_width must be at most 16777216"),
        ({"image_size": 1 << 15}, "image_size must be at most 16384, not 32768"),
        ({"eos_token_id": 10**30}, "eos_token_id must be an id"),
        ({"image_mean": (float("nan"),) * 3}, "image_mean needs 3 numbers"),
        ({"image_std": (1.0, 1.0, float("inf"))}, "image_std needs 3 numbers"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan must be above 0"),
        ({"image_mean": (0.5,)}, "image_mean needs 3 numbers"),
        ({"image_std": (0.5, 0.5)}, "image_std needs 3 numbers"),
        ({"image_std": (0.5, 0.5, 0.0)}, "image_std must be above 0"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0 must be above 0"),
    ],
)
def test_config_rejects_impossible_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("input_ids", "message"),
    [
        (torch.zeros(4, dtype=torch.int64), r"shape \[N, T\] with T from 1 to 10"),
        (torch.zeros(1, 11, dtype=torch.int64), r"not \[1, 11\]"),
        (torch.zeros(1, 0, dtype=torch.int64), r"not \[1, 0\]"),
        (torch.tensor([[3, 50]]), r"must lie in 0\.\.49 .*hold 3\.\.50"),
        (torch.tensor([[-1, 4]]), r"hold -1\.\.4"),
    ],
)
def test_encode_text_rejects_bad_ids(clip: CLIP, input_ids: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        clip.encode_text(input_ids)


def test_encode_text_rejects_ids_that_are_not_whole_numbers(clip: CLIP) -> None:
    with pytest.raises(InputTypeError, match=r"must be int64, not torch\.float32"):
        clip.encode_text(SENTENCE.float())


def test_encode_text_rejects_a_mask_of_another_shape(clip: CLIP) -> None:
    with pytest.raises(InputError, match="they must agree"):
        clip.encode_text(SENTENCE, torch.ones(1, 3))


def test_encode_text_rejects_a_sentence_without_end(clip: CLIP) -> None:
    with pytest.raises(InputError, match="needs the end token 49"):
        first_eos(clip).encode_text(torch.tensor([[48, 3, 49], [48, 3, 7]]))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 16, 24), (1, 3, 32, 32)])
def test_encode_image_rejects_another_shape(clip: CLIP, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"shape \[N, 3, 16, 16\]"):
        clip.encode_image(torch.zeros(shape))


def test_encode_image_rejects_whole_numbers(clip: CLIP) -> None:
    with pytest.raises(InputTypeError, match=r"floating point and normalised, not torch\.uint8"):
        clip.encode_image(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
