"""Folders, lists and tables: what becomes of their columns, filters and troubles."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from dallemini.data import BadRecord, BadRecordError, CaptionedImages, DataConfig
from dallemini.data.sources import arrow
from dallemini.data.sources.arrow import open_table
from dallemini.data.sources.table import Table
from dallemini.errors import InputError
from picture_files import number_of, picture, write_folder, write_lines, write_parquet

Opener = Callable[..., CaptionedImages]
KINDS = ("jsonl", "parquet", "bytes", "struct", "csv", "tsv")
READERS = ("jsonl", "bytes", "csv")  # one of each that reads in another way


def rows(count: int = 6, **changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "image": f"pictures/{n:03}.png",
            "caption": f"picture {n}",
            "width": 100 * n,
            "lang": "en" if n % 2 else "de",
            "clip_score": n / 10,
            **changes,
        }
        for n in range(count)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Write the same rows in one of `KINDS`."""
    write_folder(tmp_path / "pictures", 12)

    def write_kind(kind: str, rows: list[dict[str, Any]]) -> Path:
        if kind == "jsonl":
            return write_lines(tmp_path / "list.jsonl", rows)
        if kind in ("csv", "tsv"):
            path, sign = tmp_path / f"list.{kind}", "," if kind == "csv" else "\t"
            lines = [sign.join(rows[0]), *(sign.join(map(str, row.values())) for row in rows)]
            path.write_text("\n".join(lines) + "\n")
            return path
        if kind != "parquet":
            contents = [(tmp_path / row["image"]).read_bytes() for row in rows]
            images = [
                content if kind == "bytes" else {"bytes": content, "path": row["image"]}
                for content, row in zip(contents, rows, strict=True)
            ]
            rows = [{**row, "image": image} for row, image in zip(rows, images, strict=True)]
        return write_parquet(tmp_path / "list.parquet", rows, group=4)

    return write_kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_records(write: Callable[..., Path], kind: str) -> None:
    dataset = CaptionedImages.open(write(kind, rows(10)), config=DataConfig(image_size=8))
    assert (len(dataset), dataset.is_stream) == (10, False)
    for n in (0, 9, 3, 4, -1):
        record = dataset[n]
        assert number_of(record.image[:, 0, 0].tolist()) == n % 10
        assert record.captions == (f"picture {n % 10}",)
        assert record.columns["width"] == 100 * (n % 10)
        assert set(record.columns) == {"width", "lang", "clip_score"}


@pytest.mark.parametrize("kind", KINDS)
def test_filters_choose_by_every_column(write: Callable[..., Path], kind: str) -> None:
    config = DataConfig(image_size=8, where=("width >= 200", "lang == en"), min_clip_score=0.4)
    dataset = CaptionedImages.open(write(kind, rows(10)), config=config)
    assert [dataset[n].captions[0] for n in range(len(dataset))] == [
        "picture 5",
        "picture 7",
        "picture 9",
    ]


@pytest.mark.parametrize("kind", READERS)
def test_a_filter_that_none_passes_is_named(write: Callable[..., Path], kind: str) -> None:
    with pytest.raises(InputError, match=r"None of the 6 records of .* passes 'width >= 1000'"):
        CaptionedImages.open(write(kind, rows()), config=DataConfig(where=("width >= 1000",)))


@pytest.mark.parametrize("kind", READERS)
def test_a_filter_on_a_missing_column_is_named(write: Callable[..., Path], kind: str) -> None:
    with pytest.raises(InputError, match=r"needs the column 'widht'.*Did you mean 'width'"):
        CaptionedImages.open(write(kind, rows()), config=DataConfig(where=("widht >= 1",)))


@pytest.mark.parametrize("kind", READERS)
def test_missing_columns_are_named(write: Callable[..., Path], kind: str) -> None:
    path = write(kind, rows())
    with pytest.raises(
        InputError, match=r"no column 'alt' with captions.*'image', 'caption', 'width'"
    ):
        CaptionedImages.open(path, config=DataConfig(caption_column="alt"))
    with pytest.raises(InputError, match=r"no column 'photo' with pictures.*Set DataConfig"):
        CaptionedImages.open(path, config=DataConfig(image_column="photo"))


