"""Sheets of several pictures, and files of pictures that carry texts.

PIL is imported inside the functions that need it, because importing this library must be quick.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError, InputTypeError
from .images import read_header, tensor_to_images

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor

GRID_GAP = 4
CAPTION_HEIGHT, CAPTION_SIZE = 18, 12
_MOST_TEXT = 1 << 22  # characters of a text that is read
_MOST_COMMENT = 65_000  # bytes of a JPEG's segment
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # pixels
_EXIF, _USER_COMMENT, _IN_ASCII = 0x8769, 0x9286, b"ASCII\0\0\0"

Format = Literal["PNG", "JPEG", "WEBP"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """Pictures to look at, in rows.

    Attributes:
        images: f[N,3,H,W] in [0, 1].
        columns: pictures in a row; as many as make the sheet square when None.
        captions: what is written above each row.
    """

    images: Tensor
    columns: int | None = None
    captions: Sequence[str] = ()

    def draw(self) -> PIL.Image.Image:
        """Lay the pictures out.

        Raises:
            InputError: `images` are no pictures.
        """
        pictures = tensor_to_images(self.images)
        columns = self.columns or math.ceil(len(pictures) ** 0.5)
        captions = {row * columns: caption for row, caption in enumerate(self.captions)}
        return make_grid(pictures, columns=columns, captions=captions)


def make_grid(
    images: Sequence[PIL.Image.Image], *, columns: int, captions: Mapping[int, str] | None = None
) -> PIL.Image.Image:
    """Lay pictures out on white, `columns` in a row.

    Args:
        images: the pictures, row by row.
        columns: in a row.
        captions: what is written above some of them, by their index, shortened where there is no
            room up to the next one.

    Raises:
        InputError: there is no picture, or `columns` is below 1.
        InputTypeError: `columns` is not a whole number.
    """
    from PIL import Image

    if isinstance(columns, bool) or not isinstance(columns, int):
        raise InputTypeError(f"columns must be a whole number, not {columns!r}.")
    if not images or columns < 1:
        raise InputError(f"A grid needs pictures and at least one column, not {columns}.")
    columns = min(columns, len(images))
    width = max(image.width for image in images) + GRID_GAP
    height = max(image.height for image in images) + GRID_GAP
    captions = captions or {}
    labelled = {index // columns for index in captions}
    tops, bottom = [], 0
    for row in range(math.ceil(len(images) / columns)):
        tops.append(bottom + (CAPTION_HEIGHT if row in labelled else 0))
        bottom = tops[-1] + height
    sheet = Image.new("RGB", (columns * width - GRID_GAP, bottom - GRID_GAP), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, tops[index // columns]))
    for index, caption in captions.items():
        row, column = divmod(index, columns)
        after = [n for n in captions if n > index and n // columns == row]
        room = (min(after) - index if after else columns - column) * width - GRID_GAP
        _write(sheet, (column * width, tops[row] - CAPTION_HEIGHT), caption, room)
    return sheet


def _write(sheet: PIL.Image.Image, place: tuple[int, int], text: str, room: int) -> None:
    """Write one line of text, of as many letters as there is room for."""
    from PIL import ImageDraw, ImageFont

    try:
        font = ImageFont.load_default(CAPTION_SIZE)
    except ImportError:  # Pillow was built without FreeType: its font has the letters of Latin-1
        font = ImageFont.load_default()
    shown = " ".join(text.split())[:500].encode(errors="replace").decode()
    if not isinstance(font, ImageFont.FreeTypeFont):
        shown = shown.encode("latin-1", errors="replace").decode("latin-1")
    whole = shown
    while shown and font.getlength(shown if shown == whole else shown + "...") > room:
        shown = shown[:-1]
    shown = shown if shown == whole else shown.rstrip() + "..."
    ImageDraw.Draw(sheet).text(place, shown, fill="black", font=font)


def png_bytes(image: PIL.Image.Image, *, texts: Mapping[str, str] | None = None) -> bytes:
    """Return a picture as the bytes of a PNG file that carries texts: see `read_texts`."""
    from PIL.PngImagePlugin import PngInfo

    buffer, info = io.BytesIO(), PngInfo()
    for key, value in (texts or {}).items():
        info.add_itxt(key, value)
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def image_bytes(
    image: PIL.Image.Image, kind: Format, *, texts: Mapping[str, str] | None = None
) -> bytes | None:
    """Return a picture as the bytes of a file that carries texts: see `read_texts`.

    Returns:
        None where the texts have no room: a JPEG has 64 kB.

    Raises:
        InputError: it has more pixels on one side than such a file can have.
    """
    if kind == "PNG":
        return png_bytes(image, texts=texts)
    if max(image.size) > _LONGEST_SIDE[kind]:
        raise InputError(
            f"A picture of {image.width}x{image.height} pixels is too large for a {kind} file, "
            f"whose sides have at most {_LONGEST_SIDE[kind]}; save it as PNG."
        )
    told = json.dumps(dict(texts)).encode() if texts else b""
    if kind == "JPEG" and len(told) > _MOST_COMMENT:
        return None
    buffer = io.BytesIO()
    if kind == "JPEG":
        image.save(buffer, format=kind, quality=95, comment=told)
    else:
        image.save(buffer, format=kind, quality=95, exif=_exif_of(told))
    return buffer.getvalue()


def _exif_of(comment: bytes) -> PIL.Image.Exif:
    """Return Exif with what its user said, which must be ASCII; that of JSON is."""
    from PIL import Image

    exif = Image.Exif()
    exif.get_ifd(_EXIF)[_USER_COMMENT] = _IN_ASCII + comment
    return exif


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts that a file of a picture carries: chunks of a PNG, or a comment in JSON.

    A JPEG has the comment itself, a WebP has it in its Exif.

    Raises:
        As `open_image`.
    """
    return texts_of(read_header(path).info)


def texts_of(info: Mapping[Any, Any]) -> dict[str, str]:
    """Return the texts in what PIL noted of an opened file, as `read_texts` does."""
    texts = {str(key): value for key, value in info.items() if _is_text(value)}
    for comment in (info.get("comment"), _comment_in(info.get("exif"))):
        head = comment[:_MOST_TEXT] if isinstance(comment, bytes) else b""
        with contextlib.suppress(ValueError, RecursionError):  # it is somebody else's
            found, _ = json.JSONDecoder().raw_decode(head.decode(errors="replace"))
            if isinstance(found, dict):
                texts |= {key: value for key, value in found.items() if isinstance(value, str)}
    return texts


def _is_text(value: object) -> bool:
    """Tell whether a value is a text that may be one of ours, and that can be parsed in memory."""
    return isinstance(value, str) and len(value) <= _MOST_TEXT


def _comment_in(exif: object) -> bytes:
    """Return what begins with the user's comment in Exif; nothing else there is read."""
    return exif.partition(_IN_ASCII)[2] if isinstance(exif, bytes) else b""
