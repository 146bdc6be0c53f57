"""Pictures: which are refused and why, and how the others become square."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image

from dallemini.data import BadRecordError, DataConfig
from dallemini.data.images import decode_image, fit_image
from dallemini.data.order import random_at
from picture_files import BAD_PICTURES, bad_picture, encode, picture

CONFIG = DataConfig(image_size=8, max_pixels=5_000_000)


def decode(content: bytes | Path, **options: Any) -> Image.Image:
    return decode_image(content, key="k", config=CONFIG)


@pytest.mark.parametrize(("name", "reason"), BAD_PICTURES.items())
def test_bad_pictures_are_named_with_their_reason(name: str, reason: str) -> None:
    with pytest.raises(BadRecordError, match=f"record k is bad: {reason}, ") as caught:
        decode(bad_picture(name))
    assert (caught.value.record.key, caught.value.record.reason) == ("k", reason)


@pytest.mark.parametrize(
    ("side", "detail"), [(60_000, "PIL does not open it"), (9400, "9400x9400")]
)
def test_decompression_bombs_are_too_large(side: int, detail: str) -> None:
    with pytest.raises(BadRecordError, match=f"too large, {detail}"):
        decode_image(claiming(side), key="k", config=DataConfig(max_side=65_535, max_pixels=10**7))


def test_a_warning_about_size_that_is_made_an_error_is_a_bad_record() -> None:
    with pytest.raises(BadRecordError, match="too large, PIL does not open it"):
        decode_image(claiming(10_000), key="k", config=DataConfig(max_pixels=150_000_000))


def claiming(side: int) -> bytes:
    """Return a PNG whose header claims to be so large."""
    content = bytearray(encode(Image.new("1", (8, 8))))
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_missing_files_are_bad_records(tmp_path: Path) -> None:
    with pytest.raises(BadRecordError, match="no image, its file cannot be read"):
        decode(tmp_path / "none.png")
    with pytest.raises(BadRecordError, match="no image, its file cannot be read"):
        decode(tmp_path)


def test_postscript_is_not_opened() -> None:
    with pytest.raises(BadRecordError, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n")


@pytest.mark.parametrize("file_format", ["WEBP", "BMP", "TIFF"])
def test_usual_formats_are_read(file_format: str) -> None:
    image = decode(encode(Image.new("RGB", (20, 30), "white"), file_format=file_format))
    assert (image.mode, image.size) == ("RGB", (20, 30))
    assert image.getpixel((5, 5)) == (255, 255, 255)


def test_cmyk_is_converted() -> None:
    content = encode(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), file_format="JPEG")
    red, green, blue = pixel(decode(content))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize("mode", ["1", "P", "I;16"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("L", (20, 20), 255)
    white = Image.new(mode, (20, 20), 65_535) if mode == "I;16" else image.convert(mode)
    assert pixel(decode(encode(white))) == (255, 255, 255)


def test_transparent_pictures_go_on_white() -> None:
    assert pixel(decode(encode(Image.new("RGBA", (20, 20), (200, 0, 0, 0))))) == (255, 255, 255)
    palette = Image.new("P", (20, 20), 0)
    assert pixel(decode(encode(palette, transparency=0))) == (255, 255, 255)


def test_cameras_notes_turn_a_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content = encode(Image.new("RGB", (40, 20)), file_format="JPEG", exif=exif)
    assert decode(content).size == (20, 40)


def test_broken_notes_do_not_lose_a_picture() -> None:
    content = encode(Image.new("RGB", (40, 20)), file_format="JPEG", exif=b"Exif\0\0MM\0*\xff")
    assert decode(content).size == (40, 20)


def test_previews_of_a_camera_are_no_animation() -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in ("white", "black")]
    content = encode(frames[0], file_format="MPO", save_all=True, append_images=frames[1:])
    assert pixel(decode(content)) == (255, 255, 255)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    assert decode(encode(Image.new("RGB", (1600, 800)), file_format="JPEG")).size == (200, 100)


@pytest.mark.parametrize(
    ("size", "crop"),
    [((8, 8), "center"), ((30, 8), "random"), ((3, 900), "pad"), ((8000, 5), "center")],
)
def test_every_picture_becomes_square(
    size: tuple[int, int], crop: Literal["center", "random", "pad"]
) -> None:
    config = DataConfig(image_size=8, crop=crop, mirror=True)
    image = fit_image(Image.new("RGB", size), config=config, chance=random_at(0, 1))
    assert (image.shape, image.dtype) == ((3, 8, 8), torch.float32)
    assert image.min() >= 0
    assert image.max() <= 1


def stripes() -> Image.Image:
    """Red, green and blue from left to right, 24x8."""
    image = Image.new("RGB", (24, 8), (255, 0, 0))
    image.paste((0, 255, 0), (8, 0, 16, 8))
    image.paste((0, 0, 255), (16, 0, 24, 8))
    return image


def test_center_keeps_the_middle_of_the_long_side() -> None:
    image = fit_image(stripes(), config=DataConfig(image_size=8), chance=random_at(0, 1))
    assert image[:, 4, 4].tolist() == [0, 1, 0]
    assert image.mean(dim=(1, 2))[1] > 0.95


def test_random_keeps_every_place_of_the_long_side() -> None:
    config = DataConfig(image_size=8, crop="random")
    seen = {
        int(fit_image(stripes(), config=config, chance=random_at(0, n))[:, 4, 4].argmax())
        for n in range(40)
    }
    assert seen == {0, 1, 2}


def test_pad_keeps_the_whole_picture_on_white() -> None:
    image = fit_image(stripes(), config=DataConfig(image_size=24, crop="pad"))
    assert image[:, 0].min() == 1
    assert image[:, -1].min() == 1
    middle = image[:, 12, (2, 12, 22)].argmax(dim=0)
    assert middle.tolist() == [0, 1, 2]


def test_mirror_turns_half_of_the_pictures() -> None:
    config = DataConfig(image_size=24, crop="pad", mirror=True)
    left = [
        int(fit_image(stripes(), config=config, chance=random_at(0, n))[:, 12, 2].argmax())
        for n in range(200)
    ]
    assert set(left) == {0, 2}
    assert 70 < left.count(2) < 130


def test_without_chance_nothing_is_drawn() -> None:
    config = DataConfig(image_size=8, crop="random", mirror=True)
    plain = fit_image(stripes(), config=DataConfig(image_size=8))
    assert torch.equal(fit_image(stripes(), config=config), plain)


def test_small_pictures_are_scaled_up() -> None:
    image = fit_image(decode(picture(7)), config=DataConfig(image_size=64))
    assert torch.allclose(image[0], torch.full((64, 64), 70 / 255))


def pixel(image: Image.Image) -> tuple[int, ...]:
    found = image.getpixel((5, 5))
    assert isinstance(found, tuple)
    return tuple(int(part) for part in found)
