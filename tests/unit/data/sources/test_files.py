"""Files of strangers: links that lead back, names that are no files, and how much is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dallemini.data import BadRecordError, CaptionedImages, DataConfig
from dallemini.data.sources.files import (
    NotRegularError,
    check_regular,
    expand_pattern,
    read_head,
    read_regular,
    walk,
)
from dallemini.errors import InputError, MissingFileError
from picture_files import picture, write_folder, write_lines, write_parquet, write_shards


def names_in(folder: Path) -> list[str]:
    return sorted(
        (parent / name).relative_to(folder).as_posix()
        for parent, names in walk(folder)
        for name in names
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a subfolder, and links to itself, to its parent and to another folder."""
    folder = write_folder(tmp_path / "tree", 1)
    write_folder(folder / "sub", 2)
    for link, target in (("loop", "."), ("again", "."), ("sub/up", ".."), ("out", "../..")):
        (folder / link).symlink_to(target, target_is_directory=True)
    write_folder(tmp_path / "other", 1)
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "twice").symlink_to(tmp_path / "other")
    return folder


def test_every_real_folder_comes_once(tree: Path) -> None:
    wanted = ["000.png", "000.txt", "linked/000.png", "linked/000.txt"]
    wanted += [f"sub/00{number}.{ending}" for number in (0, 1) for ending in ("png", "txt")]
    assert names_in(tree) == wanted
    assert len(CaptionedImages.open(tree)) == 4
    assert len(CaptionedImages.open(tree / "loop" / "again")) == 4


def test_folders_that_lie_here_come_before_links_to_them(tmp_path: Path) -> None:
    write_folder(tmp_path / "z" / "deep", 1)
    (tmp_path / "a").symlink_to("z")
    assert names_in(tmp_path) == ["z/deep/000.png", "z/deep/000.txt"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path / ".cache", 1)
    (tmp_path / "._a.png").write_bytes(b"")
    write_folder(tmp_path / "seen", 1)
    assert names_in(tmp_path) == ["seen/000.png", "seen/000.txt"]


def test_links_in_a_circle_and_to_nowhere_are_named_as_files(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    (tmp_path / "c.png").symlink_to("nowhere")
    dataset = CaptionedImages.open(tmp_path, config=DataConfig(require_captions=False))
    assert len([record for shard in dataset.shards() for record in dataset.read(shard)]) == 1
    assert dataset.bad == {"no image": 3}


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_tables_and_tars_in_linked_folders_are_found_once(tmp_path: Path, kind: str) -> None:
    if kind == "tar":
        write_shards(tmp_path / "data" / "deep", shards=2, size=1)
    else:
        for number in range(2):
            path = tmp_path / "data" / "deep" / f"{number}.parquet"
            write_parquet(path, [{"image": picture(number), "caption": "a"}])
    (tmp_path / "data" / "loop").symlink_to(".")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to("../data")
    for name in ("data", "set", f"data/**/*.{kind}", f"**/deep/*.{kind}"):
        dataset = CaptionedImages.open(tmp_path / name)
        count = len(dataset.shards()) if kind == "tar" else len(dataset)
        assert count == 2, name


def test_patterns_mean_what_they_mean_to_a_shell(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    assert expand_pattern("*.png") == ["000.png"]
    assert expand_pattern("**/*.png") == names_like(".png", tree)
    assert expand_pattern(f"{tmp_path}/t*e/**/*.txt") == [
        f"{tree}/{name}" for name in names_like(".txt", tree)
    ]
    assert expand_pattern("sub/**") == [
        f"sub/00{n}.{e}" for n in (0, 1) for e in ("png", "txt")
    ] + ["sub/up"]
    assert expand_pattern("nowhere/**/*.png") == []


def names_like(ending: str, folder: Path) -> list[str]:
    return [name for name in names_in(folder) if name.endswith(ending)]


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/dev/full", "/", "link"])
def test_only_regular_files_are_read(tmp_path: Path, pipe: Path, name: str) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    path = tmp_path / name
    for read in (lambda: read_regular(path, most=10), lambda: read_head(path, 10)):
        with pytest.raises((NotRegularError, IsADirectoryError)):
            read()
    with pytest.raises(InputError, match=r"cannot be read: it is a (named |device|folder)"):
        check_regular(path)


def test_files_are_read_up_to_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read_regular(tmp_path / "a", most=10) == b"x" * 10
    with pytest.raises(NotRegularError, match="more than 9 bytes"):
        read_regular(tmp_path / "a", most=9)
    assert read_head(tmp_path / "a", 3)[0] == b"xxx"
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**33)
    with pytest.raises(NotRegularError, match="more than 1000 bytes"):
        read_regular(tmp_path / "sparse", most=1000)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"There is no file or folder .*none"):
        check_regular(tmp_path / "none")


@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "sparse.png"])
def test_what_never_ends_is_a_bad_record_by_any_way(
    tmp_path: Path, pipe: Path, target: str
) -> None:
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(2**40)
    rows = [{"image": str(tmp_path / target), "caption": "a"}]
    sources = [write_lines(tmp_path / "a.jsonl", rows), write_parquet(tmp_path / "a.parquet", rows)]
    (tmp_path / "a.csv").write_text(f"image,caption\n{tmp_path / target},a\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / target)
    (folder / "a.txt").write_text("a")
    for source in (*sources, tmp_path / "a.csv", folder):
        with pytest.raises(BadRecordError, match=r"(no image|too large), .*it (is|has)"):
            CaptionedImages.open(source)[0]


@pytest.mark.parametrize(("name", "reason"), [("a.txt", "no caption"), ("a.json", "broken meta")])
def test_texts_that_never_end_are_bad_records(
    tmp_path: Path, pipe: Path, name: str, reason: str
) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / name).symlink_to(pipe)
    with pytest.raises(BadRecordError, match=f"{reason}.*it is a named pipe"):
        CaptionedImages.open(tmp_path)[0]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "tar"])
def test_lists_that_never_end_are_refused(tmp_path: Path, pipe: Path, ending: str) -> None:
    (tmp_path / f"a.{ending}").symlink_to(pipe)
    with pytest.raises(InputError, match="it is a named pipe, not a file"):
        CaptionedImages.open(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_lines_that_never_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    for module in ("delimited", "jsonl"):
        monkeypatch.setattr(f"dallemini.data.sources.{module}.LARGEST_TEXT", 1000)
    (tmp_path / f"a.{ending}").write_text("image,caption\n" + "x" * 3000)
    with pytest.raises(InputError, match=r"a line (has|of) 1000|no column"):
        CaptionedImages.open(tmp_path / f"a.{ending}")