def test_a_usual_name_that_is_given_is_meant(write: Callable[..., Path]) -> None:
    path = write("jsonl", [{"file_name": row["image"], "text": row["caption"]} for row in rows()])
    assert CaptionedImages.open(path)[0].captions
    for config, message in (
        (DataConfig(caption_column="caption"), "no column 'caption' with captions"),
        (DataConfig(image_column="image"), "no column 'image' with pictures"),
    ):
        with pytest.raises(InputError, match=message):
            CaptionedImages.open(path, config=config)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_without_a_caption_column_pictures_alone_will_do(
    write: Callable[..., Path], kind: str
) -> None:
    without = [{"image": row["image"], "width": row["width"]} for row in rows()]
    path = write(kind, without)
    with pytest.raises(InputError, match="require_captions=False"):
        CaptionedImages.open(path)
    config = DataConfig(image_size=8, require_captions=False)
    assert CaptionedImages.open(path, config=config)[0].captions == ()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": None}, "no caption"),
        ({"caption": " "}, "no caption"),
        ({"image": None}, "no image"),
        ({"image": "none.png"}, "no image"),
        ({"image": "https://example.com/a.png"}, "no image, it is an address"),
    ],
)
def test_bad_rows_are_bad_records(
    write: Callable[..., Path], kind: str, changes: dict[str, Any], reason: str
) -> None:
    dataset = CaptionedImages.open(write(kind, [*rows(2), {**rows(1)[0], **changes}]))
    with pytest.raises(BadRecordError, match=reason):
        dataset[2]
    assert dataset[1].captions == ("picture 1",)


def test_captions_of_another_kind_are_bad_records(write: Callable[..., Path]) -> None:
    dataset = CaptionedImages.open(write("jsonl", [*rows(1), *rows(1, caption={"en": "a"})]))
    with pytest.raises(BadRecordError, match="caption is not text, it is dict"):
        dataset[1]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '"text"', "{} {}"])
def test_broken_lines_are_bad_records(write: Callable[..., Path], line: str) -> None:
    path = write("jsonl", rows(2))
    path.write_text(path.read_text() + line + "\n\n")
    for config in (DataConfig(), DataConfig(where=("width >= 0",))):
        dataset = CaptionedImages.open(path, config=config)
        assert len(dataset) == 3
        with pytest.raises(BadRecordError, match=r"list\.jsonl:\d+ is bad: broken metadata"):
            dataset[2]


def test_a_list_without_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no JSON objects"):
        CaptionedImages.open(write_lines(tmp_path / "a.jsonl", ["3"]))
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no records"):
        CaptionedImages.open(tmp_path / "b.jsonl")


