"""What is written is whole or not there, whoever is killed, and however full the disk is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dallemini import files
from dallemini.errors import CheckpointError, InputTypeError, StorageError
from dallemini.files import (
    as_path,
    finish_folder,
    make_folder,
    replacing,
    replacing_folder,
    write_beside,
    write_text,
)
from light import LIGHT

START = f"""{LIGHT}
import os, resource, signal, sys, time
from pathlib import Path
from dallemini.errors import StorageError
from dallemini.files import *
def tell():
    print(flush=True)
    time.sleep(60)
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def save(folder: Path, text: str, *, obsolete: tuple[str, ...] = ()) -> None:
    with replacing_folder(folder, obsolete=obsolete) as built:
        (built / "part").mkdir()
        write_text(built / "part" / "a", text)
        write_text(built / "b", text)


def run_child(code: str, *words: object) -> subprocess.Popen[bytes]:
    """Start a process that says so on its output when it comes to `tell()`."""
    command = [sys.executable, "-c", START + code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def kill_when_told(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == b"\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()


# --- Names and folders -----------------------------------------------------------------------


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/a") == tmp_path / "a"
    assert make_folder(Path("~/a/b")) == tmp_path / "a" / "b"
    assert names_in(tmp_path) == ["a", "a/b"]


@pytest.mark.parametrize("name", [None, 3, b"bytes"])
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(InputTypeError, match=r"is named by a string or a path, not "):
        make_folder(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, "file", "file/below"])
def test_a_folder_that_cannot_be_made_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Could not make .+ \(.+\)\. Choose another folder"):
        make_folder(name)
    with pytest.raises(StorageError, match="Could not make"):
        save(Path(name), "x")
    assert names_in(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=r"Could not write to .*\. Choose another"):
        make_folder(tmp_path)


# --- One file --------------------------------------------------------------------------------


def test_a_file_takes_its_place_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old é")
    with contextlib.suppress(KeyError), replacing(path) as file:
        file.write(b"new")
        assert path.read_text("utf-8") == "old é"
        raise KeyError
    assert path.read_text("utf-8") == "old é"
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [("nowhere/file", "Free"), ("a\0b", "Choose"), ("\ud800", "Choose"), ("folder", "Free")],
)
def test_a_file_that_cannot_be_written_is_told(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=rf"Could not write .+ \(.+\)\. {advice} "):
        write_text(tmp_path / name, "text")
    assert names_in(tmp_path) == ["folder"]


def test_a_file_of_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("x" * 255), "text")
    assert names_in(tmp_path) == ["x" * 255]


