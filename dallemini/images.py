"""Pictures and tensors: opening a picture, turning one into the other.

Every picture from outside comes through `open_image`: upright, in RGB, on white, from formats that
are made of pixels (PIL would start other programs for PostScript, for example). Knows pixels, not
models. PIL is imported inside the functions that need it, because importing this library must be
quick.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import InputError, InputTypeError, MissingFileError
from .files import as_path
from .foreign import HEAD, other_content
from .gray import GrayError, scale_gray, tiles

if TYPE_CHECKING:
    import PIL.Image

MAX_PIXELS = 89_478_485  # Pillow's own limit
MAX_BYTES = 1 << 29

Reason = Literal[
    "no image", "not an image", "broken image", "animated", "transparent", "too small", "too large"
]
Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | BinaryIO | PIL.Image.Image | NDArray[Any] | Tensor"
)

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_ORIENTATION = 0x0112
_COMMENT = b"\x21\xfe"  # begins one in a GIF; in other data, two bytes in 65,536 are these


class PictureError(InputError):
    """A picture cannot be used.

    Args:
        name: of the picture.
        reason: of what kind the problem is.
        detail: what it is.
    """

    def __init__(self, name: str, reason: Reason, detail: str) -> None:
        super().__init__(name, reason, detail)
        self.reason: Reason = reason
        self.detail: str = detail

    def __str__(self) -> str:
        return f"{self.args[0]} cannot be read as a picture: {self.detail}."


def tensor_to_images(pixels: Tensor) -> list[PIL.Image.Image]:
    """Turn f[N,3,H,W] in [0, 1] into RGB pictures, rounding down as the original does.

    Raises:
        InputError: wrong shape, or values that are not numbers.
    """
    from PIL import Image

    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise InputError(f"Pixels must have shape [N, 3, H, W], not {list(pixels.shape)}.")
    if not bool(pixels.isfinite().all()):
        raise InputError(
            "The decoded pixels are not finite numbers: the VQGAN's weights are broken, or too "
            "large for its dtype. Load it with dtype=torch.float32."
        )
    levels = pixels.detach().float().clamp(0, 1).mul_(255).to(torch.uint8)
    array = levels.permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]


def read_image(image: Picture) -> Tensor:
    """Open a picture as `open_image` does and turn it into f32[3,H,W] in [0, 1].

    Raises:
        As `open_image`.
    """
    return image_to_tensor(open_image(image))


def open_image(
    image: Picture,
    *,
    min_side: int = 1,
    max_side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    still: bool = False,
    opaque: bool = False,
    draft_side: int | None = None,
    keep_alpha: bool = False,
) -> PIL.Image.Image:
    """Open a picture as RGB: upright as its camera was held, on white where it is transparent.

    Palettes, CMYK, LAB, gray and single bits are converted. Gray of more than 8 bits is scaled by
    its range: that of a file which says how many bits it has (10, 12, 14), else the first of 255,
    4095, 65535 and the type's largest value that none of its numbers exceeds, because cameras and
    microscopes store 8 or 12 bits in files of 16 or 32. Fractions are taken as they are if all lie
    in [0, 1], and like whole numbers elsewhere.

    Args:
        image: a regular file of at most 512 MiB, its content, an open binary file, a picture of
            PIL, which is not changed, or numbers: an array [H,W], [H,W,1], [H,W,3] or [H,W,4], or a
            tensor [H,W], [C,H,W] or [1,C,H,W], of booleans, uint8, or floats in [0, 1].
        min_side: a picture with a shorter side is refused.
        max_side: a picture with a longer side is refused.
        max_pixels: a picture with more pixels is refused, before it is decoded.
        still: refuse a picture that moves, instead of taking its first frame.
        opaque: refuse a picture with transparent parts, instead of putting it on white.
        draft_side: a JPEG much larger than this is decoded at a fraction of its size.
        keep_alpha: a picture with transparency becomes RGBA, not RGB on white.

    Raises:
        MissingFileError: there is no such file.
        PictureError: an InputError: it is no picture of a known format, damaged, out of bounds, or
            holds numbers whose range cannot be guessed.
        InputTypeError: `image` is not one of these.
    """
    from PIL import Image

    name = _name(image)
    if isinstance(image, np.ndarray | Tensor):
        picture = Image.fromarray(_levels(image, name))
    else:
        picture = image if isinstance(image, Image.Image) else _parse(_read(image, name), name)
    _check_size(picture.size, name, min_side, max_side, max_pixels)
    _check_frames(picture, name, still)
    with _decoding(name):
        if draft_side is not None:
            picture.draft(None, (draft_side, draft_side))
        picture.load()
        if opaque and _is_transparent(picture):
            raise PictureError(name, "transparent", "it has transparent parts")
        return _to_rgb(_upright(picture), name, keep_alpha)


def read_header(path: str | os.PathLike[str]) -> PIL.Image.Image:
    """Open the file of a picture without decoding it, for what it says of itself.

    Raises:
        As `open_image`.
    """
    name = _name(path)
    return _parse(_read(path, name), name)


def open_picture_file(
    picture: str | os.PathLike[str] | bytes,
) -> tuple[bytes, PIL.Image.Image]:
    """Return the content of a file and what PIL read of it, unchanged and with its notes.

    Raises:
        As `open_image`.
    """
    name = _name(picture)
    content = _read(picture, name)
    image = _parse(content, name)
    _check_size(image.size, name, 1, None, MAX_PIXELS)
    with _decoding(name):
        image.load()
    return content, image


def image_to_tensor(image: PIL.Image.Image) -> Tensor:
    """Turn a picture of any mode into f32[3,H,W] in [0, 1], as `open_image` does.

    Raises:
        PictureError: an InputError: it is damaged, or holds numbers whose range cannot be guessed.

    Example:
        >>> from PIL import Image
        >>> from dallemini.images import image_to_tensor
        >>> image_to_tensor(Image.new("L", (2, 1), 255)).shape
        torch.Size([3, 1, 2])
    """
    rgb = open_image(image)
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    levels = flat.view(rgb.height, rgb.width, 3).permute(2, 0, 1)
    return levels.to(torch.float32).div_(255)


def fit_image(
    image: PIL.Image.Image, size: tuple[int, int], *, coverage: bool = False
) -> PIL.Image.Image:
    """Scale a picture until it covers a size, and cut off evenly what is over.

    Args:
        image: of any size, upright.
        size: width and height.
        coverage: let each pixel be the mean of those that it covers, instead of filtering sharply.
    """
    from PIL import Image

    if image.size == size:
        return image.copy()
    scale = max(size[0] / image.width, size[1] / image.height)
    width, height = size[0] / scale, size[1] / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    box = (
        max(left, 0),
        max(top, 0),
        min(left + width, image.width),
        min(top + height, image.height),
    )
    resample = Image.Resampling.BOX if coverage else Image.Resampling.LANCZOS
    return image.resize(size, resample, box=box)


def read_mask(mask: Picture) -> PIL.Image.Image:
    """Open a mask: "L", 255 where it is white (from the middle of gray on, 128), 0 elsewhere.

    Raises:
        As `open_image`; PictureError, an InputError, also for a mask with transparent parts, which
        could mean either.
    """
    try:
        opened = open_image(mask, opaque=True)
    except PictureError as error:
        if error.reason != "transparent":
            raise
        raise PictureError(
            "The mask",
            "transparent",
            "it has transparent parts, which could be meant as black or as white; give "
            "mask.getchannel('A') to redraw where it is opaque, ImageOps.invert(...) of that for "
            "where it is clear",
        ) from error
    return opened.convert("L").point([0] * 128 + [255] * 128)


def picture_digest(image: PIL.Image.Image) -> str:
    """Return the SHA-256 of a picture's size and its RGB bytes, in hexadecimal."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def _levels(image: NDArray[Any] | Tensor, name: str) -> NDArray[np.uint8]:
    """Turn numbers into u8[H,W], [H,W,3] or [H,W,4]."""
    values: NDArray[Any]
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
        tensor = tensor.permute(1, 2, 0) if tensor.ndim == 3 else tensor
        values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        shape = "[C,H,W]"
    else:
        values, shape = image, "[H,W,C]"
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        detail = f"its shape is {list(image.shape)} instead of [H,W] or {shape} with C 1, 3 or 4"
        raise PictureError(name, "broken image", detail)
    if not values.size:
        raise PictureError(name, "no image", "it has no pixels")
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):
            detail = f"its floats go from {values.min():g} to {values.max():g} instead of 0 to 1"
            raise PictureError(name, "broken image", detail)
        values = np.rint(values.astype(np.float64) * 255)
    elif values.dtype == np.bool_:
        values = values * 255
    elif values.dtype != np.uint8:
        raise InputTypeError(
            f"A picture's numbers are booleans, uint8, or floats in [0, 1], not {values.dtype}."
        )
    levels: NDArray[np.uint8] = np.ascontiguousarray(values.astype(np.uint8))
    return levels


