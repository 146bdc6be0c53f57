"""Tests of `dallemini.checkpoints.cache`: a conversion is complete, or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from dallemini.checkpoints.cache import convert_once
from dallemini.errors import CheckpointError, DalleMiniWarning, StorageError
from light import LIGHT


def is_usable(folder: Path) -> bool:
    try:
        return (folder / "weights").read_text() == "whole"
    except OSError:
        return False


def convert(folder: Path) -> None:
    (folder / "weights").write_text("whole")


def never(folder: Path) -> None:
    pytest.fail(f"{folder} was converted again")


def visible(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_conversion_is_made_once(tmp_path: Path) -> None:
    place = tmp_path / "deep/er/key"
    assert convert_once(place, is_usable, convert, name="model") == place
    assert convert_once(place, is_usable, never, name="model") == place
    assert visible(place.parent) == ["key"]


def test_damaged_conversion_is_made_again(tmp_path: Path) -> None:
    place = convert_once(tmp_path / "key", is_usable, convert, name="model")
    (place / "weights").write_text("half")
    assert is_usable(convert_once(place, is_usable, convert, name="model"))


@pytest.mark.parametrize("error", [CheckpointError, KeyError])
def test_failed_conversion_leaves_nothing_behind(tmp_path: Path, error: type[Exception]) -> None:
    def fail(folder: Path) -> None:
        convert(folder)
        raise error("the source is damaged")

    with pytest.raises(error, match="the source is damaged"):
        convert_once(tmp_path / "key", is_usable, fail, name="model")
    assert visible(tmp_path) == []


def test_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "key" / ".dallemini-123.tmp"
    left.mkdir(parents=True)
    convert_once(tmp_path / "key", is_usable, convert, name="model")
    assert visible(tmp_path) == ["key"]
    assert not left.exists()


def test_second_process_waits_and_takes_what_the_first_made(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / ".key.lock")
    lock.acquire()
    results: list[Path] = []

    def second() -> None:
        results.append(convert_once(tmp_path / "key", is_usable, never, name="model"))

    thread = threading.Thread(target=second)
    thread.start()
    time.sleep(0.2)
    assert results == []
    (tmp_path / "key").mkdir()
    convert(tmp_path / "key")
    lock.release()
    thread.join()
    assert results == [tmp_path / "key"]


RACE = f"""{LIGHT}
import pathlib, time
from dallemini.checkpoints.cache import convert_once
place = pathlib.Path(sys.argv[1])
def is_usable(folder):
    return (folder / "weights").exists()
def count(folder):
    with (place.parent / "conversions").open("a") as file:
        file.write("x")
    time.sleep(0.2)
    (folder / "weights").touch()
assert is_usable(convert_once(place, is_usable, count, name="model"))
"""


def test_processes_at_once_convert_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RACE, str(tmp_path / "key")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "conversions").read_text() == "x"


# Caches that cannot be written


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A place below a file, which no user can write to, root included."""
    (tmp_path / "file").touch()
    return tmp_path / "file/cache/key"


def test_unwritable_cache_warns_and_converts_for_this_process(unwritable: Path) -> None:
    with pytest.warns(
        DalleMiniWarning, match=r"The cache .* cannot be written \(Not a directory\)"
    ):
        folder = convert_once(unwritable, is_usable, convert, name="model")
    assert folder != unwritable
    assert is_usable(folder)
    assert convert_once(unwritable, is_usable, never, name="model") == folder


def test_temporary_conversion_ends_with_the_process(unwritable: Path) -> None:
    script = f"""{LIGHT}
import pathlib, warnings
from dallemini.checkpoints.cache import convert_once
warnings.simplefilter("ignore")
place = pathlib.Path({str(unwritable)!r})
folder = convert_once(place, pathlib.Path.is_dir, lambda folder: None, name="model")
assert folder.is_dir()
print(folder)
"""
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert not Path(shown.strip()).exists()


def test_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").touch()
        with open("/dev/full", "wb", buffering=0) as file:  # the kernel's own full disk
            file.write(b"x")

    with pytest.raises(StorageError, match=r"model could not be converted .*\(No space left on"):
        convert_once(tmp_path / "key", is_usable, fill, name="model")
    assert visible(tmp_path) == []


def test_no_temporary_folder_is_an_error(unwritable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(unwritable))
    with (
        pytest.warns(DalleMiniWarning),
        pytest.raises(StorageError, match=r"No temporary folder can be made .* Set TMPDIR"),
    ):
        convert_once(unwritable, is_usable, convert, name="other model")
