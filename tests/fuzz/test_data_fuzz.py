"""Readers of data, given files that nobody meant: our own errors, little time, nothing swallowed.

A few seconds by default, always the same files. `FUZZ_EXAMPLES=20000 pytest -n 0 tests/fuzz` looks
further, at other files each time.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import json
import logging
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dallemini.data import CaptionedImage, CaptionedImages, DataConfig, EncodedImages
from dallemini.data.captions import NotTextError, read_caption_lines, read_captions
from dallemini.data.records import RawRecord
from dallemini.data.token_shards import write_shard
from dallemini.errors import DalleMiniError
from encoded_sets import note, random_rows, write_set
from picture_files import picture, write_lines, write_parquet, write_tar_files

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
_SECONDS, _BYTES = 5.0, 300 * 2**20  # of one file, on a busy machine
fuzz = settings(
    max_examples=_EXAMPLES,
    derandomize=_EXAMPLES <= 100,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
STRANGE = [b"", b"\0" * 64, b"\xff" * 8, b'"', b"\t", b"\n", b"\r", b"{" * 200, b"9" * 50, b"e999"]
STRANGE += [b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"..", b"/dev/zero", b"NaN", b"\\", b"\x7fELF"]
PNG = picture(3)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="dallemini.data")


@contextlib.contextmanager
def bounded() -> Iterator[Path]:
    """Give a folder, and fail if what is done in it takes long, much memory or a foreign error."""
    started, before = time.process_time(), _peak()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DalleMiniError):
        yield Path(folder)
    assert time.process_time() - started < _SECONDS
    assert _peak() - before < _BYTES


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(source: Path, **config: object) -> tuple[list[CaptionedImage], CaptionedImages]:
    """Read everything there is, in both ways."""
    given_config = DataConfig.from_dict({"image_size": 8, "require_captions": False, **config})
    dataset = CaptionedImages.open(source, config=given_config)
    records = [record for shard in dataset.shards(3) for record in dataset.read(shard)]
    if not dataset.is_stream:
        for index in range(len(dataset)):
            with contextlib.suppress(DalleMiniError):
                _ = dataset[index]
    return records, dataset


@st.composite
def damages(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a file with a few places changed, cut out, doubled or filled with strange bytes."""
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        end = place + draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["change", "cut", "end", "double", "strange"]))
        part = content[place:end]
        if kind == "change":
            part = draw(st.binary(min_size=len(part), max_size=len(part)))
        elif kind == "double":
            part *= draw(st.integers(2, 50))
        elif kind == "strange":
            part = draw(st.sampled_from(STRANGE))
        else:
            part = b""
        content = content[:place] + part + (b"" if kind == "end" else content[end:])
    return content


@functools.cache
def example(kind: str) -> bytes:
    """Return a small file of a kind that is as it should be."""
    rows = [
        {"image": f"{n}.png", "caption": f'row "{n}", é', "width": n, "ok": n > 2} for n in range(5)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}"
        if kind in ("csv", "tsv"):
            with path.open("w", newline="") as file:
                writer = csv.writer(file, delimiter="," if kind == "csv" else "\t")
                writer.writerows([rows[0], *(row.values() for row in rows)])
        elif kind == "jsonl":
            write_lines(path, rows)
        elif kind == "parquet":
            write_parquet(path, [{**row, "image": PNG} for row in rows], group=2)
        elif kind == "tokens":
            write_set(Path(folder), 5)
            path = Path(folder) / "tokens-00000.parquet"
        else:
            files = [(f"{n}.{end}", c) for n in range(3) for end, c in (("png", PNG), ("txt", "a"))]
            write_tar_files(path, [*files, ("2.json", '{"width": 3, "caption": ["b", "c"]}')])
        return path.read_bytes()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "tar", "tar.gz"])
@fuzz
@given(data=st.data())
def test_damaged_files_give_records_or_our_errors(kind: str, data: st.DataObject) -> None:
    inner = "tar" if kind == "tar.gz" else kind
    content = data.draw(damages(example(inner)))
    with bounded() as folder:
        for number in range(5):
            (folder / f"{number}.png").write_bytes(PNG)
        packed = gzip.compress(content) if kind == "tar.gz" else content
        (folder / f"a.{kind}").write_bytes(packed)
        read(folder / f"a.{kind}", where=data.draw(st.sampled_from([(), ("width >= 1",)])))


@fuzz
@given(data=st.data())
def test_damaged_tokens_give_pictures_or_our_errors(data: st.DataObject) -> None:
    content = data.draw(damages(example("tokens")))
    with bounded() as folder:
        (folder / "tokens-00000.parquet").write_bytes(content)
        for item in EncodedImages.open(folder):
            assert item.image_tokens.dtype.is_signed