def test_a_number_is_a_caption_in_csv(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "metadata.csv").write_text('file_name,text\n000.png,7\n001.png,"a, b\nc"\n')
    dataset = CaptionedImages.open(tmp_path)
    assert [dataset[n].captions[0] for n in range(2)] == ["7", "a, b\nc"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_list_holds_several_captions(write: Callable[..., Path], kind: str) -> None:
    dataset = CaptionedImages.open(write(kind, rows(1, caption=["a cat", "", "a grey cat"])))
    assert dataset[0].captions == ("a cat", "a grey cat")


@pytest.mark.parametrize(
    ("image", "caption"),
    [("file_name", "text"), ("file", "captions"), ("jpg", "caption"), ("path", "TEXT")],
)
def test_usual_names_of_columns_are_found(tmp_path: Path, image: str, caption: str) -> None:
    write_folder(tmp_path / "pictures")
    renamed = [{image: row["image"], caption: row["caption"]} for row in rows(2)]
    assert CaptionedImages.open(write_lines(tmp_path / "a.jsonl", renamed))[1].captions


def test_the_columns_asked_for_come_first(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures")
    path = write_lines(tmp_path / "a.jsonl", rows(1, title="the title"))
    config = DataConfig(caption_column="title")
    record = CaptionedImages.open(path, config=config)[0]
    assert record.captions == ("the title",)
    assert record.columns["caption"] == "picture 0"


def test_img2datasets_parquet_files_are_read(tmp_path: Path) -> None:
    found = [
        {"jpg": picture(n), "caption": f"picture {n}", "key": f"{n:09}", "status": "success"}
        for n in range(3)
    ]
    dataset = CaptionedImages.open(write_parquet(tmp_path / "00000.parquet", found))
    assert (dataset[1].key, dataset[1].captions) == ("000000001", ("picture 1",))


def test_img2datasets_files_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "00000", 3)
    for n in range(3):
        about = {"caption": f"caption {n}", "width": 100 * n, "exif": {}}
        (tmp_path / "00000" / f"{n:03}.json").write_text(json.dumps(about))
    dataset = CaptionedImages.open(tmp_path, config=DataConfig(where=("width >= 100",)))
    record = dataset[0]
    assert (len(dataset), record.key, record.captions) == (2, "00000/001.png", ("caption 1",))
    assert record.columns == {"width": 100}
    with pytest.raises(InputError, match="the column 'height'"):
        CaptionedImages.open(tmp_path, config=DataConfig(where=("height >= 1",)))


def test_text_files_beside_pictures_are_captions(tmp_path: Path) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / "001.txt").write_text("a cat\na grey cat\n")
    (tmp_path / ".hidden.png").write_bytes(picture(0))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.JPG").write_bytes(picture(2))
    dataset = CaptionedImages.open(tmp_path)
    assert [dataset.raw(n).key for n in range(len(dataset))] == ["000.png", "001.png", "sub/a.JPG"]
    assert dataset[1].captions == ("a cat", "a grey cat")
    with pytest.raises(BadRecordError, match=r"sub/a\.JPG is bad: no caption"):
        dataset[2]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("000.txt", b"caf\xe9", "caption is not text"),
        ("000.txt", b"\n", "no caption"),
        ("000.json", b"{", "broken metadata"),
        ("000.json", b"[]", "broken metadata"),
    ],
)
def test_broken_text_files_are_bad_records(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    write_folder(tmp_path, 2)
    (tmp_path / name).write_bytes(content)
    dataset = CaptionedImages.open(tmp_path)
    with pytest.raises(BadRecordError, match=reason):
        dataset[0]
    assert dataset[1].captions == ("picture 1",)


def test_a_folder_without_captions_says_how_to_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(3))
    with pytest.raises(
        InputError, match=r"None of the 1 pictures.*has a caption: write it to"
    ) as e:
        CaptionedImages.open(tmp_path)
    assert "--data.require-captions False" in str(e.value)
    dataset = CaptionedImages.open(tmp_path, config=DataConfig(require_captions=False))
    assert dataset[0].captions == ()


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("CAT.JPG", "CAT.TXT"),
        ("cat.jfif", "cat.caption"),
        ("cat.Jpe", "cat.Jpe.txt"),
        ("a.b.png", "a.b.Txt"),
        ("cat.png", "cat.png.json"),
        ("caf\u00e9.png", "cafe\u0301.txt"),
        ("cafe\u0301.png", "caf\u00e9.png.caption"),
        ("no ending.png", "no ending.JSON"),
    ],
)
def test_sidecars_are_found_as_people_name_them(tmp_path: Path, image: str, text: str) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / image).write_bytes(picture(3))
        caption = '{"caption": "a cat"}' if text.lower().endswith("json") else "a cat"
        (folder / text).write_text(caption)
    dataset = CaptionedImages.open(tmp_path, config=DataConfig(image_size=8))
    assert [dataset[number].key for number in range(2)] == [image, f"sub/{image}"]
    assert {dataset[number].captions for number in range(2)} == {("a cat",)}


