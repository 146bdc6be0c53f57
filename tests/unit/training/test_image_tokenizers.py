"""A transformer is trained on the codes of every image tokenizer, from pictures to a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dallemini import Pipeline
from dallemini.data import CaptionedImages, DataConfig, EncodedImages, encode_images
from dallemini.errors import InputError, UnsupportedOperationError
from dallemini.evaluation import EvaluationConfig, evaluate, picture_size
from dallemini.testing import TINY_TRANSFORMER
from dallemini.training.recipes import (
    TransformerTrainingConfig,
    VQGANTrainingConfig,
    train_transformer,
    train_vqgan,
)
from image_tokenizers import KINDS, tiny_image_tokenizer

LOOP: dict[str, Any] = {"steps": 2, "batch_size": 4, "warmup_steps": 1, "progress": False}
LOOP |= {"device": "cpu", "log_every": 1, "evaluate_every": 2}
QUIET: dict[str, Any] = {"seed": 0, "progress": False}
MEASURES = EvaluationConfig(
    captions=2, references=2, measure=("samples", "reconstruction", "likelihood")
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 20), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    return folder


def train(pictures: Path, kind: str, folder: Path, **changes: Any) -> Pipeline:
    tiny_image_tokenizer(kind).save_pretrained(folder / "tokenizer")
    settings: dict[str, Any] = {
        "train_data": (str(pictures),),
        "output": str(folder / "model"),
        "vqgan": str(folder / "tokenizer"),
        "model": TINY_TRANSFORMER,
        "data": DataConfig(min_side=8),
        **LOOP,
        **changes,
    }
    return train_transformer(TransformerTrainingConfig(**settings))


@pytest.mark.thorough
@pytest.mark.usefixtures("plotting")
@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("DVAE", "gumbel") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_a_pipeline_on_every_tokenizer(pictures: Path, kind: str, tmp_path: Path) -> None:
    vqgan = tiny_image_tokenizer(kind)
    train(pictures, kind, tmp_path)
    pipe = Pipeline.from_pretrained(tmp_path / "model")
    config = pipe.transformer.config
    assert type(pipe.vqgan) is type(vqgan)
    assert config.image_tokenizer == vqgan.fingerprint
    assert (config.grid, config.image_vocab_size) == (vqgan.grid, 64)
    side = vqgan.grid[0] * vqgan.token_size
    assert pipe("a red square", **QUIET).images[0].size == (side, side)
    assert picture_size(pipe) == side
    data = CaptionedImages.open(pictures, config=DataConfig(image_size=side, min_side=8))
    report = evaluate(pipe, data, config=MEASURES, progress=False)
    assert report.reconstruction is not None
    assert report.likelihood is not None


@pytest.mark.slow
@pytest.mark.usefixtures("plotting")
def test_pictures_need_not_be_square(pictures: Path, tmp_path: Path) -> None:
    wide = DataConfig(image_size=(8, 24), min_side=8)
    pipe = train(pictures, "nearest", tmp_path, data=wide)
    assert pipe.transformer.config.image_grid == (2, 6)
    assert pipe("a red square", **QUIET).images[0].size == (24, 8)
    assert picture_size(pipe) == (8, 24)
    report = evaluate(
        pipe, CaptionedImages.open(pictures, config=wide), config=MEASURES, progress=False
    )
    assert report.likelihood is not None
    encoded = EncodedImages.open(tmp_path / "model-run/tokens-train")
    assert (encoded.grid, encoded.fingerprint) == ((2, 6), pipe.transformer.config.image_tokenizer)
    encoded_run = {"train_data": (str(tmp_path / "model-run/tokens-train"),)}
    again = train(pictures, "nearest", tmp_path / "again", **encoded_run)
    assert again.transformer.config.image_grid == (2, 6), "told by the shards"


@pytest.mark.thorough
def test_tokens_of_another_tokenizer_or_grid_are_refused(pictures: Path, tmp_path: Path) -> None:
    data = CaptionedImages.open(pictures, config=DataConfig(image_size=16, min_side=8))
    other = tiny_image_tokenizer("nearest", seed=1)
    encode_images(other, data, tmp_path / "other", progress=False)
    with pytest.raises(InputError, match=r"encoded by another image tokenizer \(fingerprint"):
        train(pictures, "nearest", tmp_path, train_data=(str(tmp_path / "other"),))
    model = tmp_path / "start"
    pipe = Pipeline.from_pretrained(_start(pictures, model))
    wide = CaptionedImages.open(pictures, config=DataConfig(image_size=(8, 32), min_side=8))
    encode_images(pipe.vqgan, wide, tmp_path / "wide", progress=False)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(2, 8\) rows and columns .* draws \(4, 4\)"):
        train(
            pictures,
            "nearest",
            tmp_path / "tuned",
            train_data=(str(tmp_path / "wide"),),
            init_from=str(model / "model"),
            vqgan=None,
            model=type(TINY_TRANSFORMER)(),
        )


def _start(pictures: Path, folder: Path) -> Path:
    train(pictures, "nearest", folder)
    return folder / "model"


@pytest.mark.parametrize("kind", ["gumbel", "cosine", "wavelet"])
def test_only_plain_vqgans_are_trained_themselves(
    pictures: Path, kind: str, tmp_path: Path
) -> None:
    tiny_image_tokenizer(kind).save_pretrained(tmp_path / "start")
    config = VQGANTrainingConfig(
        train_data=(str(pictures),),
        output=str(tmp_path / "tuned"),
        init_from=str(tmp_path / "start"),
        data=DataConfig(image_size=16, min_side=8),
        **LOOP,
    )
    with pytest.raises(UnsupportedOperationError, match="the quantizer 'nearest'"):
        train_vqgan(config)


def test_codes_that_were_made_at_a_wide_size_are_read_back(pictures: Path, tmp_path: Path) -> None:
    data = CaptionedImages.open(pictures, config=DataConfig(image_size=(8, 16), min_side=8))
    assert data[0].image.shape == (3, 8, 16)
    vqgan = tiny_image_tokenizer("DVAE")
    encode_images(vqgan, data, tmp_path / "tokens", progress=False)
    encoded = EncodedImages.open(tmp_path / "tokens")
    assert (encoded.grid, encoded.image_length) == ((1, 2), 2)
    expected = vqgan.encode(torch.stack([data[index].image for index in range(4)]))
    assert torch.equal(encoded.image_tokens(range(4)), expected)
