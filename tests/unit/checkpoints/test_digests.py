"""Tests of `dallemini.checkpoints.digests`: read once, and again whenever in doubt."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from dallemini.checkpoints.digests import noted_digest

LONG_AGO = (1e9, 1e9)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was written long ago."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"first")
    os.utime(path, LONG_AGO)
    return path


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "cache/notes"


def forge(notes: Path) -> None:
    """Change what the only note says, so that a digest taken from it is recognised."""
    (note,) = notes.iterdir()
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "noted"}))


def test_digest_is_of_the_content_and_is_noted(file: Path, notes: Path) -> None:
    assert noted_digest(file, notes) == sha256(b"first")
    forge(notes)
    assert noted_digest(file, notes) == "noted"


def test_note_holds_for_every_way_to_the_file(
    file: Path, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted_digest(file, notes)
    forge(notes)
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    assert noted_digest(tmp_path / "link", notes) == "noted"
    assert noted_digest(Path(file.name), notes) == "noted"


def test_file_of_another_size_is_read_again(file: Path, notes: Path) -> None:
    noted_digest(file, notes)
    file.write_bytes(b"another size")
    os.utime(file, LONG_AGO)
    assert noted_digest(file, notes) == sha256(b"another size")


def test_file_of_another_time_is_read_again(file: Path, notes: Path) -> None:
    noted_digest(file, notes)
    file.write_bytes(b"other")
    os.utime(file, (1.1e9, 1.1e9))
    assert noted_digest(file, notes) == sha256(b"other")
    forge(notes)  # the newer state is the noted one now
    assert noted_digest(file, notes) == "noted"


def test_file_that_is_replaced_by_one_of_its_size_and_time_is_read_again(
    file: Path, notes: Path
) -> None:
    noted_digest(file, notes)
    twin = file.with_name("twin")
    twin.write_bytes(b"other")
    os.utime(twin, LONG_AGO)
    os.replace(twin, file)
    assert noted_digest(file, notes) == sha256(b"other")


def test_file_whose_time_was_set_back_after_a_change_is_read_again(file: Path, notes: Path) -> None:
    noted_digest(file, notes)
    time.sleep(0.05)  # the clock of a file system ticks every few milliseconds
    file.write_bytes(b"other")
    os.utime(file, LONG_AGO)
    assert noted_digest(file, notes) == sha256(b"other")


def test_copy_elsewhere_is_read_for_itself(file: Path, notes: Path, tmp_path: Path) -> None:
    noted_digest(file, notes)
    forge(notes)
    copy = Path(shutil.copy2(file, tmp_path / "copy"))
    assert noted_digest(copy, notes) == sha256(b"first")


@pytest.mark.parametrize("ahead", [0, 3600], ids=["just written", "in the future"])
def test_file_that_may_still_be_written_is_not_noted(file: Path, notes: Path, ahead: float) -> None:
    os.utime(file, (time.time() + ahead,) * 2)
    assert noted_digest(file, notes) == sha256(b"first")
    assert not notes.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"{}", b'{"sha256": 1}'])
def test_damaged_note_is_written_again(file: Path, notes: Path, content: bytes) -> None:
    noted_digest(file, notes)
    (note,) = notes.iterdir()
    note.write_bytes(content)
    assert noted_digest(file, notes) == sha256(b"first")
    assert json.loads(note.read_text())["sha256"] == sha256(b"first")


def test_notes_that_cannot_be_written_cost_nothing_but_time(file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert noted_digest(file, tmp_path / "file/notes") == sha256(b"first")


def test_note_that_cannot_be_put_in_place_leaves_nothing(file: Path, notes: Path) -> None:
    noted_digest(file, notes)
    (note,) = notes.iterdir()
    note.unlink()
    note.mkdir()  # where no file can be renamed to
    assert noted_digest(file, notes) == sha256(b"first")
    assert list(notes.iterdir()) == [note]


def test_missing_file_is_an_error(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        noted_digest(tmp_path / "weights.bin", notes)
