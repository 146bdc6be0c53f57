"""Pictures: read from anywhere in any mode, turned into tensors and back."""

from __future__ import annotations

import io
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dallemini import images
from dallemini.errors import InputError, InputTypeError, MissingFileError
from dallemini.images import (
    PictureError,
    fit_image,
    image_to_tensor,
    open_image,
    picture_digest,
    read_image,
    read_mask,
    tensor_to_images,
)
from fuzzing import ruled


def test_pixels_are_rounded_down() -> None:
    levels = torch.tensor([0.0, 0.999 / 255, 1.0 / 255, 254.99 / 255, 1.0])
    (image,) = tensor_to_images(levels.view(1, 1, 1, 5).expand(1, 3, 1, 5))
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 1, 254, 255]  # type: ignore[index]


def test_pixels_of_half_precision_and_gradients_are_accepted() -> None:
    pixels = torch.rand(1, 3, 2, 2, requires_grad=True)
    assert len(tensor_to_images(pixels.half())) == 1


def test_pixels_beyond_0_to_1_are_clipped() -> None:
    (image,) = tensor_to_images(torch.tensor([-0.5, 1.5]).view(1, 1, 1, 2).expand(1, 3, 1, 2))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 4, 4), (1, 4, 4, 3)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"Pixels must have shape \[N, 3, H, W\], not \["):
        tensor_to_images(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"pixels are not finite .*dtype=torch\.float32"):
        tensor_to_images(torch.full((1, 3, 2, 2), value))


def test_pictures_and_tensors_convert_back_and_forth() -> None:
    pixels = torch.randint(256, (1, 3, 5, 7), generator=torch.Generator().manual_seed(0)) / 255
    (image,) = tensor_to_images(pixels + 1e-4)
    assert torch.equal(image_to_tensor(image), pixels[0])


@pytest.mark.parametrize(
    ("mode", "colour"),
    [
        ("L", 255),
        ("1", 1),
        ("I;16", 65535),
        ("P", 0),
        ("CMYK", (0, 0, 0, 0)),
        ("LA", (0, 0)),
        ("RGBA", (9, 9, 9, 0)),
    ],
)
def test_white_and_transparent_pictures_of_any_mode_are_white(mode: str, colour: Any) -> None:
    image = Image.new(mode, (2, 1), colour)
    if mode == "P":
        image.putpalette([255, 255, 255])
    assert torch.equal(image_to_tensor(image), torch.ones(3, 1, 2))


def test_transparent_palette_becomes_white() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    assert torch.equal(image_to_tensor(image), torch.ones(3, 1, 1))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bits_of_gray_become_8(mode: str) -> None:
    for level, expected in ((0, 0), (32896, 128), (65535, 255)):
        found = image_to_tensor(Image.new(mode, (1, 1), level))
        assert (found * 255).tolist() == [[[expected]]] * 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_pictures_are_read_from_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    Image.new("RGB", (5, 4), "white").save(path, format=kind)
    assert torch.equal(read_image(path), torch.ones(3, 4, 5))
    assert torch.equal(read_image(str(path)), torch.ones(3, 4, 5))


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no file .*nowhere\.png\. Check the path"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(MissingFileError, match=r"example\.org/cat\.png\. Download it first"):
        read_image("https://example.org/cat.png")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7"])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.png").write_bytes(content)
    with pytest.raises(InputError, match=r"file\.png cannot be read as a picture: "):
        read_image(tmp_path / "file.png")


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tensor_to_images(noise)[0].save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"picture\.png cannot be read as a picture: "):
        read_image(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_image(tmp_path)


@pytest.mark.parametrize("path", [None, 3.5, ["picture.png"]])
def test_what_names_no_file_is_refused(path: Any) -> None:
    with pytest.raises(
        InputTypeError,
        match=r"by its path, its bytes, .* not (None|float|list)",
    ):
        read_image(path)


# --- Pictures as people have them ------------------------------------------------------------


def levels(image: Any) -> list[int]:
    """The gray levels of a picture's first row."""
    pixels = np.asarray(open_image(image))
    assert (pixels[..., 0] == pixels[..., 2]).all()
    return [int(level) for level in pixels[0, :, 0]]


def corner() -> Image.Image:
    """A picture of 4x2 that is black but for a red corner, top left."""
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    return image


@pytest.mark.parametrize(
    ("orientation", "kind"), [*((turn, "PNG") for turn in range(1, 9)), (6, "TIFF"), (8, "WEBP")]
)
def test_photographs_are_upright(orientation: int, kind: str) -> None:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    corner().save(content, format=kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    rows = [[(0, 0), (0, 3), (1, 3), (1, 0)], [(0, 0), (0, 1), (3, 1), (3, 0)]][orientation > 4]
    place = rows[(orientation - 1) % 4]
    expected = torch.zeros(3, *((4, 2) if orientation > 4 else (2, 4)))
    expected[0, place[0], place[1]] = 1
    assert torch.equal(read_image(content.getvalue()), expected)
    with Image.open(content) as image:
        assert torch.equal(image_to_tensor(image), expected)


def test_a_picture_is_opened_from_path_bytes_file_and_pil(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    corner().save(path)
    expected = np.asarray(corner())
    with path.open("rb") as file, Image.open(path) as image:
        for form in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), file, image):
            found = open_image(form)  # type: ignore[arg-type]
            assert (found.mode, found.size) == ("RGB", (4, 2))
            assert np.array_equal(np.asarray(found), expected)


def test_a_picture_of_pil_is_not_changed() -> None:
    image = Image.new("RGBA", (2, 1), (1, 2, 3, 0))
    assert open_image(image).getpixel((0, 0)) == (255, 255, 255)
    assert (image.mode, image.getpixel((0, 0))) == ("RGBA", (1, 2, 3, 0))


def test_a_text_file_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with (tmp_path / "a.txt").open() as file, pytest.raises(InputTypeError, match="binary mode"):
        open_image(file)  # type: ignore[arg-type]


@pytest.mark.parametrize("modes", ["RGBA RGBa", "LA La", "P PA", "YCbCr", "HSV", "LAB"])
def test_rarer_modes_become_rgb(modes: str) -> None:
    image = Image.new("RGB", (1, 1), "white")
    for mode in modes.split():
        image = Image.new(mode, (1, 1), (255, 128, 128)) if mode == "LAB" else image.convert(mode)
    assert min(open_image(image).getpixel((0, 0))) >= 254  # type: ignore[arg-type]


def tiff(values: np.ndarray[Any, Any], bits: int, sample_format: int = 1) -> bytes:
    """Write gray values as a TIFF that PIL itself cannot write."""
    if bits == 12:
        pairs: np.ndarray[Any, Any] = values.astype(np.uint32).reshape(-1, 2)
        packed = pairs[:, 0] << 12 | pairs[:, 1]
        data = b"".join(int(pair).to_bytes(3, "big") for pair in packed)
    else:
        data = values.tobytes()
    tags = [
        (256, values.size), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4),
        (277, 1), (279, len(data)), (339, sample_format),
    ]  # fmt: skip
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\4\0" + b"\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in tags
    )
    return b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + entries + b"\0" * 4 + data


UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@pytest.mark.parametrize(
    ("values", "dtype", "bits", "kind", "expected"),
    [
        ([0, 0.5, 0.25, 1], "f4", 32, FLOAT, [0, 128, 64, 255]),
        ([0, 51, 250, 2], "f4", 32, FLOAT, [0, 51, 250, 2]),
        ([0, 65535, 257, 514], "f4", 32, FLOAT, [0, 255, 1, 2]),
        ([0, 51, 250, 2], "i4", 32, SIGNED, [0, 51, 250, 2]),
        ([0, 65535, 257, 514], "i4", 32, SIGNED, [0, 255, 1, 2]),
        ([0, 2**31 - 1, 2**30, 0], "i4", 32, SIGNED, [0, 255, 128, 0]),
        ([0, 2**32 - 1, 2**31, 0], "u4", 32, UNSIGNED, [0, 255, 128, 0]),
        ([0, 51, 250, 2], "u2", 16, UNSIGNED, [0, 51, 250, 2]),
        ([0, 65535, 257, 514], "u2", 16, UNSIGNED, [0, 255, 1, 2]),
        ([0, 4095, 2048, 1000], "u2", 12, UNSIGNED, [0, 255, 128, 62]),
        ([0, 51, 250, 2], "u2", 12, UNSIGNED, [0, 51, 250, 2]),
        ([0, 4095, 2048, 1000], "u2", 16, UNSIGNED, [0, 255, 128, 62]),
        ([0, 4095, 2048, 1000], "i4", 32, SIGNED, [0, 255, 128, 62]),
        ([0, 4095, 2048, 1000], "f4", 32, FLOAT, [0, 255, 128, 62]),
    ],
)
def test_deep_gray_is_scaled_by_its_range(
    values: list[float], dtype: str, bits: int, kind: int, expected: list[int]
) -> None:
    assert levels(tiff(np.array(values, dtype), bits, kind)) == expected


def test_transparent_deep_gray_becomes_white() -> None:
    content = io.BytesIO()
    Image.fromarray(np.array([[0, 7000, 65535]], np.uint16)).save(
        content, format="PNG", transparency=7000
    )
    assert levels(content.getvalue()) == [0, 255, 255]


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, float("nan")], [0.0, 1e9]])
def test_numbers_of_no_known_range_are_refused(values: list[float]) -> None:
    with pytest.raises(PictureError, match=r"its numbers go from .* scale them to 0 to 1"):
        open_image(tiff(np.array(values, "f4"), 32, FLOAT))


