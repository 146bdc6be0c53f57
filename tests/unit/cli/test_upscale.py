"""`dallemini upscale` and `generate --upscale`: files in, larger ones out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dallemini import Pipeline, Upscaler, image_to_tensor
from dallemini.cli.upscale import _Tiled
from dallemini.models import UpscalerConfig
from dallemini.testing import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "upscaler"
    Upscaler.from_config(UpscalerConfig(width=4, num_blocks=1)).save_pretrained(folder)
    return folder


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_files_are_enlarged_into_a_folder(run: Any, model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name)
    files, out = (tmp_path / "a.png", tmp_path / "b.jpg"), tmp_path / "out"
    result = run("upscale", *files, "--model", model, "--output", out, "--tile", 8)
    assert result.lines == [str(out / "a-4x.png"), str(out / "b-4x.png")]
    assert {size_of(line) for line in result.lines} == {(80, 40)}
    half = run("upscale", files[0], "--model", model, "--output", out, "--factor", 2)
    assert size_of(half.lines[0]) == (40, 20)
    told = json.loads(run("upscale", files[0], "--model", model, "-o", out, "--json").out)
    assert (told["picture"], told["factor"]) == (str(files[0]), 4)
    assert size_of(told["path"]) == (80, 40)


@pytest.mark.parametrize("tile", [False, True])
def test_a_file_has_the_pixels_that_the_pipeline_makes(
    run: Any, model: Path, tmp_path: Path, tile: bool
) -> None:
    upscaler, parts = Upscaler.from_pretrained(model), tiny_pipeline()
    pipe = Pipeline(
        tokenizer=parts.tokenizer,
        transformer=parts.transformer,
        vqgan=parts.vqgan,
        upscaler=upscaler,
    )
    small, large = (pipe("a cat", seed=3, tile=tile, upscale=n, progress=False) for n in (None, 4))
    result = run("upscale", small.save(tmp_path)[0], "--model", model, "-o", tmp_path)
    with Image.open(result.lines[0]) as made:
        assert made.tobytes() == large.images[0].tobytes()
        assert made.info["upscaler_weights"] == large.upscaler_weights
    pixels = (upscaler.upscale(image_to_tensor(small.images[0])[None])[0] * 255).round()
    if not tile:
        assert pixels.byte().permute(1, 2, 0).tolist() == np.asarray(large.images[0]).tolist()
    assert _Tiled(upscaler, 8).context == upscaler.context  # around a tile


def test_what_cannot_be_enlarged_is_one_sentence(
    run: Any, model: Path, tiny: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    picture = tmp_path / "a.png"
    for words, message in (
        ((), "There is no picture; try"),
        ((tmp_path / "b.png", "--model", model), "cannot be read as a picture"),
        ((picture, "--model", model, "--factor", 8), "cannot make pictures 8 times larger"),
        ((picture, "--model", tiny), "has no upscaler; name one"),
    ):
        result = run("upscale", *words)
        assert (result.code, result.lines) == (1 if words else 2, [])
        assert message in result.err


@pytest.mark.thorough
def test_generate_enlarges_and_convert_adds_the_part(
    run: Any, model: Path, tiny: Path, tmp_path: Path
) -> None:
    words = ("generate", "a cat", "--seed", 0, "--output", tmp_path, "--upscale", 2)
    result = run(*words, "--model", tiny, "--upscaler", model)
    assert size_of(result.lines[0]) == (32, 32)
    assert run("convert", tiny, tmp_path / "whole", "--upscaler", model).code == 0
    result = run(*words, "--model", tmp_path / "whole")
    assert size_of(result.lines[0]) == (32, 32)
    assert "upscaler" in run("info", tmp_path / "whole").out
