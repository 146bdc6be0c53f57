"""Drawing with a mark and finding it again, with tiny parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dallemini import GenerationConfig, Pipeline, Watermark
from dallemini.errors import InputError, InputTypeError, MissingFileError
from dallemini.generation.watermark import SCHEME, weigh_evidence
from dallemini.images import tensor_to_images
from dallemini.pipeline.detecting import known_groups, look_for
from dallemini.testing import TINY_VQGAN, tiny_pipeline, tiny_vqgan

KEY = Watermark("secret", strength=20.0)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    made = tiny_pipeline()
    made.config = GenerationConfig(guidance_scale=2.0, temperature=2.0, top_k=None)
    return made


@pytest.fixture(scope="module")
def drawn(pipe: Pipeline) -> Any:
    return pipe("a red apple", num_images_per_prompt=3, seed=0, watermark=KEY, progress=False)


def evidence(pipe: Pipeline, tokens: torch.Tensor, mark: Watermark) -> float:
    """The p-value of tokens as they were drawn: a tiny VQGAN of random weights reads none back."""
    groups = known_groups(pipe.vqgan)  # type: ignore[arg-type]
    codes = [row.view(4, 4) for row in tokens]
    return weigh_evidence(codes, groups, mark.favours(groups))[0].p_value


def test_drawn_tokens_have_the_mark_of_their_key_alone(pipe: Pipeline, drawn: Any) -> None:
    assert evidence(pipe, drawn.image_tokens, KEY) < 1e-3
    assert evidence(pipe, drawn.image_tokens, Watermark("another")) > 0.01
    plain = pipe("a red apple", num_images_per_prompt=3, seed=0, progress=False)
    assert evidence(pipe, plain.image_tokens, KEY) > 0.01
    assert plain.watermark is None


def test_no_strength_draws_the_same_bits_as_no_mark(pipe: Pipeline) -> None:
    plain = pipe("a red apple", seed=3, progress=False)
    weak = pipe("a red apple", seed=3, watermark=Watermark("key", strength=0), progress=False)
    assert torch.equal(plain.image_tokens, weak.image_tokens)


def test_a_seed_means_one_picture_whatever_the_batch(pipe: Pipeline, drawn: Any) -> None:
    alone = pipe("a red apple", seed=drawn.seeds[2], watermark=KEY, progress=False)
    assert torch.equal(alone.image_tokens[0], drawn.image_tokens[2])
    assert alone.images[0].tobytes() == drawn.images[2].tobytes()


def test_a_stream_draws_the_same(pipe: Pipeline, drawn: Any) -> None:
    *_, last = pipe.stream("a red apple", seed=0, every=16, watermark=KEY, progress=False)
    assert torch.equal(last.image_tokens[0], drawn.image_tokens[0])


def test_int8_and_an_own_sampler_are_marked() -> None:
    pipe = tiny_pipeline().quantize()

    def own(logits: torch.Tensor, state: Any) -> torch.Tensor:
        return logits.argmax(-1)

    out = pipe("a red apple", num_images_per_prompt=2, sampler=own, watermark=KEY, progress=False)
    assert evidence(pipe, out.image_tokens, KEY) < 0.05
    assert out.sampler == "own"


def test_metadata_tell_of_the_mark_but_not_of_the_key(drawn: Any) -> None:
    chunks = drawn.metadata(0)
    assert chunks["watermark"] == SCHEME
    assert "secret" not in str(chunks)
    assert "sampler" not in chunks


@pytest.fixture(scope="module")
def exact() -> Any:
    """A VQGAN that reads back what it draws: a code is the colour of its token."""

    class Exact(type(tiny_vqgan())):  # type: ignore[misc]
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            middle = images[..., 1::4, 1::4] + images[..., 2::4, 2::4]
            digits = (middle / 2 * 3).round().long().flatten(2)
            return digits[:, 0] * 16 + digits[:, 1] * 4 + digits[:, 2]

    model = Exact(dataclasses.replace(TINY_VQGAN, resolution=32, attn_resolutions=(8,)))
    return model.to_empty(device="cpu").eval()


def paint(codes: torch.Tensor) -> torch.Tensor:
    """Return f[3,H,W] that `exact` reads as these codes."""
    digits = torch.stack([codes // 16, codes // 4 % 4, codes % 4])
    return (digits / 3).repeat_interleave(4, 1).repeat_interleave(4, 2)


def marked_codes(vqgan: Any, rows: int, columns: int) -> torch.Tensor:
    favoured = KEY.favours(known_groups(vqgan))
    generator = torch.Generator().manual_seed(0)
    chances = torch.stack(
        [favoured[r % 4 * 4 + c % 4].double() for r in range(rows) for c in range(columns)]
    )
    return chances.multinomial(1, generator=generator).view(rows, columns)


@pytest.fixture(scope="module")
def marked(exact: Any) -> torch.Tensor:
    torch.nn.init.normal_(
        exact.quantize.embedding.weight, generator=torch.Generator().manual_seed(1)
    )
    return paint(marked_codes(exact, 8, 8))


def test_a_mark_is_found_in_pixels(exact: Any, marked: torch.Tensor) -> None:
    found = look_for([marked], KEY, exact)
    assert found.p_value < 1e-4
    assert (found.score, found.tokens) == (1.0, 64)
    assert look_for([marked], Watermark("another"), exact).p_value > 0.01


def test_a_crop_is_found_by_moving_the_grid(exact: Any, marked: torch.Tensor) -> None:
    crop = marked[:, 5:, 2:]
    assert look_for([crop], KEY, exact).p_value < 0.01
    assert look_for([crop], KEY, exact, search=False).p_value > 0.01


def test_a_crop_of_a_picture_that_a_finer_decoder_made_is_found(
    exact: Any, marked: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is decoded twice as large as it is encoded is looked at in its own pixels."""
    monkeypatch.setattr(type(exact), "token_size", property(lambda self: 8))
    crop = marked.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, 10:, 4:]
    assert look_for([crop], KEY, exact).p_value < 0.01
    assert look_for([crop], KEY, exact, search=False).p_value > 0.01


