"""Pointers of Git LFS, web pages and nothing, in the place of data: each is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dallemini.data import DataConfig
from dallemini.data.captions import NotTextError, read_caption_lines
from dallemini.data.sources.arrow import open_table
from dallemini.data.sources.jsonl import open_json
from dallemini.data.sources.tar_members import read_members
from dallemini.data.token_shards import TokenShard
from dallemini.errors import CheckpointError
from dallemini.images import open_image
from dallemini.text.normalizer import TextNormalizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>"


def read_tar(path: Path) -> None:
    with path.open("rb") as stream:
        list(read_members(stream, lambda _: 100))


READERS: dict[str, Callable[[Path], object]] = {
    "a.png": open_image,
    "a.csv": lambda path: open_table(path, DataConfig()),
    "a.parquet": lambda path: open_table(path, DataConfig()),
    "a.json": lambda path: open_json(path, DataConfig()),
    "a.jsonl": lambda path: open_json(path, DataConfig()),
    "tokens-00000.parquet": TokenShard.read,
    "a.tar": read_tar,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "is a Git LFS pointer: run git lfs pull"),
        (PAGE, "is a web page, not the file itself"),
        (b"", "is empty|has no bytes"),
    ],
)
def test_what_stands_in_for_data_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Exception, match=message) as caught:
        READERS[name](tmp_path / name)
    assert len(str(caught.value)) < 1000


def test_texts_of_a_pointer_are_no_captions_and_no_words(tmp_path: Path) -> None:
    for content, message in ((POINTER, "Git LFS pointer"), (PAGE, "is a web page")):
        with pytest.raises(NotTextError, match=f"it is .*{message[-8:]}"):
            read_caption_lines(content)
        (tmp_path / "words.txt").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"words\.txt .*{message}"):
            TextNormalizer(tmp_path / "words.txt")("#redapple")
    assert read_caption_lines(b"") == ()


def test_drawing_in_svg_is_no_web_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<?xml version='1.0'?><svg></svg>")
    with pytest.raises(Exception, match="its format is not known"):
        open_image(tmp_path / "a.png")
