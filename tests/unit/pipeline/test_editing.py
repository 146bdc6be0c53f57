"""Drawing on pictures that are there: what is kept, what is drawn, and what is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dallemini import VQGAN, Pipeline
from dallemini.errors import ConfigError, DalleMiniError, InputError, InputTypeError
from dallemini.images import image_to_tensor
from dallemini.pipeline.regions import choose_regions, fade_in
from dallemini.testing import tiny_pipeline

UNIT = 4  # pixels of a token; the tiny model draws 4x4 of them


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def noise(width: int = 16, height: int = 16, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def white(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (16, 16)) -> Image.Image:
    mask = Image.new("L", size)
    for box in boxes:
        mask.paste(255, box)
    return mask


def levels(image: Image.Image) -> Any:
    return np.asarray(image).astype(int)


def codes(pipe: Pipeline, image: Image.Image) -> Tensor:
    return pipe.vqgan.encode(image_to_tensor(image)[None])[0]


def test_inpainting_keeps_the_tokens_and_the_pixels_outside_the_white_part(pipe: Pipeline) -> None:
    picture, mask = noise(), white((5, 5, 11, 9))  # touches tokens 1 and 2 of rows 1 and 2
    out = pipe.inpaint("a blue bird", picture, mask, num_images_per_prompt=3, seed=0)
    hole = [5, 6, 9, 10]
    kept = [place for place in range(16) if place not in hole]
    for tokens, image in zip(out.image_tokens, out.images, strict=True):
        assert torch.equal(tokens[kept], codes(pipe, picture)[kept])
        changed = (levels(image) != levels(picture)).any(-1)
        assert changed[5:9, 5:11].mean() > 0.9
        changed[5:9, 5:11] = False
        assert not changed.any()
    assert len({tuple(tokens[hole].tolist()) for tokens in out.image_tokens}) > 1


def test_without_paste_the_decoded_picture_is_shown(pipe: Pipeline) -> None:
    out = pipe.inpaint("a bird", noise(), white((4, 4, 8, 8)), seed=0, paste=False)
    decoded = pipe.vqgan.decode(out.image_tokens)[0].mul(255).byte().permute(1, 2, 0)
    assert levels(out.images[0]).tolist() == decoded.tolist()


@pytest.mark.slow_except("tensor", "bytes")
@pytest.mark.parametrize("kind", ["path", "array", "floats", "tensor", "bytes"])
def test_a_picture_is_given_in_any_form(pipe: Pipeline, tmp_path: Path, kind: str) -> None:
    picture, mask = noise(), white((4, 4, 8, 8))
    picture.save(tmp_path / "picture.png")
    given: dict[str, tuple[Any, Any]] = {
        "path": (tmp_path / "picture.png", mask),
        "array": (np.asarray(picture), np.asarray(mask) > 0),
        "floats": (np.asarray(picture) / 255, np.asarray(mask) / 255),
        "tensor": (image_to_tensor(picture), torch.from_numpy(np.array(mask))),
        "bytes": ((tmp_path / "picture.png").read_bytes(), mask.convert("1")),
    }
    expected = pipe.inpaint("a bird", picture, mask, seed=0)
    found = pipe.inpaint("a bird", *given[kind], seed=0)
    assert torch.equal(found.image_tokens, expected.image_tokens)
    assert found.edit == expected.edit


def test_a_photograph_is_turned_upright_with_its_mask_as_it_is_seen(pipe: Pipeline) -> None:
    picture, exif = noise(32, 16), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = io.BytesIO()
    picture.save(file, format="PNG", exif=exif)
    out = pipe.inpaint("a bird", file.getvalue(), white((0, 0, 8, 8), size=(16, 32)), seed=0)
    assert out.images[0].size == (16, 32)
    turned = picture.transpose(Image.Transpose.ROTATE_270)
    assert (levels(out.images[0])[8:] == levels(turned)[8:]).all()


@pytest.mark.thorough
def test_a_large_picture_is_fitted_and_its_mask_with_it(pipe: Pipeline) -> None:
    picture, mask = (
        Image.new("RGB", (4000, 2500), "red"),
        white((0, 0, 900, 900), size=(4000, 2500)),
    )
    out = pipe.inpaint("a blue bird", picture, mask, seed=0)
    assert out.images[0].size == (24, 16)  # 25.6 pixels wide, of which a whole number of tokens
    assert len(out.image_tokens[0]) == 24
    assert levels(out.images[0])[8:].tolist() == [[[255, 0, 0]] * 24] * 8
    fixed = pipe.inpaint("a blue bird", picture, mask, seed=0, width=40, height=20)
    assert fixed.images[0].size == (40, 20)


def test_varying_redraws_the_share_and_each_seed_its_own_regions(pipe: Pipeline) -> None:
    picture = noise()
    out = pipe.vary(picture, "a red apple", strength=0.25, num_images_per_prompt=6, seed=0)
    before = codes(pipe, picture)
    changed = out.image_tokens != before
    assert 0 < int(changed.sum(1).max()) <= 4
    assert len({tuple(row) for row in changed.tolist()}) > 2
    whole = pipe.vary(picture, "a red apple", strength=1, seed=0)
    assert torch.equal(whole.image_tokens, pipe("a red apple", seed=0).image_tokens)


def test_regions_are_a_share_of_the_grid_in_a_few_pieces() -> None:
    for seed in range(5):
        regions = choose_regions(16, 16, share=0.3, seed=seed)
        assert int(regions.sum()) == round(0.3 * 256)
        labels, pieces = regions.clone(), 0
        while labels.any():
            pieces += 1
            piece = torch.zeros_like(labels)
            piece.view(-1)[int(labels.flatten().int().argmax())] = True
            grown = piece
            while True:
                grown = (
                    torch.nn.functional.max_pool2d(piece[None].float(), 3, stride=1, padding=1)[
                        0
                    ].bool()
                    & labels
                )
                if torch.equal(grown, piece):
                    break
                piece = grown
            labels &= ~piece
        assert pieces <= 4


def test_outpainting_goes_on_beyond_every_edge(pipe: Pipeline) -> None:
    picture = noise()
    out = pipe.outpaint(picture, "a forest", left=8, right=4, top=4, bottom=12, seed=0)
    assert out.images[0].size == (28, 32)
    assert (levels(out.images[0])[4:20, 8:24] == levels(picture)).all()
    tokens = out.image_tokens.view(8, 7)
    assert torch.equal(tokens[1:5, 2:6], codes(pipe, picture).view(4, 4))


def test_a_start_image_is_gone_on_from(pipe: Pipeline) -> None:
    picture = noise()
    out = pipe("a red apple", start_image=picture, rows=1, num_images_per_prompt=2, seed=0)
    assert torch.equal(out.image_tokens[:, :4], codes(pipe, picture)[:4].expand(2, 4))
    assert (levels(out.images[0])[:4] == levels(picture)[:4]).all()
    bare = pipe("a red apple", start_image=picture, rows=1, paste=False, seed=0)
    assert torch.equal(bare.image_tokens[0], out.image_tokens[0])
    decoded = pipe.vqgan.decode(bare.image_tokens)[0].mul(255).byte().permute(1, 2, 0)
    assert levels(bare.images[0]).tolist() == decoded.tolist()
    half = pipe("a red apple", start_image=picture, seed=0)
    assert torch.equal(half.image_tokens[0, :8], codes(pipe, picture)[:8])
    assert not torch.equal(half.image_tokens[0, 8:], codes(pipe, picture)[8:])


def test_pictures_are_drawn_at_any_multiple_of_a_token(pipe: Pipeline) -> None:
    out = pipe("a red apple", width=28, height=20, seed=0)
    assert out.images[0].size == (28, 20)
    assert out.config.width == 28
    assert torch.equal(
        pipe("a red apple", width=16, height=16, seed=0).image_tokens,
        pipe("a red apple", seed=0).image_tokens,
    )


def test_a_tile_goes_on_at_its_opposite_edges(pipe: Pipeline) -> None:
    tile = pipe("a red apple", tile=True, width=24, seed=0)
    tokens = tile.image_tokens.view(4, 6).roll((2, 3), (0, 1))
    assert isinstance(pipe.vqgan, VQGAN)
    shifted = pipe.vqgan.decode(tokens.reshape(1, -1), shape=(4, 6), wraps=True)
    shifted = shifted[0].mul(255).floor().permute(1, 2, 0)
    moved = np.roll(levels(tile.images[0]), (8, 12), (0, 1))
    assert abs(moved - shifted.numpy()).max() <= 1
    for axis, edge in ((0, 8), (1, 12)):  # where the edges meet after moving by half
        contrasts = abs(np.diff(moved, axis=axis)).mean((1 - axis, 2))
        assert contrasts[edge - 1] < 2 * np.median(contrasts[UNIT - 1 :: UNIT])


def edits(pipe: Pipeline, **settings: Any) -> dict[str, Any]:
    picture, rest = noise(), {"progress": False, "lookahead": 3, **settings}
    return {
        "inpaint": pipe.inpaint("a bird", picture, white((4, 4, 12, 8)), **rest),
        "vary": pipe.vary(picture, "a bird", **rest),
        "outpaint": pipe.outpaint(picture, "a bird", right=8, **rest),
        "start": pipe("a bird", start_image=picture, **rest),
        "size": pipe("a bird", width=24, **rest),
        "tile": pipe("a bird", tile=True, **rest),
    }


@pytest.mark.thorough
def test_a_seed_draws_the_same_picture_in_any_batch(pipe: Pipeline) -> None:
    together = edits(pipe, seed=5, num_images_per_prompt=3, batch_size=3)
    for name, one in edits(pipe, seed=6).items():
        assert torch.equal(one.image_tokens[0], together[name].image_tokens[1]), name
        assert one.images[0].tobytes() == together[name].images[1].tobytes(), name


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_edits_in_less_precision_are_the_same_in_any_batch(dtype: Any) -> None:
    pipe = tiny_pipeline()
    pipe = pipe.quantize() if dtype == "int8" else pipe.to(dtype=dtype)
    picture, rest = noise(), dict[str, Any](lookahead=3, progress=False)
    calls: tuple[Any, ...] = (
        lambda **own: pipe.inpaint("a bird", picture, white((4, 4, 12, 8)), **rest, **own),
        lambda **own: pipe.outpaint(picture, "a bird", right=8, **rest, **own),
    )
    for call in calls:
        together, alone = call(seed=5, num_images_per_prompt=3, batch_size=3), call(seed=6)
        assert torch.equal(alone.image_tokens[0], together.image_tokens[1])
        assert alone.images[0].tobytes() == together.images[1].tobytes()


@pytest.mark.thorough
def test_settings_of_a_call_hold_for_edits(pipe: Pipeline) -> None:
    out = pipe.vary(
        noise(), ["a bird", "a tree"], num_images_per_prompt=2, candidates=2, rank=True, seed=0
    )
    assert len(out.images) == 4
    assert out.scores is not None
    assert out.scores[0] >= out.scores[1]
    alone = pipe.vary(noise(), "a bird", seed=out.seeds[0])
    assert alone.images[0].tobytes() == out.images[0].tobytes()
    with pytest.raises(ConfigError, match="strenght"):
        pipe.vary(noise(), "a bird", strenght=0.5)  # type: ignore[call-arg]


def test_candidates_without_a_scorer_are_chosen_by_likelihood(pipe: Pipeline) -> None:
    plain = Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, vqgan=pipe.vqgan)
    out = plain.outpaint(noise(), "a bird", right=8, candidates=3, seed=0)
    assert out.scores is not None
    assert out.seeds[0] in (0, 1, 2)


def test_a_stream_shows_what_is_kept_and_ends_with_the_picture(pipe: Pipeline) -> None:
    steps = list(pipe.stream("a bird", start_image=noise(), rows=1, every=4, seed=0))
    assert [step.position for step in steps] == [8, 12, 16]
    assert (levels(steps[0].images[0])[:4] == levels(noise())[:4]).all()
    assert levels(steps[0].images[0])[-1, -1].tolist() == [229, 229, 229]
    final = pipe("a bird", start_image=noise(), rows=1, seed=0)
    assert steps[-1].images[0].tobytes() == final.images[0].tobytes()
    assert torch.equal(steps[-1].image_tokens, final.image_tokens)
    tiles = list(pipe.stream("a bird", tile=True, every=8, seed=0))
    assert [step.finished for step in tiles] == [False] * (len(tiles) - 1) + [True]


def test_metadata_tell_the_edit(pipe: Pipeline, tmp_path: Path) -> None:
    out = pipe.inpaint("a bird", noise(), white((4, 4, 8, 8)), seed=0)
    with Image.open(out.save(tmp_path)[0]) as saved:
        found = json.loads(saved.text["edit"])  # type: ignore[attr-defined]
    assert found["operation"] == "inpaint"
    assert found["paste"] is True
    assert len(found["image"]) == len(found["mask"]) == 64
    other = pipe.inpaint("a bird", noise(seed=1), white((4, 4, 8, 8)), seed=0).edit
    assert other is not None
    assert other["image"] != found["image"]
    assert other["mask"] == found["mask"]
    around = pipe.outpaint(noise(), "a bird", right=8, seed=0).edit
    assert around is not None
    assert (around["operation"], around["left"], around["right"]) == ("outpaint", 0, 8)
    assert "edit" not in pipe("a bird", seed=0).metadata(0)


def test_what_is_drawn_fades_in_within_the_hole() -> None:
    hole = torch.zeros(20, 20, dtype=torch.bool)
    hole[4:, 4:16] = True
    opacity = fade_in(hole, reach=3)
    assert opacity[12, 2:9].tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert opacity[19, 9] == 255  # the picture's edge is none of the hole's
    thin = torch.zeros(9, 9, dtype=torch.bool)
    thin[4] = True
    assert fade_in(thin, reach=3)[4].tolist() == [255] * 9


PICTURE, MASK = noise(), white((4, 4, 8, 8))
WRONG: dict[str, tuple[Any, str]] = {
    "size": (lambda p: p.inpaint("a", PICTURE, white(size=(8, 8))), "mask has 8x8 .* 16x16"),
    "cut off": (
        lambda p: p.inpaint("a", noise(18), white((0, 0, 1, 16), size=(18, 16))),
        "white part of the mask is lost where the picture is fitted to 16x16",
    ),
    "paste alone": (lambda p: p("a", paste=False), "paste says what is kept of a start_image"),
    "empty": (lambda p: p.inpaint("a", PICTURE, white()), "nothing is to be redrawn"),
    "full": (lambda p: p.inpaint("a", PICTURE, white((0, 0, 16, 16))), "leaves no token"),
    "clear": (lambda p: p.inpaint("a", PICTURE, Image.new("RGBA", (16, 16))), "transparent"),
    "nothing": (lambda p: p.vary(PICTURE, "a", strength=0), "strength must be above 0"),
    "too much": (lambda p: p.vary(PICTURE, "a", strength=2), "strength must be .* not 2"),
    "no side": (lambda p: p.outpaint(PICTURE, "a"), "nothing to draw"),
    "odd": (lambda p: p.outpaint(PICTURE, "a", right=6), "multiple of the 4 .* take 4 or 8"),
    "inwards": (lambda p: p.outpaint(PICTURE, "a", left=-4), "left must be a multiple"),
    "endless": (lambda p: p.outpaint(PICTURE, "a", left=40000), "too large"),
    "narrow": (lambda p: p("a", width=8), "8x16 pixels is smaller than the 16x16"),
    "between": (lambda p: p("a", height=18), "height must be a multiple .* take 16 or 20"),
    "10 megapixels": (lambda p: p("a", width=4000, height=2500), "too large"),
    "all rows": (lambda p: p("a", start_image=PICTURE, rows=4), "from 1 to 3"),
    "rows alone": (lambda p: p("a", rows=2), "give that, too"),
    "text file": (lambda p: p.vary(b"words", "a"), "cannot be read as a picture"),
    "shape": (lambda p: p.vary(np.zeros((4, 4, 2), np.uint8), "a"), r"shape is \[4, 4, 2\]"),
    "range": (lambda p: p.vary(np.full((4, 4), 2.0), "a"), "go from 2 to 2 instead of 0 to 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(pipe: Pipeline, name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(InputError, match=message) as caught:
        call(pipe)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.vary(None, "a"),
        lambda p: p.vary(np.zeros((4, 4), np.int32), "a"),
        lambda p: p.vary(PICTURE, "a", strength="half"),
        lambda p: p.inpaint("a", PICTURE, MASK, paste=1),
        lambda p: p.outpaint(PICTURE, "a", right=4.5),
    ],
)
def test_what_is_of_another_kind_is_refused(pipe: Pipeline, call: Any) -> None:
    with pytest.raises(InputTypeError):
        call(pipe)


@pytest.mark.parametrize("settings", [{"width": 0}, {"lookahead": 0}, {"lookahead": 5000}])
def test_settings_out_of_range_are_refused(pipe: Pipeline, settings: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        pipe("a", **settings)


class Mosaic:
    """An image tokenizer that draws its own grid only."""

    codebook_size, image_length, device = 64, 16, torch.device("cpu")

    def encode(self, images: Tensor) -> Tensor:
        return images.mean(1)[:, ::UNIT, ::UNIT].flatten(1).mul(63).round().long()

    def decode(self, image_tokens: Tensor) -> Tensor:
        grid = image_tokens.view(-1, 1, 4, 4).float() / 63
        return grid.expand(-1, 3, 4, 4).repeat_interleave(UNIT, 2).repeat_interleave(UNIT, 3)


def test_an_image_tokenizer_of_your_own_edits_and_says_what_it_cannot(pipe: Pipeline) -> None:
    own = Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, vqgan=Mosaic())
    out = own.inpaint("a bird", noise(), white((4, 4, 8, 8)), seed=0)
    assert (levels(out.images[0])[8:] == levels(noise())[8:]).all()
    with pytest.raises(DalleMiniError, match="Mosaic decodes pictures of 16x16 pixels only"):
        own("a bird", width=24)


def test_a_picture_is_encoded_once_for_all_that_is_drawn_on_it(pipe: Pipeline) -> None:
    class Counting(Mosaic):
        encoded = 0

        def encode(self, images: Tensor) -> Tensor:
            self.encoded += len(images)
            return super().encode(images)

    counting = Counting()
    own = Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, vqgan=counting)
    settings: Any = {"num_images_per_prompt": 2, "candidates": 2, "batch_size": 1, "lookahead": 2}
    prompts, mask = ["a bird", "a tree"], white((4, 4, 8, 8))
    assert len(own.inpaint(prompts, noise(), mask, seed=0, progress=False, **settings)) == 4
    assert counting.encoded == 1
