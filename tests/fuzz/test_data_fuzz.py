"""Readers of data, given files that nobody meant: see tests/fuzzing.py for the rule.

What can be read is not swallowed, besides.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dallemini.data import CaptionedImage, CaptionedImages, DataConfig, EncodedImages
from dallemini.data.captions import NotTextError, read_caption_lines, read_captions
from dallemini.data.records import RawRecord
from dallemini.data.token_shards import write_shard
from dallemini.errors import DalleMiniError
from encoded_sets import note, random_rows, write_set
from fuzzing import Search, edit_file, edit_tree, file_edits, json_text, tree_edits, values
from picture_files import picture, write_lines, write_parquet, write_tar_files

PNG = picture(3)
Fresh = Callable[[], Path]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="dallemini.data")


@pytest.fixture
def fresh(tmp_path: Path) -> Fresh:
    """Return an empty folder, which is made so at each call."""
    folder = tmp_path / "data"

    def make() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    return make


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


def damages(name: str, content: bytes) -> st.SearchStrategy[bytes]:
    """Return a file with a few places changed."""
    return file_edits(name).map(lambda edit: edit_file(name, content, edit))


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
def test_damaged_files_give_records_or_our_errors(kind: str, search: Search, fresh: Fresh) -> None:
    def check(drawn: tuple[bytes, tuple[str, ...]]) -> None:
        content, where = drawn
        folder = fresh()
        for number in range(5):
            (folder / f"{number}.png").write_bytes(PNG)
        (folder / f"a.{kind}").write_bytes(content)
        read(folder / f"a.{kind}", where=where)

    search(
        check,
        st.tuples(damages(f"a.{kind}", example(kind)), st.sampled_from([(), ("width >= 1",)])),
    )


def test_damaged_tokens_give_pictures_or_our_errors(search: Search, fresh: Fresh) -> None:
    def check(content: bytes) -> None:
        folder = fresh()
        (folder / "tokens-00000.parquet").write_bytes(content)
        for item in EncodedImages.open(folder):
            assert item.image_tokens.dtype.is_signed

    search(check, damages("a.parquet", example("tokens")))


def test_footers_of_tokens_give_pictures_or_our_errors(search: Search, fresh: Fresh) -> None:
    def check(edits: Any) -> None:
        folder = fresh()
        write_shard(folder / "tokens-00000.parquet", random_rows(3), edit_tree(note(), edits))
        list(EncodedImages.open(folder))

    search(check, tree_edits)


_LETTERS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
_CELLS = st.one_of(_LETTERS, st.sampled_from(['"', '""', 'a "b" c', "a\nb", "a,b", "a\tb", "\\"]))


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_broken_row_costs_no_other(delimiter: str, search: Search, fresh: Fresh) -> None:
    """What `csv` writes is read as it was, whatever broken row lies between."""
    search(
        lambda drawn: check_rows(drawn[0], drawn[1], delimiter, fresh()),
        st.tuples(st.lists(_CELLS, min_size=1, max_size=6), st.integers(0, 6)),
    )


def check_rows(captions: list[str], place: int, delimiter: str, folder: Path) -> None:
    captions = [" ".join(caption.splitlines()) for caption in captions]  # or a row is ambiguous
    rows = [[f"{n}.png", f"x{caption}"] for n, caption in enumerate(captions)]
    place = min(place, len(rows))
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["image", "caption"])
    writer.writerows(rows[:place])
    text.write("broken\r\n")
    writer.writerows(rows[place:])
    path = folder / ("a.csv" if delimiter == "," else "a.tsv")
    path.write_bytes(text.getvalue().encode())
    dataset = CaptionedImages.open(path)
    found = [dataset.raw(number) for number in range(len(dataset))]
    texts = [raw.captions[0] for raw in found if isinstance(raw, RawRecord)]
    assert texts == [caption.strip() for _, caption in rows]
    assert dataset.bad == {"broken metadata": 1}


def test_any_json_is_a_line_of_a_list(search: Search, fresh: Fresh) -> None:
    def check(rows: list[Any]) -> None:
        folder = fresh()
        (folder / "0.png").write_bytes(PNG)
        good = {"image": "0.png", "caption": "a"}
        lines = map(json_text, [good, *rows, {**good, "image": rows}, good])
        records, _ = read(write_lines(folder / "a.jsonl", [*lines]))
        assert len(records) >= 2

    search(check, st.lists(values, max_size=6))


_NAME = st.lists(st.sampled_from(["a", "b", ".", "..", "/", "1", "left", "é"]), max_size=5)
_ENDING = st.sampled_from(["png", "PNG", "jpg", "txt", "TXT", "json", "caption", "png.txt", "cls"])
_FILES = st.lists(st.tuples(_NAME.map("".join), _ENDING), max_size=12, unique=True)


def is_seen(name: str) -> bool:
    """Tell whether a file is a picture that must be a record or be named."""
    base = name.rpartition("/")[2]
    return not base.startswith(".") and base.lower().endswith((".png", ".jpg"))


def content_of(name: str) -> bytes:
    return PNG if is_seen(name) else b'{"caption": "b"}' if name.endswith("json") else b"a"


def test_no_picture_of_a_tar_vanishes(search: Search, fresh: Fresh) -> None:
    def check(drawn: tuple[Sequence[tuple[str, str]], bool]) -> None:
        files, required = drawn
        names = [f"{name}.{ending}" for name, ending in files]
        path = write_tar_files(fresh() / "a.tar", [(name, content_of(name)) for name in names])
        records, dataset = read(path, require_captions=required)
        assert "broken shard" not in dataset.bad
        wanted = sum(map(is_seen, names))
        assert len(records) <= wanted <= len(records) + sum(dataset.bad.values())
        assert len({record.key for record in records}) == len(records)
        if not required:
            assert len(records) + dataset.bad.get("second image", 0) == wanted

    search(check, st.tuples(_FILES, st.booleans()))


def test_no_picture_of_a_folder_vanishes(search: Search, fresh: Fresh) -> None:
    def check(files: Sequence[tuple[str, str]]) -> None:
        folder = fresh()
        names = {f"{name.replace('/', '-')}.{ending}" for name, ending in files}
        for name in names:
            (folder / name).write_bytes(content_of(name))
        records, dataset = read(folder)
        assert sorted(record.key for record in records) == sorted(filter(is_seen, names))
        assert dataset.bad == {}

    search(check, _FILES)


def test_captions_are_texts_without_blanks_around(search: Search) -> None:
    def check(drawn: tuple[bytes, object]) -> None:
        content, value = drawn
        found: tuple[str, ...] = ()
        with contextlib.suppress(NotTextError):
            found += read_caption_lines(content)
        with contextlib.suppress(NotTextError):
            found += read_captions(value)
        assert all(caption and caption == caption.strip() for caption in found)

    search(check, st.tuples(st.binary(max_size=200), values))


def test_damaged_sidecars_and_pictures_give_records_or_bad_ones(
    search: Search, fresh: Fresh
) -> None:
    def check(drawn: tuple[bytes, bytes]) -> None:
        content, image = drawn
        folder = fresh()
        for name, data in (
            ("0.png", image),
            ("0.json", content),
            ("1.png", PNG),
            ("1.txt", content),
        ):
            (folder / name).write_bytes(data)
        records, dataset = read(folder)
        assert len(records) + sum(dataset.bad.values()) == 2

    sidecar = json.dumps({"caption": "a", "width": 3}).encode()
    search(check, st.tuples(damages("a.json", sidecar), damages("a.png", PNG)))
