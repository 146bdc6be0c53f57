"""The files of encoded pictures: what is in them, that they are whole, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dallemini.data.token_shards import (
    METADATA_KEY,
    TokenRows,
    TokenShard,
    find_shards,
    import_parquet,
    is_encoded,
    numbers_in,
    read_arrays,
    shard_name,
    token_dtype,
    write_shard,
)
from dallemini.errors import InputError, MissingDependencyError, MissingFileError, StorageError
from encoded_sets import CODEBOOK_SIZE, LENGTH, note, random_rows, write_set


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / shard_name(0)


def read_table(path: Path) -> Any:
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read()


def test_a_shard_holds_what_was_written(path: Path) -> None:
    rows = random_rows(3)
    write_shard(path, rows, note(source="a.tar"))
    table = read_table(path)
    assert table.column("key").to_pylist() == list(rows.keys)
    assert table.column("captions").to_pylist() == [list(several) for several in rows.captions]
    assert table.column("image_tokens").to_pylist() == rows.image_tokens.tolist()
    assert TokenShard.read(path).metadata == note(source="a.tar")
    assert TokenShard.read(path).rows == 3


@pytest.mark.parametrize(("codebook_size", "kind"), [(2**16, "uint16"), (2**16 + 1, "int32")])
def test_codes_are_stored_in_a_small_type(path: Path, codebook_size: int, kind: str) -> None:
    rows = random_rows(2, codebook_size=codebook_size)
    write_shard(path, rows, note(codebook_size=codebook_size))
    assert str(read_table(path).schema.field("image_tokens").type.value_type) == kind
    assert token_dtype(codebook_size) == np.dtype(kind)
    (arrays,) = read_arrays(TokenShard.read(path))
    assert arrays["tokens"].tolist() == rows.image_tokens.tolist()


def test_the_same_rows_make_the_same_bytes(path: Path) -> None:
    write_shard(path, random_rows(5), note())
    first = path.read_bytes()
    write_shard(path, random_rows(5), note())
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, None, 3], "int64", [1, None, 3]),
        ([True, False, None], "bool", [True, False, None]),
        ([1, 0.5, None], "double", [1.0, 0.5, None]),
        (["a", None, "b"], "string", ["a", None, "b"]),
        ([1, "b", True], "string", ["1", "b", "True"]),
        ([2**70, 1, 1], "double", [float(2**70), 1.0, 1.0]),
        ([10**400, 1.5, None], "string", [str(10**400), "1.5", None]),
        ([float("inf"), 1, None], "double", [float("inf"), 1.0, None]),
        (["\ud800", "", None], "string", ["?", "", None]),
    ],
)
def test_other_columns_keep_their_kind(
    path: Path, values: list[object], kind: str, stored: list[object]
) -> None:
    write_shard(path, random_rows(3, columns=[{"extra": value} for value in values]), note())
    column = read_table(path).column("extra")
    assert (str(column.type), column.to_pylist()) == (kind, stored)


def test_columns_without_a_value_or_with_our_names_are_left_out(path: Path) -> None:
    columns: list[dict[str, object]] = [{"nothing": None, "key": "x"}, {"width": 3}]
    write_shard(path, random_rows(2, columns=columns), note())
    assert read_table(path).column_names == ["key", "captions", "image_tokens", "width"]
    assert read_table(path).column("width").to_pylist() == [None, 3]


def test_halves_of_surrogate_pairs_are_replaced(path: Path) -> None:
    write_shard(path, random_rows(1, captions=[["a \ud83d cat"]]), note())
    assert read_table(path).column("captions").to_pylist() == [["a ? cat"]]


def test_a_shard_may_be_empty(path: Path) -> None:
    write_shard(path, random_rows(0), note())
    assert TokenShard.read(path).rows == 0
    assert sum(len(arrays["tokens"]) for arrays in read_arrays(TokenShard.read(path))) == 0


def test_what_a_killed_process_left_is_removed_and_not_counted(path: Path) -> None:
    left = path.with_name(".dallemini-0a1b2c3d.tmp")
    left.write_bytes(b"half")
    assert numbers_in(path.parent) == set()
    write_shard(path, random_rows(1), note())
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_failing_to_write_leaves_nothing(path: Path) -> None:
    unequal = dataclasses.replace(random_rows(2), keys=["only one"])
    with pytest.raises(pa.ArrowInvalid):
        write_shard(path, unequal, note())
    assert list(path.parent.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Could not write .*Not a directory"):
        write_shard(tmp_path / "file" / shard_name(0), random_rows(1), note())


def test_arrays_come_as_flat_text_with_ends(path: Path) -> None:
    captions = [["é", "bc"], [], ["d"]]
    write_shard(path, random_rows(3, captions=captions), note())
    (arrays,) = read_arrays(TokenShard.read(path))
    assert arrays["text_bytes"].tobytes().decode() == "ébcd"
    assert arrays["text_ends"].tolist() == [2, 4, 5]
    assert arrays["caption_ends"].tolist() == [2, 2, 3]
    assert arrays["key_bytes"].tobytes() == b"0/0.png0/1.png0/2.png"
    assert arrays["key_ends"].tolist() == [7, 14, 21]


def test_shards_of_a_folder_come_in_order(tmp_path: Path) -> None:
    write_set(tmp_path, 1, 2, 3)
    assert [shard.rows for shard in find_shards(tmp_path)] == [1, 2, 3]
    assert numbers_in(tmp_path) == {0, 1, 2}


def test_a_pattern_finds_files(tmp_path: Path) -> None:
    write_set(tmp_path, 1, 2, 3)
    assert [shard.rows for shard in find_shards(tmp_path / "tokens-0000[12].parquet")] == [2, 3]


def test_folder_with_a_missing_shard_is_refused_but_its_files_are_not(tmp_path: Path) -> None:
    write_set(tmp_path, 1, 2, 3)
    (tmp_path / shard_name(1)).unlink()
    with pytest.raises(InputError, match=r"2 of 3 shards; missing: tokens-00001\.parquet"):
        find_shards(tmp_path)
    assert len(find_shards(tmp_path / "*.parquet")) == 2


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no encoded pictures"):
        find_shards(tmp_path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file or folder .*none\.parquet"):
        find_shards(tmp_path / "none.parquet")


@pytest.mark.parametrize("cut", [0, 100])
def test_file_that_is_not_whole_is_refused(path: Path, cut: int) -> None:
    write_shard(path, random_rows(3), note())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"(cannot be read as Parquet|is empty).*[Dd]elete it"):
        TokenShard.read(path)


def test_damaged_rows_are_refused(path: Path) -> None:
    write_shard(path, random_rows(500), note())
    content = bytearray(path.read_bytes())
    content[100:400] = os.urandom(300)
    path.write_bytes(content)
    with pytest.raises(InputError, match="delete it and encode again"):
        list(read_arrays(TokenShard.read(path)))


@pytest.mark.parametrize("footer", [None, b"[]", b'{"shard": 0}', b"{"])
def test_parquet_of_somebody_else_is_refused(path: Path, footer: bytes | None) -> None:
    table = pa.table({"key": ["a"]})
    if footer is not None:
        table = table.replace_schema_metadata({METADATA_KEY: footer})
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(InputError, match=r"cannot be read|was not written by `dallemini encode`"):
        TokenShard.read(path)


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", None, [1]])
@pytest.mark.parametrize("name", ["codebook_size", "image_length", "shard", "shards", "vqgan"])
def test_footers_of_another_kind_are_refused(path: Path, name: str, value: object) -> None:
    if name == "vqgan" and isinstance(value, str):
        value = 7
    write_shard(path, random_rows(1), {**note(), name: value})
    with pytest.raises(InputError, match=rf"says that its {name} is .*; delete it and"):
        TokenShard.read(path)


def test_shard_beyond_the_last_is_refused(path: Path) -> None:
    write_shard(path, random_rows(1), note(shard=3, shards=3))
    with pytest.raises(InputError, match="says that it is shard 3 of 3, which cannot be"):
        TokenShard.read(path)


def test_a_million_million_shards_are_missed_at_once(tmp_path: Path) -> None:
    write_shard(tmp_path / shard_name(1), random_rows(1), note(shard=1, shards=10**12))
    with pytest.raises(InputError, match=r"1 of 1000000000000 shards; missing: tokens-00000") as e:
        find_shards(tmp_path)
    assert len(str(e.value)) < 1000


def write_strange(path: Path, footer: bytes, **columns: Any) -> None:
    rows = random_rows(2)
    usual = {
        "key": pa.array(rows.keys),
        "captions": pa.array([list(several) for several in rows.captions]),
        "image_tokens": pa.array(rows.image_tokens.tolist(), pa.list_(pa.uint16())),
    }
    table = pa.table({**usual, **columns}).replace_schema_metadata({METADATA_KEY: footer})
    pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("footer", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 10_000])
def test_footers_that_are_no_json_are_refused(path: Path, footer: bytes) -> None:
    write_strange(path, footer)
    with pytest.raises(InputError, match=r"cannot be read as Parquet|was not written by") as caught:
        TokenShard.read(path)
    assert len(str(caught.value)) < 1000


STRANGE: dict[str, dict[str, Any]] = {
    "codes that are floats": {"image_tokens": pa.array([[1.0] * LENGTH] * 2)},
    "codes that are texts": {"image_tokens": pa.array([["a"] * LENGTH] * 2)},
    "codes that are no lists": {"image_tokens": pa.array([1, 2])},
    "codes in lists of lists": {"image_tokens": pa.array([[[1] * LENGTH]] * 2)},
    "codes that are missing": {
        "image_tokens": pa.array([[1] * LENGTH, None], pa.list_(pa.int32()))
    },
    "codes with gaps": {"image_tokens": pa.array([[1, None] * (LENGTH // 2)] * 2)},
    "large codes": {"image_tokens": pa.array([[2**40] * LENGTH] * 2)},
    "codes below zero": {"image_tokens": pa.array([[-1] * LENGTH] * 2)},
    "captions that are texts": {"captions": pa.array(["a", "b"])},
    "captions that are numbers": {"captions": pa.array([[1], [2]])},
    "captions that are structs": {"captions": pa.array([{"a": 1}, {"a": 2}])},
    "keys that are numbers": {"key": pa.array([1, 2])},
    "captions that are not UTF-8": {
        "captions": pa.ListArray.from_arrays(
            pa.array([0, 1, 2], pa.int32()),
            pa.array([b"a", b"\xff"], pa.binary()).view(pa.string()),
        )
    },
    "keys that are not UTF-8": {"key": pa.array([b"a", b"\xff"], pa.binary()).view(pa.string())},
}


@pytest.mark.parametrize("name", STRANGE)
def test_rows_of_another_kind_are_refused(path: Path, name: str) -> None:
    write_strange(path, json.dumps(note()).encode(), **STRANGE[name])
    with pytest.raises(InputError, match=r"tokens-00000\.parquet (cannot be read|holds)"):
        list(read_arrays(TokenShard.read(path)))


@pytest.mark.thorough
def test_tokens_that_unpack_to_gigabytes_are_refused(path: Path) -> None:
    write_strange(
        path,
        json.dumps(note()).encode(),
        key=pa.array(["a", "b"]),
        captions=pa.array([["x" * 2**27], []]),
    )
    with pytest.raises(InputError, match=r"would unpack \d+ bytes to .* it is not read"):
        TokenShard.read(path)


def test_captions_that_are_named_a_thousand_times_are_refused(path: Path) -> None:
    count = 2000
    numbers = pa.array([0] * count, pa.int32())
    texts = pa.DictionaryArray.from_arrays(numbers, pa.array(["x" * 900_000]))
    write_strange(
        path,
        json.dumps(note()).encode(),
        key=pa.array(["a"] * count),
        captions=pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), texts),
        image_tokens=pa.array([[1] * LENGTH] * count),
    )
    with pytest.raises(InputError, match=r"rows of it have more than \d+ bytes of text"):
        list(read_arrays(TokenShard.read(path)))


def test_named_pipes_are_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(InputError, match="it is a named pipe, not a file"):
        TokenShard.read(path)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("", True), ("tokens-00000.parquet", True), ("tokens-*.parquet", True), ("other", False)],
)
def test_folders_and_shards_by_name_are_encoded_pictures(
    tmp_path: Path, name: str, wanted: bool
) -> None:
    write_set(tmp_path, 1, 2)
    (tmp_path / "other").mkdir()
    assert is_encoded(tmp_path / name) is wanted
    assert not is_encoded(tmp_path / "tokens-00009.parquet")


def test_shard_without_a_column_is_refused(path: Path) -> None:
    metadata = {METADATA_KEY: json.dumps(note()).encode()}
    table = pa.table({"key": ["a"]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(InputError, match="cannot be read"):
        list(read_arrays(TokenShard.read(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_length": LENGTH + 1}, "of other than 17 tokens"),
        ({"codebook_size": 2}, "codes outside 0 to 1"),
    ],
)
def test_codes_that_the_footer_does_not_allow_are_refused(
    path: Path, changes: dict[str, int], message: str
) -> None:
    write_shard(path, random_rows(3), note(**changes))
    with pytest.raises(InputError, match=message):
        list(read_arrays(TokenShard.read(path)))


def test_missing_pyarrow_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[train\]"'):
        import_parquet()


def test_rows_of_the_helper_are_of_the_codebook() -> None:
    rows: TokenRows = random_rows(50)
    assert rows.image_tokens.shape == (50, LENGTH)
    assert int(rows.image_tokens.max()) < CODEBOOK_SIZE
