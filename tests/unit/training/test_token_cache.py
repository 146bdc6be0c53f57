"""The tokens that a run keeps: of the pictures that there are, never of others."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dallemini.data import DataConfig, EncodedImages
from dallemini.testing import tiny_pipeline
from dallemini.training.recipes import TransformerTrainingConfig, train_transformer


def write(folder: Path, *colours: str, caption: str = "a {} square") -> str:
    folder.mkdir(exist_ok=True)
    for number, colour in enumerate(colours):
        Image.new("RGB", (20, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption.format(colour))
    return str(folder)


def train(tmp_path: Path, data: str, steps: int = 1) -> EncodedImages:
    """Train for a step and return the tokens that the run keeps."""
    config = TransformerTrainingConfig(
        train_data=(data,),
        output=str(tmp_path / "tuned"),
        init_from=str(tmp_path / "model"),
        data=DataConfig(min_side=8),
        steps=steps,
        batch_size=2,
        warmup_steps=1,
        device="cpu",
        progress=False,
    )
    train_transformer(config)
    return EncodedImages.open(tmp_path / "tuned-run" / "tokens-train")


@pytest.mark.thorough
def test_a_run_trains_on_the_pictures_and_captions_that_there_are(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "model")
    first = write(tmp_path / "first", "red", "green", "blue")
    before = train(tmp_path, first)
    write(tmp_path / "first", "red", "green", "blue", caption="the {} square")
    renamed = train(tmp_path, first, steps=2)
    assert renamed[0].captions == ("the red square",)
    assert [item.image_tokens.tolist() for item in renamed] == [
        item.image_tokens.tolist() for item in before
    ]
    other = train(tmp_path, write(tmp_path / "other", "white", "black", "gray"), steps=3)
    assert other[0].captions == ("a white square",)
    assert other[0].image_tokens.tolist() != before[0].image_tokens.tolist()
    alone = train(tmp_path, str(tmp_path / "tuned-run/tokens-train/tokens-00000.parquet"), steps=4)
    assert len(alone) == 3  # shards by name are tokens, not pictures