def test_the_most_exact_sidecar_is_taken(tmp_path: Path) -> None:
    for name in ("cat.png", "cat.jpg", "dog.png"):
        (tmp_path / name).write_bytes(picture(3))
    for name in ("cat.txt", "cat.jpg.txt", "cat.caption", "dog.txt", "dog.json"):
        (tmp_path / name).write_text('{"caption": " ", "n": 3}' if "json" in name else name)
    dataset = CaptionedImages.open(tmp_path, config=DataConfig(image_size=8))
    captions = {dataset[n].key: dataset[n].captions for n in range(3)}
    assert captions == {
        "cat.png": ("cat.txt",),
        "cat.jpg": ("cat.jpg.txt",),
        "dog.png": ("dog.txt",),
    }
    assert dataset[2].columns["n"] == 3


def test_pictures_of_other_kinds_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.svg", "b.HEIC"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"no pictures but those .* \(1 \.svg, 1 \.heic\); convert"
    ):
        CaptionedImages.open(tmp_path)
    write_parquet(tmp_path / "data" / "0.parquet", [{"image": picture(1), "caption": "a"}])
    assert len(CaptionedImages.open(tmp_path)) == 1  # a drawing beside it is no reason
    write_folder(tmp_path, 2)
    dataset = CaptionedImages.open(tmp_path)
    assert (len(dataset), dataset.bad) == (2, {"not an image": 2})
    assert "skipped a.svg: not an image (SVG is not read; convert it to PNG or JPEG)" in caplog.text


def test_pictures_in_parquet_are_read_group_by_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"image": picture(n), "caption": f"picture {n}"} for n in range(60)]
    path = write_parquet(tmp_path / "a.parquet", found, group=5)
    read: list[int | None] = []
    plain = arrow.read_rows

    def noted(file: Any, columns: Any, *, group: int | None = None) -> Any:
        read.append(group)
        return plain(file, columns, group=group)

    monkeypatch.setattr("dallemini.data.sources.table.read_rows", noted)
    table = Table([path], DataConfig(shuffle_buffer=10))
    assert read == []  # nothing but the footer so far
    assert [table.row(n).captions[0] for n in range(60)] == [f"picture {n}" for n in range(60)]
    assert read == list(range(12))
    assert table.blocks == [5] * 12
    assert sum(map(len, table._tables.values())) <= 10 + 5 + 5


def test_row_groups_too_large_for_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "LARGEST_GROUP", 1000)
    found = [{"image": picture(n), "caption": "a"} for n in range(60)]
    with pytest.raises(InputError, match=r"60 pictures in one row group.*row_group_size=1000"):
        CaptionedImages.open(write_parquet(tmp_path / "a.parquet", found))


def test_several_tables_make_one_data_set(tmp_path: Path) -> None:
    for n in range(3):
        write_folder(tmp_path / str(n), 2)
        write_parquet(tmp_path / str(n) / "a.parquet", [{"image": "001.png", "text": f"in {n}"}])
    dataset = CaptionedImages.open(f"{tmp_path}/*/*.parquet")
    assert [dataset[n].captions[0] for n in range(3)] == ["in 0", "in 1", "in 2"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all, but some bytes"])
def test_broken_tables_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet (cannot be read as Parquet|is empty)"):
        CaptionedImages.open(tmp_path / "a.parquet")


def test_a_table_that_is_gone_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"image": picture(1), "caption": "a"}])
    dataset = CaptionedImages.open(path)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.parquet cannot be read"):
        dataset[0]


def test_a_header_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(b"image,caf\xe9\n")
    with pytest.raises(InputError, match=r"b\.csv cannot be read as text"):
        CaptionedImages.open(tmp_path / "b.csv")