def test_scaled_pictures_are_found_at_the_models_own_size(exact: Any, marked: torch.Tensor) -> None:
    large = marked.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert look_for([large], KEY, exact, search=False).p_value < 1e-3


def test_scaled_pictures_that_are_no_squares_are_found_by_the_size_that_drew_them(
    exact: Any,
) -> None:
    wide = paint(marked_codes(exact, 4, 16)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = look_for([wide], KEY, exact, search=False, side=16)
    assert found.p_value < 1e-3
    assert look_for([wide], KEY, exact, search=False).p_value > 0.01


def test_pictures_say_more_together(exact: Any, marked: torch.Tensor) -> None:
    parts = [marked[:, :16, :16], marked[:, :16, 16:]]
    alone = [look_for([part], KEY, exact, search=False).p_value for part in parts]
    assert look_for(parts, KEY, exact, search=False).p_value < min(alone)


def test_detect_takes_paths_bytes_and_pictures(pipe: Pipeline, drawn: Any, tmp_path: Path) -> None:
    path = drawn.save(tmp_path)[0]
    with Image.open(path) as image:
        image.load()
    ways = [str(path), path.read_bytes(), image, [path]]
    found = [pipe.detect(way, KEY, search=False) for way in ways]
    assert found == [found[0]] * 4
    assert found[0].tokens == 16


def test_a_scaled_canvas_is_found_by_the_size_that_drew_it(pipe: Pipeline) -> None:
    drawn = pipe("a cat", width=64, height=32, seed=1, watermark=KEY, progress=False)
    half = drawn.images[0].resize((32, 16), Image.Resampling.BOX)
    asked: dict[str, Any] = {"width": np.int64(64), "height": 32}
    assert pipe.detect(half, KEY, search=False, **asked).tokens == 128
    assert pipe.detect(half, KEY, search=False).tokens == 32
    wrong: Any = (
        ({"width": 6.5}, InputTypeError, "width must be a whole number of pixels, not 6.5"),
        ({"height": True}, InputTypeError, "height must be a whole number of pixels, not True"),
        ({"height": 0}, InputError, "height must be a positive number of pixels, not 0"),
        ({"width": 10**9, "height": 10**9}, InputError, "No picture has 1000000000 pixels on both"),
    )
    for size, error, told in wrong:
        with pytest.raises(error, match=told):
            pipe.detect(half, KEY, **size)


def test_unmarked_gray_and_odd_pictures_give_an_answer(pipe: Pipeline) -> None:
    for image in (Image.new("L", (16, 16), 128), Image.new("RGBA", (23, 17)), drawn_noise()):
        found = pipe.detect(image, KEY)
        assert 0 < found.p_value <= 1
        assert found.p_value > 1e-3


def drawn_noise() -> Image.Image:
    pixels = torch.rand(1, 3, 40, 24, generator=torch.Generator().manual_seed(0))
    return tensor_to_images(pixels)[0]


def test_detect_refuses_what_it_cannot_use(pipe: Pipeline, drawn: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no picture to look at"):
        pipe.detect([], KEY)
    with pytest.raises(InputError, match="A picture smaller than a token, 4 pixels, holds no mark"):
        pipe.detect(Image.new("RGB", (3, 9)), KEY)
    with pytest.raises(InputTypeError, match="watermark is a Watermark, such as Watermark"):
        pipe.detect(drawn.images, "secret")  # type: ignore[arg-type]
    whole = drawn.png(0)
    for broken in (whole[: len(whole) // 2], b"\xff\xd8\xff" + whole, b""):
        with pytest.raises(InputError, match="cannot be read as a picture"):
            pipe.detect(broken, KEY)
    with pytest.raises(MissingFileError, match="There is no file"):
        pipe.detect(tmp_path / "nothing.png", KEY)
    with pytest.raises(InputTypeError, match="watermark is a Watermark"):
        pipe("a red apple", watermark="secret", progress=False)  # type: ignore[arg-type]


def test_an_image_tokenizer_without_a_known_codebook_is_refused(pipe: Pipeline) -> None:
    class Own:
        codebook_size, image_length = 64, 16
        device = torch.device("cpu")

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), 16, dtype=torch.int64)

        def decode(self, image_tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(image_tokens), 3, 16, 16)

    own = Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, vqgan=Own())
    with pytest.raises(InputTypeError, match="needs the codebook of a VQGAN, which Own is not"):
        own("a red apple", watermark=KEY, progress=False)
    with pytest.raises(InputTypeError, match="needs the codebook of a VQGAN, which Own is not"):
        own.detect(Image.new("RGB", (16, 16)), KEY)