def _name(image: object) -> str:
    if isinstance(image, str | os.PathLike):
        return str(as_path(image))
    return str(getattr(image, "filename", None) or getattr(image, "name", None) or "The image")


def _read(image: str | os.PathLike[str] | bytes | BinaryIO, name: str) -> bytes:
    """Return the content of a picture, of a regular file if it is a name."""
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
    elif isinstance(image, str | os.PathLike):
        content = _read_file(as_path(image), name)
    elif hasattr(image, "read"):
        content = image.read(MAX_BYTES + 1)
    else:
        raise InputTypeError(
            "A picture is given by its path, its bytes, an open file, a PIL.Image, an array or a "
            f"tensor, not {type(image).__name__}."
        )
    if not isinstance(content, bytes):
        raise InputTypeError(f"{name} must be opened in binary mode, as open(..., 'rb') does.")
    if not content:
        raise PictureError(name, "no image", "it has no bytes")
    if len(content) > MAX_BYTES:
        raise PictureError(name, "too large", f"it has more than {MAX_BYTES} bytes")
    return content


def _read_file(path: Path, name: str) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would wait, a device would never end
            kind = "a folder" if stat.S_ISDIR(about.st_mode) else "a device, pipe or socket"
            raise PictureError(name, "no image", f"its file cannot be read: it is {kind}")
        if about.st_size > MAX_BYTES:
            raise PictureError(name, "too large", f"it has more than {MAX_BYTES} bytes")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        remote = name.startswith(("http:", "https:"))
        advice = "Download it first" if remote else "Check the path"
        raise MissingFileError(f"There is no file {name}. {advice}.") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, PictureError):
            raise
        raise PictureError(name, "no image", f"its file cannot be read: {error}") from error


