"""A pipeline with every image tokenizer: drawing, editing, saving; grids that are no squares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dallemini import ImageTokenizer, Pipeline, Watermark
from dallemini.errors import CheckpointError, ConfigError, InputError
from dallemini.generation import Canvas
from dallemini.images import tensor_to_images
from dallemini.models import DVAE, DiscreteVAE, TransformerConfig
from dallemini.testing import (
    TINY_TRANSFORMER,
    tiny_pipeline,
    tiny_tokenizer,
    tiny_transformer,
    tiny_vqgan,
)
from image_tokenizers import KINDS, pictures, tiny_image_tokenizer

QUIET: dict[str, Any] = {"seed": 0, "progress": False}


def pipeline(kind: str, **config: Any) -> Pipeline:
    """Make a pipeline that draws the grid of a tokenizer, as training from scratch does."""
    vqgan = tiny_image_tokenizer(kind)
    sizes = {"image_length": vqgan.image_length, "image_tokenizer": vqgan.fingerprint, **config}
    transformer = tiny_transformer(replace(TINY_TRANSFORMER, **sizes))
    return Pipeline(tokenizer=tiny_tokenizer(), transformer=transformer, vqgan=vqgan)


def wide_pipeline(kind: str = "nearest") -> Pipeline:
    """Make one that draws two rows of six tokens."""
    return pipeline(kind, image_length=12, image_grid=(2, 6))


def tokenizer_of(pipe: Pipeline) -> ImageTokenizer:
    assert isinstance(pipe.vqgan, ImageTokenizer)
    return pipe.vqgan


def picture(width: int, height: int) -> Image.Image:
    return tensor_to_images(pictures(1, height, width))[0]


@pytest.fixture(scope="module")
def pipes() -> dict[str, Pipeline]:
    return {kind: pipeline(kind) for kind in KINDS}


@pytest.mark.slow_except("nearest", "DVAE")
@pytest.mark.parametrize("kind", KINDS)
def test_every_tokenizer_draws_edits_and_comes_back(
    pipes: dict[str, Pipeline], kind: str, tmp_path: Path
) -> None:
    pipe = pipes[kind]
    vqgan = tokenizer_of(pipe)
    (rows, columns), unit = vqgan.grid, vqgan.token_size
    own = columns * unit, rows * unit
    drawn = pipe("a cat", **QUIET)
    assert drawn.images[0].size == own
    larger = pipe("a cat", width=own[0] + unit, height=own[1], tile=True, **QUIET)
    assert larger.images[0].size == (own[0] + unit, own[1])
    mask = Image.new("L", own)
    mask.paste(255, (0, 0, unit, unit))
    edited = pipe.inpaint("a cat", picture(*own), mask, **QUIET)
    assert edited.images[0].getpixel((own[0] - 1, 0)) == picture(*own).getpixel((own[0] - 1, 0))
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vqgan"] == type(pipe.vqgan).__name__
    again = Pipeline.from_pretrained(tmp_path)
    assert torch.equal(again("a cat", **QUIET).image_tokens, drawn.image_tokens)
    assert again("a cat", **QUIET).images[0].tobytes() == drawn.images[0].tobytes()


def test_a_picture_of_a_wavelet_is_encoded_at_half_its_size(pipes: dict[str, Pipeline]) -> None:
    """It decodes 32x32 pixels from what it encodes at 16x16."""
    pipe = pipes["wavelet"]
    flat = Image.new("RGB", (32, 32), "red")
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 8, 8))
    tokens = pipe.inpaint("a cat", flat, mask, **QUIET).image_tokens[0]
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert torch.equal(tokens[1:], pipe.vqgan.encode(red)[0, 1:])


def test_a_transformer_refuses_the_codes_of_another_tokenizer() -> None:
    mine, other = tiny_vqgan(), tiny_vqgan(seed=1)
    trained = tiny_transformer(replace(TINY_TRANSFORMER, image_tokenizer=mine.fingerprint))
    parts: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "transformer": trained}
    Pipeline(**parts, vqgan=mine.to(torch.bfloat16))
    with pytest.raises(InputError, match=rf"another image tokenizer .*{mine.fingerprint}"):
        Pipeline(**parts, vqgan=other)
    with pytest.raises(InputError, match="than this DVAE"):
        Pipeline(**parts, vqgan=tiny_image_tokenizer("DVAE"))


def test_a_saved_pipeline_refuses_another_tokenizer(
    pipes: dict[str, Pipeline], tmp_path: Path
) -> None:
    pipes["nearest"].save_pretrained(tmp_path)
    with pytest.raises(InputError, match="trained on the codes of another image tokenizer"):
        Pipeline.from_pretrained(tmp_path, vqgan=tiny_vqgan(seed=1))


def test_an_index_may_name_every_tokenizer_but_no_other_class(
    pipes: dict[str, Pipeline], tmp_path: Path
) -> None:
    pipes["DVAE"].save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "vqgan": "Other"}))
    with pytest.raises(CheckpointError, match="must be 'VQGAN' or 'DVAE' or 'DiscreteVAE'"):
        Pipeline.from_pretrained(tmp_path)


def test_the_mark_of_a_key_needs_no_vqgan(pipes: dict[str, Pipeline]) -> None:
    pipe, mark = pipes["DiscreteVAE"], Watermark("secret", strength=10.0)
    drawn = pipe("a cat", num_images_per_prompt=4, watermark=mark, **QUIET)
    found = pipe.detect(drawn.images, mark, search=False)
    assert found.tokens == 4 * pipe.vqgan.image_length


@pytest.mark.slow_except("DVAE")
@pytest.mark.parametrize("kind", ["nearest", "DVAE"])
def test_a_grid_need_not_be_square(kind: str) -> None:
    pipe = wide_pipeline(kind)
    unit = tokenizer_of(pipe).token_size
    drawn = pipe("a cat", num_images_per_prompt=2, **QUIET)
    assert drawn.images[0].size == (6 * unit, 2 * unit)
    steps = list(pipe.stream("a cat", every=4, **QUIET))
    assert [step.position for step in steps] == [4, 8, 12]
    assert steps[-1].images[0].tobytes() == pipe("a cat", **QUIET).images[0].tobytes()
    larger = pipe("a cat", height=4 * unit, **QUIET)
    assert larger.images[0].size == (6 * unit, 4 * unit)
    kept = pipe("a cat", start_image=picture(6 * unit, 2 * unit), rows=1, **QUIET)
    assert kept.images[0].size == (6 * unit, 2 * unit)
    wider = pipe.outpaint(picture(6 * unit, 2 * unit), "a cat", right=2 * unit, **QUIET)
    assert wider.images[0].size == (8 * unit, 2 * unit)
    tall = pipe.vary(picture(20, 80), "a cat", strength=0.5, **QUIET)
    assert tall.images[0].size == (6 * unit, 24 * unit), "it covers a picture of the model's"
    with pytest.raises(InputError, match=f"smaller than the {6 * unit}x{2 * unit} that this model"):
        pipe("a cat", width=4 * unit, **QUIET)


def test_candidates_of_a_wide_picture_are_pruned_by_their_upper_half() -> None:
    drawn = wide_pipeline()("a cat", candidates=4, **QUIET)
    assert drawn.image_tokens.shape == (1, 12)


def test_windows_of_a_grid_that_is_no_square() -> None:
    canvas = Canvas(height=4, width=9, side=(2, 6))
    windows = canvas.plan(torch.ones(4, 9, dtype=torch.bool))
    drawn = torch.cat([window.index[window.free] for window in windows])
    assert torch.equal(drawn.sort().values, torch.arange(36)), "each token is drawn once"
    assert all(len(window.index) == 12 for window in windows)
    assert len(torch.cat(canvas.tiles()).unique()) == 36
    seams = Canvas(height=2, width=6, side=(2, 6), wraps=True)
    assert not seams.is_plain
    assert len(seams.plan(torch.ones(2, 6, dtype=torch.bool))) > 1
    with pytest.raises(InputError, match="6x1 tokens is smaller than the 6x2"):
        Canvas(height=1, width=6, side=(2, 6))


def test_rows_and_columns_must_make_the_length() -> None:
    assert TransformerConfig(image_length=12, image_grid=(2, 6)).grid == (2, 6)
    assert TransformerConfig().grid == (16, 16)
    for grid in ((2, 5), (12,), (2, 2, 3)):
        with pytest.raises(ConfigError, match="image_grid must be rows and columns"):
            TransformerConfig(image_length=12, image_grid=grid)
    with pytest.raises(InputError, match="12 tokens, which is no square picture; say"):
        _ = TransformerConfig(image_length=12).grid


def test_types_of_the_classes_are_kept(pipes: dict[str, Pipeline]) -> None:
    assert isinstance(pipes["DVAE"].vqgan, DVAE)
    assert isinstance(pipes["DiscreteVAE"].vqgan, DiscreteVAE)
    assert isinstance(tiny_pipeline().components["vqgan"], type(tiny_vqgan()))
