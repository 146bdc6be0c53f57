"""CLIPScorer and the image preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.errors import ConfigError, InputError, InputTypeError, MissingFileError
from dallemini.models.clip import CLIP, CLIPConfig
from dallemini.scorer import CLIPScorer, CLIPTokenizer, CLIPTokenizerConfig, Scorer, preprocess
from dallemini.testing import tiny_clip_scorer

TEXTS = ["a red apple on a white ground", "a blue rocket", "the face of a cat"] * 4
CONFIG = CLIPConfig(
    embed_dim=12,
    image_size=16,
    patch_size=8,
    vision_width=16,
    vision_layers=1,
    vision_heads=2,
    vision_mlp_dim=32,
    text_width=16,
    text_layers=1,
    text_heads=2,
    text_mlp_dim=32,
    context_length=12,
    vocab_size=560,
)


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.train(TEXTS, vocab_size=560, context_length=12)


@pytest.fixture
def scorer(tokenizer: CLIPTokenizer) -> CLIPScorer:
    return CLIPScorer(CLIP.from_config(CONFIG, seed=3), tokenizer)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def test_score_is_the_models_own_logit(scorer: CLIPScorer, images: Tensor) -> None:
    prompts = ["a cat", "a red apple", "a blue rocket"]
    pixel_values = preprocess(images, scorer.clip.config)
    input_ids = scorer.tokenizer(prompts)
    with torch.no_grad():
        logits = scorer.clip.logits(
            scorer.clip.encode_image(pixel_values), scorer.clip.encode_text(input_ids)
        )
    scores = scorer.score(images, prompts)
    torch.testing.assert_close(scores, logits.diagonal())
    assert scores.dtype == torch.float32
    assert not scores.requires_grad


def test_score_follows_the_order_of_the_images(scorer: CLIPScorer, images: Tensor) -> None:
    prompts = ["a cat", "a red apple", "a cat"]
    order = [2, 0, 1]
    torch.testing.assert_close(
        scorer.score(images[order], [prompts[row] for row in order]),
        scorer.score(images, prompts)[order],
    )


def test_many_images_equal_single_ones(scorer: CLIPScorer) -> None:
    images = torch.rand(70, 3, 16, 16)
    prompts = ["a cat", "a rocket"] * 35
    scores = scorer.score(images, prompts)
    for row in (0, 1, 63, 64, 69):
        alone = scorer.score(images[row : row + 1], [prompts[row]])
        torch.testing.assert_close(scores[row : row + 1], alone)


def test_half_precision_gives_float32_scores(scorer: CLIPScorer, images: Tensor) -> None:
    exact = scorer.score(images, ["a cat"] * 3)
    rounded = scorer.to(dtype=torch.bfloat16).score(images.bfloat16(), ["a cat"] * 3)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.5, rtol=0.1)


def test_save_and_load_is_identity(scorer: CLIPScorer, images: Tensor, tmp_path: Path) -> None:
    scorer.save_pretrained(tmp_path)
    loaded = CLIPScorer.from_pretrained(tmp_path)
    prompts = ["a cat", "a red apple", "Caf\u00e9"]
    torch.testing.assert_close(loaded.score(images, prompts), scorer.score(images, prompts))


def test_weights_without_vocabulary_take_a_tokenizer(
    scorer: CLIPScorer, images: Tensor, tmp_path: Path
) -> None:
    scorer.clip.save_pretrained(tmp_path)
    with pytest.raises(MissingFileError, match="or pass tokenizer="):
        CLIPScorer.from_pretrained(tmp_path)
    loaded = CLIPScorer.from_pretrained(tmp_path, tokenizer=scorer.tokenizer)
    prompts = ["a cat"] * 3
    torch.testing.assert_close(loaded.score(images, prompts), scorer.score(images, prompts))


def test_prompts_are_cut_to_what_the_model_reads(tokenizer: CLIPTokenizer) -> None:
    longer = CLIPTokenizer(tokenizer.backend, CLIPTokenizerConfig(context_length=77))
    scorer = CLIPScorer(CLIP.from_config(CONFIG), longer)
    assert scorer.tokenizer("a cat").shape == (1, 12)


def test_any_class_with_the_method_is_a_scorer(scorer: CLIPScorer) -> None:
    class Brightness:
        def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return images.mean(dim=(1, 2, 3))

    scorers: list[Scorer] = [Brightness(), scorer]
    assert all(isinstance(each, Scorer) for each in scorers)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 20, 20), r"shape \[N, 3, H, W\], not \[3, 20, 20\]"),
        ((2, 4, 20, 20), r"not \[2, 4, 20, 20\]"),
        ((0, 3, 20, 20), r"not \[0, 3, 20, 20\]"),
    ],
)
def test_score_rejects_another_shape(
    scorer: CLIPScorer, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        scorer.score(torch.zeros(shape), ["a cat"] * shape[0])


@pytest.mark.parametrize("value", [-0.5, float("nan")])
def test_score_rejects_values_outside_0_to_1(
    scorer: CLIPScorer, images: Tensor, value: float
) -> None:
    images[1, 2, 3, 4] = value
    with pytest.raises(InputError, match=r"must lie in \[0, 1\], but hold"):
        scorer.score(images, ["a cat"] * 3)


def test_score_rejects_whole_numbers_and_other_types(scorer: CLIPScorer) -> None:
    with pytest.raises(InputTypeError, match=r"floating-point tensor.*not torch\.uint8"):
        scorer.score(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a cat"])
    with pytest.raises(InputTypeError, match=r"floating-point tensor.*not list"):
        scorer.score([1.0], ["a cat"])  # type: ignore[arg-type]


def test_score_rejects_another_number_of_prompts(scorer: CLIPScorer, images: Tensor) -> None:
    with pytest.raises(InputError, match="3 images, 2 prompts"):
        scorer.score(images, ["a cat", "a red apple"])


def test_score_rejects_a_single_string(scorer: CLIPScorer, images: Tensor) -> None:
    with pytest.raises(InputTypeError, match="one prompt a picture, not a str"):
        scorer.score(images, "cat")


def test_score_rejects_prompts_that_are_no_strings(scorer: CLIPScorer, images: Tensor) -> None:
    with pytest.raises(InputTypeError, match="must be a str, not NoneType"):
        scorer.score(images, ["a cat", None, "a cat"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 520}, "The tokenizer has .* ids, this CLIP only 520"),
        ({"pooling": "first_eos", "eos_token_id": 2}, "reads a sentence off at token 2"),
    ],
)
def test_score_rejects_a_vocabulary_that_does_not_fit(
    tokenizer: CLIPTokenizer, changes: dict[str, object], message: str
) -> None:
    clip = CLIP(CLIPConfig.from_dict(CONFIG.to_dict() | changes))
    with pytest.raises(ConfigError, match=message):
        CLIPScorer(clip, tokenizer)


def test_score_rejects_an_end_token_below_the_highest_id_where_the_highest_is_read(
    tokenizer: CLIPTokenizer,
) -> None:
    tokenizer.backend.add_tokens(["extra"])
    with pytest.raises(ConfigError, match="at its highest id"):
        CLIPScorer(CLIP(CONFIG), tokenizer)


def test_the_given_tokenizer_is_not_changed(tokenizer: CLIPTokenizer) -> None:
    before = dataclasses.replace(tokenizer.config)
    CLIPScorer(CLIP.from_config(CONFIG), tokenizer)
    assert tokenizer.config == before


@pytest.mark.parametrize("shape", [(16, 16), (41, 17), (1, 90)])
def test_preprocess_any_size_becomes_the_models(shape: tuple[int, int]) -> None:
    pixel_values = preprocess(torch.rand(2, 3, *shape), CONFIG)
    assert pixel_values.shape == (2, 3, 16, 16)
    assert pixel_values.isfinite().all()


def test_preprocess_right_size_is_only_normalised() -> None:
    levels = torch.randint(0, 256, (1, 3, 16, 16)) / 255
    mean, std = torch.tensor(CONFIG.image_mean), torch.tensor(CONFIG.image_std)
    expected = (levels - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(preprocess(levels, CONFIG), expected)


def test_preprocess_a_flat_colour_stays_flat() -> None:
    pixel_values = preprocess(torch.full((1, 3, 33, 70), 0.4), CONFIG)
    assert float((pixel_values - pixel_values[..., :1, :1]).abs().max()) == 0


@pytest.mark.parametrize(("rounding", "start"), [("down", 1), ("even", 2)])
def test_preprocess_odd_margins_are_cut_where_the_original_cuts(rounding: str, start: int) -> None:
    config = CLIPConfig.from_dict(CONFIG.to_dict() | {"crop_rounding": rounding})
    ramp = torch.arange(19).div(255).expand(1, 3, 16, 19)
    red = preprocess(ramp, config)[0, 0, 0] * config.image_std[0] + config.image_mean[0]
    assert red.mul(255).round().tolist() == list(range(start, start + 16))


def test_preprocess_half_precision_images_are_computed_in_float32() -> None:
    assert preprocess(torch.rand(1, 3, 20, 20).half(), CONFIG).dtype == torch.float32


def test_prompts_of_another_kind_are_refused() -> None:
    prompts: Any = None
    with pytest.raises(InputTypeError, match="one prompt a picture, not a NoneType"):
        tiny_clip_scorer().score(torch.rand(1, 3, 16, 16), prompts)