def test_a_full_disk_leaves_the_older_files(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    save(tmp_path / "folder", "old")
    before = names_in(tmp_path)
    code = f"""
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = Path({str(tmp_path)!r})
def files(where):
    with replacing_folder(where) as built:
        write_text(built / "b", "small")
        write_text(built / "large", "x" * 5000)
for attempt in (
    lambda: write_text(folder / "file", "x" * 5000),
    lambda: write_beside([folder / "new"], b"x" * 5000),
    lambda: files(folder / "folder"),
    lambda: files(folder / "other" / "one"),
):
    try:
        attempt()
    except StorageError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    wanted = ("file", "new", "folder/large", "other/one/large")
    assert done.stdout.splitlines() == [
        f"Could not write {tmp_path / name} (File too large). Free some space or choose "
        "another folder, then try again; nothing unfinished was left behind."
        for name in wanted
    ]
    assert names_in(tmp_path) == before
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "b").read_text() == "old"


def test_a_free_name_is_found_by_all_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        names = (tmp_path / f"{count}.png" for count in range(100))
        paths.append(write_beside(names, str(number).encode()))

    paths: list[Path] = []
    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names_in(tmp_path) == sorted(f"{count}.png" for count in range(16))
    assert {path.read_text() for path in paths} == {str(number) for number in range(16)}


def test_a_free_name_is_found_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    names = [tmp_path / "a", tmp_path / "b"]
    assert [write_beside(names, b"x") for _ in names] == names
    assert names_in(tmp_path) == ["a", "b"]


# --- A folder --------------------------------------------------------------------------------


def test_a_folder_is_replaced_all_at_once(tmp_path: Path) -> None:
    save(tmp_path, "old")
    with contextlib.suppress(KeyError), replacing_folder(tmp_path) as built:
        write_text(built / "b", "new")
        assert (tmp_path / "b").read_text() == "old"
        raise KeyError
    assert (tmp_path / "b").read_text() == "old"
    save(tmp_path, "new")
    assert names_in(tmp_path) == ["b", "part", "part/a"]
    assert (tmp_path / "b").read_text() == (tmp_path / "part" / "a").read_text() == "new"


def test_obsolete_files_go_and_others_stay(tmp_path: Path) -> None:
    for name in ("b", "card", "mine", "part/a", "part/mine", "older/a", "card2/mine"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    save(tmp_path, "new", obsolete=("b", "card", "older/a", "never/there", "card2"))
    assert names_in(tmp_path) == [
        "b", "card2", "card2/mine", "mine", "part", "part/a", "part/mine",
    ]  # fmt: skip
    assert (tmp_path / "b").read_text() == "new"
    assert (tmp_path / "part" / "mine").read_text() == "old"


def test_the_current_folder_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path(), "old")
    save(Path("."), "new")
    assert Path("b").read_text() == "new"


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "b" / "mine").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"Could not write .* \(.*b is a folder\)"):
        save(tmp_path, "new")
    assert (tmp_path / "b" / "mine").is_dir()
    assert not (tmp_path / "part" / "a").exists()


@pytest.mark.parametrize("error", [KeyError, ValueError, CheckpointError])
def test_a_failed_block_leaves_no_folder(error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="of the block"), replacing_folder(tmp_path / "a" / "b"):
        raise error("of the block")
    assert names_in(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    save(tmp_path, "old")
    code = """
with replacing_folder(sys.argv[1]) as built, replacing(Path(sys.argv[1], "b")) as file:
    write_text(built / "b", "new")
    file.write(b"half")
    tell()
"""
    kill_when_told(run_child(code, tmp_path))
    assert len(list(tmp_path.glob(".dallemini-*"))) == 2
    finish_folder(tmp_path)
    assert (tmp_path / "b").read_text() == "old"
    save(tmp_path, "newer")
    assert names_in(tmp_path) == ["b", "part", "part/a"]


def test_what_a_living_writer_is_writing_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "one") as file, replacing_folder(tmp_path) as built:
        write_text(tmp_path / "two", "text")
        file.write(b"text")
        write_text(built / "three", "text")
    assert names_in(tmp_path) == ["one", "three", "two"]


@pytest.mark.parametrize(("step", "opened"), [*enumerate(["", "part", "part/a", "b"])])
def test_a_save_that_was_killed_while_moving_is_finished(
    opened: str, step: int, tmp_path: Path
) -> None:
    save(tmp_path, "old")
    write_text(tmp_path / "card", "old")
    code = """
from dallemini import files
steps, step = 0, int(sys.argv[2])
def stopping(move):
    def moved(*arguments, **keywords):
        global steps
        if "dallemini-saved" in str(arguments[0]):
            if steps == step:
                tell()
            steps += 1
        return move(*arguments, **keywords)
    return moved
os.replace, os.unlink = stopping(os.replace), stopping(os.unlink)
files.shutil.rmtree = stopping(files.shutil.rmtree)
with replacing_folder(sys.argv[1], obsolete=["card"]) as built:
    (built / "part").mkdir()
    write_text(built / "part" / "a", "new")
    write_text(built / "b", "new")
tell()
"""
    kill_when_told(run_child(code, tmp_path, step))
    finish_folder(tmp_path / opened)
    assert names_in(tmp_path) == ["b", "part", "part/a"]
    assert (tmp_path / "b").read_text() == (tmp_path / "part" / "a").read_text() == "new"


def test_a_part_that_is_reached_by_a_link_is_finished(tmp_path: Path) -> None:
    save(tmp_path / "model", "old")
    with replacing_folder(tmp_path / "other") as built:
        write_text(built / "b", "new")
    saved = tmp_path / "model" / ".dallemini-saved"
    saved.mkdir()
    (tmp_path / "other").rename(saved / "files")
    (saved / "obsolete.json").write_text("[]")
    (tmp_path / "link").symlink_to(tmp_path / "model" / "part")
    finish_folder(tmp_path / "link")
    assert (tmp_path / "model" / "b").read_text() == "new"


def test_a_save_that_cannot_be_finished_is_told(tmp_path: Path) -> None:
    (tmp_path / ".dallemini-saved" / "files").mkdir(parents=True)
    (tmp_path / ".dallemini-saved" / "obsolete.json").write_text("[]")
    (tmp_path / ".dallemini-saved" / "files" / "b").touch()
    (tmp_path / "b" / "mine").mkdir(parents=True)
    told = re.escape(f"{tmp_path} holds a mixture of two saves")
    with pytest.raises(StorageError, match=told + r".*Make it writable and call again"):
        finish_folder(tmp_path)


@pytest.mark.parametrize("name", ["{outside}", "../outside", "link/outside", "a/../../outside"])
@pytest.mark.parametrize("place", ["obsolete", "files"])
def test_a_folder_of_a_stranger_reaches_nothing_outside(
    place: str, name: str, tmp_path: Path
) -> None:
    (outside := tmp_path / "outside").write_text("mine")
    saved = tmp_path / "model" / ".dallemini-saved"
    (saved / "files").mkdir(parents=True)
    (tmp_path / "model" / "link").symlink_to(tmp_path)
    names = [name.format(outside=outside)] if place == "obsolete" else []
    (saved / "obsolete.json").write_text(json.dumps(names))
    if place == "files":
        (saved / "files" / "link").mkdir()
        (saved / "files" / "link" / "outside").write_text("theirs")
    with pytest.raises(StorageError, match=r"not left by an interrupted save .*; remove it"):
        finish_folder(tmp_path / "model")
    assert outside.read_text() == "mine"


def test_a_link_in_the_place_of_a_save_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "mine", "old")
    (saved := tmp_path / "model" / ".dallemini-saved").mkdir(parents=True)
    (saved / "obsolete.json").write_text("[]")
    (saved / "files").symlink_to(tmp_path / "mine")
    with pytest.raises(StorageError, match="files is no folder"):
        finish_folder(tmp_path / "model")
    assert (tmp_path / "mine" / "b").exists()


@pytest.mark.parametrize("content", ["{", "[" * 10_000, "{}", "[3]", "\\xff"])
def test_a_broken_list_of_what_a_save_replaces_is_refused(content: str, tmp_path: Path) -> None:
    (saved := tmp_path / ".dallemini-saved").mkdir()
    (saved / "files").mkdir()
    (saved / "obsolete.json").write_text(content)
    with pytest.raises(StorageError, match="not left by an interrupted save") as caught:
        finish_folder(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.thorough
def test_savers_at_once_leave_one_of_their_saves(tmp_path: Path) -> None:
    code = """
for _ in range(10):
    with replacing_folder(sys.argv[1]) as built:
        for number in range(10):
            write_text(built / str(number), sys.argv[2])
"""
    children = [run_child(code, tmp_path, number) for number in range(3)]
    assert [child.communicate()[0] for child in children] == [b"", b"", b""]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert names_in(tmp_path) == [str(number) for number in range(10)]
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 1


WRITING = re.compile(
    r"\.(write_text|write_bytes|mkdir|touch|rmdir)\(|os\.(replace|rename|makedirs|mkdir)\("
    r"|\bopen\([^)\n]*[\"'][wax][b+]*[\"']"
)
# A journal that grows, a folder that is built to be renamed, or none that anybody keeps.
OTHERS = {
    "app/web.py": 1,  # the folder of a session's pictures, which is temporary
    "cli/__init__.py": 1,  # nowhere
    "data/download.py": 1,  # a journal
    "data/tokens.py": 2,  # in a folder that `cache` renames
    "evaluation/saved_report.py": 2,  # in a folder that is put in place as a whole
    "pipeline/bulk.py": 1,  # a journal
    "training/checkpoint.py": 4,  # whose folder takes its name when all processes have written
    "training/monitor.py": 1,  # a journal
    "training/uploads.py": 1,  # a folder of links to upload
}


def test_files_are_written_in_one_place() -> None:
    package = Path(files.__file__).parent
    found = {
        path.relative_to(package).as_posix(): sum(
            len(WRITING.findall(line))
            for line in path.read_text().splitlines()
            if not line.lstrip().startswith((">>>", "..."))
        )
        for path in package.rglob("*.py")
    }
    found = {name: count for name, count in found.items() if count}
    assert found.pop("files.py") > 5
    assert found == OTHERS