def _parse(content: bytes, name: str) -> PIL.Image.Image:
    """Read the header."""
    from PIL import Image, UnidentifiedImageError

    if content.startswith(b"GIF8") and content.count(_COMMENT) > 2000 + len(content) // 30_000:
        raise PictureError(name, "broken image", "it has thousands of comments")  # PIL joins them
    Image.init()
    formats = [known for known in _FORMATS if known in Image.OPEN]
    try:
        return Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        problem = None if b"<svg" in content[:HEAD] else other_content(content[:HEAD])
        detail = f"it {problem}" if problem else f"its format is not known ({len(content)} bytes)"
        raise PictureError(name, "not an image", detail.rstrip(".")) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        detail = str(error).rstrip(".")
        raise PictureError(name, "too large", f"PIL does not open it: {detail}") from error
    except Exception as error:  # whatever else a broken file makes PIL raise
        raise PictureError(name, "not an image", _say(error)) from error


@contextlib.contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Refuse a picture whose decoding fails: decoders raise anything at all on broken files."""
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(name, "broken image", _say(error)) from error


def _say(error: Exception) -> str:
    return f"decoding fails: {str(error).rstrip('.') or type(error).__name__}"


def _check_size(
    size: tuple[int, int], name: str, min_side: int, max_side: int | None, max_pixels: int
) -> None:
    shown = f"{size[0]}x{size[1]} pixels"
    if min(size) < min_side:
        raise PictureError(name, "too small", f"{shown}, min_side is {min_side}")
    if max_side is not None and max(size) > max_side:
        raise PictureError(name, "too large", f"{shown}, max_side is {max_side}")
    if size[0] * size[1] > max_pixels:
        raise PictureError(
            name, "too large", f"{shown}, max_pixels is {max_pixels}; scale it down first"
        )


def _check_frames(picture: PIL.Image.Image, name: str, still: bool) -> None:
    # counting them would take minutes where a small file has a million; MPO: a camera's previews
    if still and picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise PictureError(name, "animated", "it has several frames")


def _is_transparent(picture: PIL.Image.Image) -> bool:
    alpha = next((band for band in picture.getbands() if band in ("A", "a")), None)
    if alpha is None:
        if "transparency" not in picture.info:
            return False
        picture, alpha = picture.convert("RGBA"), "A"
    lowest: Any = picture.getchannel(alpha).getextrema()[0]
    return bool(lowest < 255)


def _upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Turn a photograph as its camera was held; a broken note of that is no reason to lose it."""
    from PIL import ImageOps

    with contextlib.suppress(Exception):  # whatever a broken note makes PIL raise
        if picture.getexif().get(_ORIENTATION, 1) != 1:
            return ImageOps.exif_transpose(picture)
    return picture


def _to_rgb(picture: PIL.Image.Image, name: str, keep_alpha: bool) -> PIL.Image.Image:
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        try:
            return Image.fromarray(scale_gray(picture)).convert("RGB")
        except GrayError as error:
            raise PictureError(name, "broken image", str(error)) from error
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert("RGBA" if picture.mode == "RGBa" else "LA")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        if keep_alpha:
            return rgba
        return _on_white(rgba)
    return picture.convert("RGB")


def _on_white(rgba: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image

    whole = Image.new("RGB", rgba.size)
    for box in tiles(rgba):
        tile = rgba.crop(box)
        white = Image.new("RGBA", tile.size, "white")
        whole.paste(Image.alpha_composite(white, tile).convert("RGB"), box)
    return whole