_FOOTER = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@fuzz
@given(changes=st.dictionaries(st.sampled_from([*note(), "bad"]), _FOOTER))
def test_footers_of_tokens_give_pictures_or_our_errors(changes: dict[str, Any]) -> None:
    with bounded() as folder:
        write_shard(folder / "tokens-00000.parquet", random_rows(3), {**note(), **changes})
        list(EncodedImages.open(folder))


_LETTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
_CELLS = st.one_of(_LETTERS, st.sampled_from(['"', '""', 'a "b" c', "a\nb", "a,b", "a\tb", "\\"]))


@pytest.mark.parametrize("delimiter", [",", "\t"])
@fuzz
@given(captions=st.lists(_CELLS, min_size=1, max_size=6), place=st.integers(0, 6))
def test_a_broken_row_costs_no_other(delimiter: str, captions: list[str], place: int) -> None:
    """What `csv` writes is read as it was, whatever broken row lies between."""
    captions = [" ".join(caption.splitlines()) for caption in captions]  # or a row is ambiguous
    rows = [[f"{n}.png", f"x{caption}"] for n, caption in enumerate(captions)]
    place = min(place, len(rows))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["image", "caption"])
    writer.writerows(rows[:place])
    text.write("broken\r\n")
    writer.writerows(rows[place:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.csv" if delimiter == "," else "a.tsv")
        path.write_bytes(text.getvalue().encode())
        dataset = CaptionedImages.open(path)
        found = [dataset.raw(number) for number in range(len(dataset))]
        texts = [raw.captions[0] for raw in found if isinstance(raw, RawRecord)]
        assert texts == [caption.strip() for _, caption in rows]
        assert dataset.bad == {"broken metadata": 1}


@fuzz
@given(rows=st.lists(_FOOTER, max_size=6))
def test_any_json_is_a_line_of_a_list(rows: list[Any]) -> None:
    with bounded() as folder:
        (folder / "0.png").write_bytes(PNG)
        good = {"image": "0.png", "caption": "a"}
        records, _ = read(
            write_lines(folder / "a.jsonl", [good, *rows, {**good, "image": rows}, good])
        )
        assert len(records) >= 2


_NAME = st.lists(st.sampled_from(["a", "b", ".", "..", "/", "1", "left", "é"]), max_size=5)
_ENDING = st.sampled_from(["png", "PNG", "jpg", "txt", "TXT", "json", "caption", "png.txt", "cls"])
_FILES = st.lists(st.tuples(_NAME.map("".join), _ENDING), max_size=12, unique=True)


def is_seen(name: str) -> bool:
    """Tell whether a file is a picture that must be a record or be named."""
    base = name.rpartition("/")[2]
    return not base.startswith(".") and base.lower().endswith((".png", ".jpg"))


def content_of(name: str) -> bytes:
    return PNG if is_seen(name) else b'{"caption": "b"}' if name.endswith("json") else b"a"


@fuzz
@given(files=_FILES, required=st.booleans())
def test_no_picture_of_a_tar_vanishes(files: Sequence[tuple[str, str]], required: bool) -> None:
    names = [f"{name}.{ending}" for name, ending in files]
    with tempfile.TemporaryDirectory() as folder:
        path = write_tar_files(Path(folder) / "a.tar", [(name, content_of(name)) for name in names])
        records, dataset = read(path, require_captions=required)
        assert "broken shard" not in dataset.bad
        wanted = sum(map(is_seen, names))
        assert len(records) <= wanted <= len(records) + sum(dataset.bad.values())
        assert len({record.key for record in records}) == len(records)
        if not required:
            assert len(records) + dataset.bad.get("second image", 0) == wanted


@fuzz
@given(files=_FILES)
def test_no_picture_of_a_folder_vanishes(files: Sequence[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = {f"{name.replace('/', '-')}.{ending}" for name, ending in files}
        for name in names:
            (folder / name).write_bytes(content_of(name))
        with contextlib.suppress(DalleMiniError):
            records, dataset = read(folder)
            assert sorted(record.key for record in records) == sorted(filter(is_seen, names))
            assert dataset.bad == {}


@fuzz
@given(content=st.binary(max_size=200), value=_FOOTER)
def test_captions_are_texts_without_blanks_around(content: bytes, value: object) -> None:
    found: tuple[str, ...] = ()
    with contextlib.suppress(NotTextError):
        found += read_caption_lines(content)
    with contextlib.suppress(NotTextError):
        found += read_captions(value)
    assert all(caption and caption == caption.strip() for caption in found)


@fuzz
@given(content=damages(json.dumps({"caption": "a", "width": 3}).encode()), image=damages(PNG))
def test_damaged_sidecars_and_pictures_give_records_or_bad_ones(
    content: bytes, image: bytes
) -> None:
    with bounded() as folder:
        for name, data in (
            ("0.png", image),
            ("0.json", content),
            ("1.png", PNG),
            ("1.txt", content),
        ):
            (folder / name).write_bytes(data)
        records, dataset = read(folder)
        assert len(records) + sum(dataset.bad.values()) == 2
