"""Tests of `dallemini.foreign`: what a file is, and how a value looks in a message."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dallemini.errors import CheckpointError, ConfigError, MissingFileError
from dallemini.foreign import check_file, show, show_names


def shared(levels: int) -> list[Any]:
    """Nine lists of nine, each the same one below: 9**levels leaves in a few bytes."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value] * 9
    return value


class Rude:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ((48, 3, 8, 8), "(48, 3, 8, 8)"),
        ((2,), "(2,)"),
        ({"a": [1, None]}, "{'a': [1, None]}"),
        ((), "()"),
        ([], "[]"),
        (True, "True"),
        (1e-05, "1e-05"),
        (10**30, repr(10**30)),
        (Rude(), "a Rude"),
    ],
)
def test_values_look_as_usual_where_they_are_small(value: object, text: str) -> None:
    assert show(value) == text


def test_number_of_many_digits_is_described() -> None:
    assert show(10**9000) == "a number of about 9001 digits"


def test_any_value_is_shown_briefly_and_at_once() -> None:
    itself: list[Any] = []
    itself.append(itself)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    start = time.perf_counter()
    for value in (shared(40), itself, deep, "x" * 10**7, b"x" * 10**7, [0] * 10**6, 1 << 10**7):
        assert len(show(value)) <= 100
    assert time.perf_counter() - start < 1


def test_names_are_counted() -> None:
    assert show_names(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"
    assert show_names(["a"]) == "'a'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"weights is empty\. Delete it and download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html>", "is a web page"),
        (b"<html><body>404</body></html>", "is a web page"),
        (b"\x1f\x8b\x08\x00", "is packed with gzip"),
        (b"x" * 11, r"has 11 bytes, but such a file has at most 10\."),
    ],
)
def test_file_that_is_something_else_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(content)
    for error in (CheckpointError, ConfigError):
        with pytest.raises(error, match=message):
            check_file(path, error=error, largest=10)


def test_file_of_weights_gives_its_size(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(10))
    assert check_file(tmp_path / "weights", largest=10) == 10


def test_special_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, kind in (
            (tmp_path / "pipe", "a pipe"),
            (tmp_path / "s", "a socket"),
            (tmp_path, "a folder"),
            (Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(CheckpointError, match=f"is {kind}, where a file is needed"):
                check_file(path)


@pytest.mark.parametrize("name", ["nothing", "nul\0inside"])
def test_file_that_cannot_be_opened_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingFileError, match=r"no file .*nothing|cannot be read: embedded null"):
        check_file(tmp_path / name)
