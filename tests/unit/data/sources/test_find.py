"""What a name stands for: folders of every layout, patterns, braces, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dallemini.data import CaptionedImages
from dallemini.data.config import DataConfig
from dallemini.data.sources import open_sources
from dallemini.data.sources.jsonl import JsonLines
from dallemini.data.sources.pictures import PictureFolder
from dallemini.data.sources.table import Table
from dallemini.data.sources.tars import TarShards
from dallemini.errors import InputError, InputTypeError, MissingDependencyError, MissingFileError
from picture_files import picture, write_folder, write_lines, write_parquet, write_shards

ROW = {"image": "a.png", "caption": "a"}


def kind_of(source: Any) -> type:
    return type(open_sources(source, DataConfig())[0])


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.jsonl"])
def test_a_list_tells_most_about_a_folder(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    write_lines(tmp_path / name, [ROW])
    assert kind_of(tmp_path) is JsonLines
    assert kind_of(tmp_path / name) is JsonLines


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.parquet"])
def test_a_list_may_be_a_table(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    if name.endswith("csv"):
        (tmp_path / name).write_text("file_name,text\na.png,a\n")
    else:
        write_parquet(tmp_path / name, [{"file_name": "a.png", "text": "a"}])
    assert kind_of(str(tmp_path)) is Table


def test_shards_come_before_the_tables_that_img2dataset_puts_beside_them(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_parquet(tmp_path / "00000.parquet", [{"url": "x", "caption": "a"}])
    assert kind_of(tmp_path) is TarShards


def test_pictures_come_before_the_tables_that_img2dataset_puts_beside_them(tmp_path: Path) -> None:
    write_folder(tmp_path / "00000")
    write_parquet(tmp_path / "00000.parquet", [{"url": "x", "caption": "a"}])
    assert kind_of(tmp_path) is PictureFolder


def test_tables_and_shards_are_found_in_subfolders(tmp_path: Path) -> None:
    write_parquet(tmp_path / "p" / "data" / "train-00000-of-00001.parquet", [ROW])
    write_shards(tmp_path / "t" / "data", shards=3)
    assert kind_of(tmp_path / "p") is Table
    found = open_sources(tmp_path / "t", DataConfig())[0]
    assert isinstance(found, TarShards)
    assert [Path(url).name for url in found.urls] == ["00000.tar", "00001.tar", "00002.tar"]


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "default/{}/0000.parquet"])
def test_splits_are_not_mixed(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / layout.format(split), [ROW])
    with pytest.raises(InputError, match=r"several splits \(test, train\); name the files of one"):
        open_sources(tmp_path, DataConfig())


def test_lists_in_subfolders_are_not_overlooked(tmp_path: Path) -> None:
    write_folder(tmp_path / "train")
    write_lines(tmp_path / "train" / "metadata.jsonl", [ROW])
    with pytest.raises(InputError, match=r"train/metadata\.jsonl is one; open that folder"):
        open_sources(tmp_path, DataConfig())


def test_patterns_and_braces_name_several_files(tmp_path: Path) -> None:
    paths = [str(path) for path in write_shards(tmp_path, shards=4)]
    for name in (f"{tmp_path}/*.tar", f"{tmp_path}/{{00000..00003}}.tar"):
        found = open_sources(name, DataConfig())[0]
        assert isinstance(found, TarShards)
        assert list(found.urls) == paths
    several = open_sources([f"{tmp_path}/{{00002..00003}}.tar", Path(paths[0])], DataConfig())[0]
    assert isinstance(several, TarShards)
    assert several.urls == (paths[2], paths[3], paths[0])


def test_braces_name_tables_too(tmp_path: Path) -> None:
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", [ROW])
    assert len(CaptionedImages.open(f"{tmp_path}/{{0..2}}.parquet")) == 3


def test_addresses_and_commands_are_streams() -> None:
    names = ["http://127.0.0.1/{000..002}.tar", "pipe:cat {a,b}.tar", "https://h/x?y=1"]
    found = open_sources(names, DataConfig())[0]
    assert isinstance(found, TarShards)
    assert len(found.urls) == 6
    assert found.urls[3:] == ("pipe:cat a.tar", "pipe:cat b.tar", "https://h/x?y=1")


def test_a_name_with_braces_that_exists_is_meant_literally(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "{a,b}")
    assert kind_of(folder) is PictureFolder


@pytest.mark.parametrize("name", ["none", "none/*.parquet", "none-{0..1}.tar", "none.jsonl"])
def test_what_does_not_exist_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingFileError, match=r"There is no file or folder '.*none"):
        open_sources(tmp_path / name, DataConfig())


def test_single_files_of_the_hub_are_not_read(tmp_path: Path) -> None:
    for source in ("hf://datasets/a/b/0.tar", ["HF://a/b/{0..1}.parquet"]):
        with pytest.raises(InputError, match=r"a data set on the Hub is named hf://owner/name"):
            open_sources(source, DataConfig())


@pytest.mark.parametrize("name", ["a-{0..", "a-{b"])
def test_unbalanced_braces_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be expanded: Unbalanced"):
        open_sources(name, DataConfig())[0]


def test_a_variable_that_is_not_set_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be expanded: missing environment variable"):
        open_sources("${NOWHERE}/{0..1}.tar", DataConfig())


@pytest.mark.parametrize("source", [[], "", [""]])
def test_nothing_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match="Data were asked for with an empty"):
        open_sources(source, DataConfig())


@pytest.mark.parametrize("source", [3, None, {"a": 1}, [1]])
def test_other_things_are_refused(source: Any) -> None:
    with pytest.raises(InputTypeError, match="named by a path, or a list of paths"):
        CaptionedImages.open(source)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no data: neither metadata\.jsonl"):
        open_sources(tmp_path, DataConfig())


def test_shards_are_not_mixed_with_others(tmp_path: Path) -> None:
    shard = write_shards(tmp_path, shards=1)[0]
    table = write_parquet(tmp_path / "a.parquet", [ROW])
    for names in ([shard, table], [f"{shard}:0.5", f"{table}:0.5"]):
        with pytest.raises(InputError, match="tar shards and addresses are read on their own"):
            open_sources(names, DataConfig())
    (tmp_path / "a.png").write_bytes(picture(0))
    with pytest.raises(InputError, match=r"a\.png is none of the data that are read: folders"):
        open_sources(tmp_path / "a.png", DataConfig())


@pytest.mark.parametrize(
    ("package", "name", "purpose"),
    [("pyarrow", "a.parquet", "Parquet and CSV files"), ("webdataset", "a.tar", "Tar shards")],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, purpose: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{purpose} need {package}.*\[train\]"):
        open_sources(tmp_path / name, DataConfig())


@pytest.mark.parametrize(
    "name",
    [
        "https://example.org/metadata.parquet",
        "http://example.org/list.jsonl?token=1",
        "s3://bucket/pictures/",
        ["https://example.org/0.tar", "https://example.org/cat.JPG"],
    ],
)
def test_addresses_of_other_data_than_tars_say_what_to_do(name: str | list[str]) -> None:
    message = r"^\S+ is no tar shard, .* download it, and name the file or its folder\.$"
    with pytest.raises(InputError, match=message):
        open_sources(name, DataConfig())


def test_addresses_and_commands_of_tars_are_opened_and_no_more() -> None:
    names = ("https://example.org/a.tar?sig=x/", "gs://bucket/shard", "pipe:sh http://a/b.json")
    for name in names:
        assert CaptionedImages.open(name).stream.urls == (name,)


def test_addresses_that_nothing_can_fetch_say_what_can() -> None:
    with pytest.raises(InputError, match=r"s3:// are not opened\. Name a command .* 'pipe:aws s3"):
        CaptionedImages.open("s3://bucket/{0..3}.tar")