@pytest.mark.parametrize("kind", ["string", "list", "dictionary"])
def test_text_in_parquet_that_is_not_utf8_is_one_bad_record(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, 3)
    texts = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).view(pa.string())
    column = {
        "string": texts,
        "list": pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), texts),
        "dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), texts),
    }[kind]
    images = pa.array([f"00{n}.png" for n in range(3)])
    table = pa.table({"image": images, "caption": column, "other": texts})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, store_schema=False)
    dataset = CaptionedImages.open(path, config=DataConfig(image_size=8))
    records = [record for shard in dataset.shards() for record in dataset.read(shard)]
    assert [record.captions for record in records] == [("one",), ("three",)]
    assert dataset.bad == {"caption is not text": 1}
    chosen = DataConfig(image_size=8, where=("other == three",))
    assert len(CaptionedImages.open(tmp_path / "a.parquet", config=chosen)) == 1


@pytest.mark.slow_except("one cell-image", "many cells-caption", "nulls-other")
@pytest.mark.parametrize("column", ["image", "caption", "other"])
@pytest.mark.parametrize("shape", ["one cell", "many cells", "nulls"])
def test_parquet_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, column: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow, "_FEW", 2**22)
    cells: list[bytes | None] = [b"\0" * 2**25]
    if shape != "one cell":
        cells = [b"\0" * 2**9] * 2**16 if shape == "many cells" else [None] * 2**21
    columns: dict[str, Any] = dict.fromkeys(("image", "caption", "other"), pa.nulls(len(cells)))
    columns = {name: value.cast(pa.string()) for name, value in columns.items()}
    kind = pa.binary() if column == "image" else pa.string()
    columns[column] = pa.array(cells, kind)
    pyarrow.parquet.write_table(
        pa.table(columns), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    with pytest.raises(InputError, match=r"would unpack \d+ bytes to .* it is not read"):
        CaptionedImages.open(tmp_path / "a.parquet")


@pytest.mark.parametrize("last", [b"a", b"\xff"])
@pytest.mark.parametrize("is_noted", [True, False])
def test_a_value_that_is_named_a_thousand_times_takes_its_memory_once(
    tmp_path: Path, last: bytes, is_noted: bool
) -> None:
    texts = pa.array([b"x" * 900_000, last], pa.binary()).view(pa.string())
    caption = pa.DictionaryArray.from_arrays(pa.array([0] * 5000 + [1], pa.int32()), texts)
    image = pa.DictionaryArray.from_arrays(pa.array([0] * 5001, pa.int32()), pa.array([picture(1)]))
    table = pa.table({"image": image.dictionary_decode(), "caption": caption})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", store_schema=is_noted)
    before = pa.total_allocated_bytes()
    dataset = CaptionedImages.open(tmp_path / "a.parquet", config=DataConfig(image_size=8))
    assert [len(dataset[number].captions[0]) for number in (0, 4999)] == [900_000, 900_000]
    wanted = "caption is not text" if last == b"\xff" else ("a",)
    found = dataset.raw(5000)
    assert (found.reason if isinstance(found, BadRecord) else found.captions) == wanted
    assert pa.total_allocated_bytes() - before < 50 * 2**20


def test_rows_that_a_footer_only_claims_take_no_memory(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"image": picture(1), "caption": "a"}])
    file = open_table(path, DataConfig())
    table = Table.__new__(Table)
    table.groups = []
    assert table._add(dataclasses.replace(file, groups=(10**12,)), []) == 10**12


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,caption\n")
    with pytest.raises(InputError, match="holds no records"):
        CaptionedImages.open(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(InputError, match=r"a\.csv is empty"):
        CaptionedImages.open(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("\n")
    with pytest.raises(InputError, match="no column 'image' with pictures; its columns are: none"):
        CaptionedImages.open(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", READERS)
def test_data_sets_can_be_sent_to_other_processes(write: Callable[..., Path], kind: str) -> None:
    dataset = CaptionedImages.open(write(kind, rows()), config=DataConfig(where=("width > 99",)))
    assert dataset[0].captions == ("picture 1",)
    sent = pickle.loads(pickle.dumps(dataset))
    assert [sent[n].captions[0] for n in range(5)] == [f"picture {n}" for n in range(1, 6)]