# --- What is no picture ----------------------------------------------------------------------


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    for name in ("pipe", "link", "socket", "/dev/zero"):
        with pytest.raises(PictureError, match="it is a device, pipe or socket"):
            read_image(tmp_path / name)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="its file cannot be read"):
        read_image("a\0b.png")


def test_too_many_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 20)
    path = tmp_path / "picture.png"
    corner().save(path)
    with path.open("rb") as file:
        for form in (path, path.read_bytes(), file):
            with pytest.raises(PictureError, match="it has more than 20 bytes"):
                open_image(form)


def test_pictures_out_of_bounds_are_refused() -> None:
    for limits, told in (
        ({"min_side": 3}, "4x2 pixels, min_side is 3"),
        ({"max_side": 3}, "4x2 pixels, max_side is 3"),
        ({"max_pixels": 7}, "4x2 pixels, max_pixels is 7; scale it down first"),
    ):
        with pytest.raises(PictureError, match=told):
            open_image(corner(), **limits)  # type: ignore[arg-type]


def test_the_first_frame_is_taken_unless_it_must_be_still() -> None:
    content = io.BytesIO()
    frames = [Image.new("L", (1, 1), level) for level in (255, 0)]
    frames[0].save(content, format="GIF", save_all=True, append_images=frames[1:])
    assert levels(content.getvalue()) == [255]
    with pytest.raises(PictureError, match="it has several frames"):
        open_image(content.getvalue(), still=True)


def test_frames_are_not_counted() -> None:
    start = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0"
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    with ruled(), pytest.raises(PictureError, match="it has several frames"):
        open_image(start + frame * 300_000 + b";", still=True)


def test_comments_without_end_are_not_joined() -> None:
    start = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0"
    with ruled(), pytest.raises(PictureError, match="it has thousands of comments"):
        open_image(start + b"\x21\xfe\1a\0" * 200_000 + b";")


def test_other_programs_are_not_started() -> None:
    with pytest.raises(PictureError, match="its format is not known"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n")


def test_a_damaged_picture_of_pil_is_refused() -> None:
    content = io.BytesIO()
    tensor_to_images(torch.rand(1, 3, 64, 64))[0].save(content, format="PNG")
    with (
        Image.open(io.BytesIO(content.getvalue()[:5000])) as image,
        pytest.raises(PictureError, match="The image cannot be read as a picture: "),
    ):
        image_to_tensor(image)


def test_the_error_can_be_sent_between_processes() -> None:
    error = pickle.loads(pickle.dumps(PictureError("a.png", "too small", "1x1 pixels")))
    assert (error.reason, error.detail) == ("too small", "1x1 pixels")
    assert str(error) == "a.png cannot be read as a picture: 1x1 pixels."


# --- Numbers, masks, and fitting -------------------------------------------------------------


def test_numbers_are_pictures() -> None:
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    numbers = np.asarray(picture)
    for same in (
        numbers,
        numbers / 255,
        torch.from_numpy(numbers.copy()).permute(2, 0, 1),
        image_to_tensor(picture)[None].half(),
    ):
        assert open_image(same).tobytes() == picture.tobytes()
    gray = np.array([[0, 128, 255]], np.uint8)
    assert levels(gray[..., None]) == levels(gray) == [0, 128, 255]
    assert levels(np.array([[False, True]])) == [0, 255]


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "P", "I;16"])
def test_masks_are_white_from_the_middle_of_gray_on(mode: str) -> None:
    gray = Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    if mode == "1":
        gray = gray.point([0] * 128 + [255] * 128)
    mask = (
        gray.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(gray) * np.uint16(257))
    )
    assert np.asarray(read_mask(mask)).tolist() == [[0, 0, 255, 255]]


def test_a_mask_with_transparent_parts_could_mean_either() -> None:
    with pytest.raises(PictureError, match=r"transparent parts.*getchannel\('A'\)"):
        read_mask(Image.new("LA", (2, 2), (255, 100)))


def test_a_picture_is_fitted_by_its_middle() -> None:
    stripes = Image.new("RGB", (40, 10), "white")
    stripes.paste("red", (10, 0, 30, 10))
    fitted = fit_image(stripes, (20, 10))
    assert fitted.size == (20, 10)
    assert np.asarray(fitted).reshape(-1, 3).tolist() == [[255, 0, 0]] * 200
    dot = Image.new("L", (100, 100))
    dot.paste(255, (41, 41, 43, 43))
    small = np.asarray(fit_image(dot, (10, 10), coverage=True))
    assert np.argwhere(small > 0).tolist() == [[4, 4]]


def test_a_digest_is_of_the_pixels() -> None:
    picture = Image.new("RGB", (2, 3), "red")
    assert picture_digest(picture) == picture_digest(picture.convert("RGBA"))
    assert picture_digest(picture) != picture_digest(picture.transpose(Image.Transpose.ROTATE_90))
    assert len(picture_digest(picture)) == 64
