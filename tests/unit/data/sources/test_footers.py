"""Parquet files whose footers lie: refused at once, in a sentence, before any row is believed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from dallemini.data import CaptionedImages, DataConfig, EncodedImages
from dallemini.data.sources import arrow
from dallemini.errors import InputError
from encoded_sets import write_set
from fuzzing import ruled
from picture_files import picture, write_parquet

ROWS = 40  # its varint in a footer is unlike that of any other number there


@pytest.fixture(params=["pictures", "paths", "tokens"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], object]]:
    """A Parquet file of one row group, and what reads all of it."""
    if request.param == "tokens":
        write_set(tmp_path, ROWS)
        return tmp_path / "tokens-00000.parquet", lambda path: list(EncodedImages.open(path))
    cell = picture(1) if request.param == "pictures" else "1.png"
    (tmp_path / "1.png").write_bytes(picture(1))
    path = write_parquet(tmp_path / "a.parquet", [{"image": cell, "caption": "a"}] * ROWS)
    return path, read


def read(path: Path) -> list[str]:
    dataset = CaptionedImages.open(path, config=DataConfig(image_size=8))
    return [record.key for shard in dataset.shards() for record in dataset.read(shard)]


def varint(number: int) -> bytes:
    """Return a whole number as the footer holds it: zigzag, seven bits a byte."""
    value, content = 2 * number, b""
    while value > 127:
        content += bytes([value & 127 | 128])
        value >>= 7
    return content + bytes([value])


def rewrite(path: Path, places: slice, number: int) -> None:
    """Put another number in some of the places where the footer holds the number of rows."""
    content = path.read_bytes()
    length = struct.unpack("<I", content[-8:-4])[0]
    start, footer = content[: -8 - length], content[-8 - length : -8]
    field = b"\x16" + varint(ROWS)  # an i64 that follows the field before it
    parts = footer.split(field)
    assert len(parts) > 2
    count = len(parts) - 1
    chosen = set(range(count)[places])
    fields = [b"\x16" + varint(number) if at in chosen else field for at in range(count)]
    joined = b"".join(part + end for part, end in zip(parts, [*fields, b""], strict=True))
    path.write_bytes(start + joined + struct.pack("<I", len(joined)) + b"PAR1")


@pytest.mark.parametrize("places", [slice(0, 1), slice(-1, None), slice(None)])
@pytest.mark.parametrize("number", [ROWS + 24, 2**40])
def test_numbers_of_rows_that_cannot_be_are_refused_at_once(
    table: tuple[Path, Callable[[Path], object]], places: slice, number: int
) -> None:
    path, load = table
    rewrite(path, places, number)
    with ruled(), pytest.raises(InputError, match=r"footer says|would unpack|cannot be read"):
        load(path)


@pytest.mark.parametrize(
    ("limit", "message"),
    [("_LARGEST_FOOTER", r"footer of \d+ bytes, but at most 3"), ("_MOST_CHUNKS", "1 row groups")],
)
def test_footers_of_more_than_any_table_are_refused(
    table: tuple[Path, Callable[[Path], object]],
    limit: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, load = table
    monkeypatch.setattr(arrow, limit, 0 if limit == "_MOST_CHUNKS" else 3)
    with pytest.raises(InputError, match=message):
        load(path)
