"""Folders and files: made or said why not, and never half written.

A file is written under another name and renamed. Files that belong together are written into a
hidden folder inside theirs. Renaming that folder is the moment from which they count: from then on
`finish_folder` moves them to their places, at once, or at the next opening or saving if the process
was killed in between. So whoever opens a folder with `finish_folder` finds the old files or the new
ones, and other files in it are never touched. (Exchanging whole folders would touch them, and
cannot be done with a mount point, the current folder, or below a folder without write permission.)

What a killed process left unfinished is locked by nobody; the next writer removes it. Knows nothing
about what the files hold.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import DalleMiniError, InputTypeError, StorageError

PathName = str | os.PathLike[str]
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
GRID_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

_UNFINISHED = ".dallemini-{}.tmp"
_SAVED = ".dallemini-saved"
_FILES, _OBSOLETE = "files", "obsolete.json"
_LARGEST_LIST = 1 << 20  # bytes of the list of what a save replaces
_DAY = 86400


def as_path(name: PathName) -> Path:
    """Return a path, with `~` standing for the user's home as in a shell.

    Raises:
        InputTypeError: it is neither a string nor a path.
    """
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str):
        raise InputTypeError(f"A file or folder is named by a string or a path, not {name!r}.")
    return Path(os.path.expanduser(name))


def make_folder(name: PathName) -> Path:
    """Return a folder that can be written, made with those above it where it is missing.

    Raises:
        InputTypeError: `name` is neither a string nor a path.
        StorageError: the folder cannot be made or written.
    """
    folder = as_path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        raise StorageError(
            f"Could not make {folder} ({_reason(error)}). Choose another folder."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"Could not write to {folder}. Choose another folder.")
    return folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` only when the block succeeds.

    Raises:
        StorageError: the file cannot be written; an older one stays as it was.
    """
    with _explained(path), _unfinished(path.parent) as temporary:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or the name could outlive the contents in a power cut
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `replacing` does.

    Raises:
        StorageError: the file cannot be written; an older one stays as it was.
    """
    with replacing(path) as file:
        file.write(text.encode())


def numbered(path: Path) -> Iterator[Path]:
    """Yield a file's name, then the same with 2, 3, ... before its ending, for `write_beside`.

    Example:
        >>> from itertools import islice
        >>> from pathlib import Path
        >>> from dallemini.files import numbered
        >>> [path.name for path in islice(numbered(Path("apple.png")), 3)]
        ['apple.png', 'apple-2.png', 'apple-3.png']
    """
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def write_beside(paths: Iterable[Path], content: bytes) -> Path:
    """Write a file under the first of these names, all in one folder, that is still free.

    Raises:
        StorageError: the file cannot be written.
    """
    names = iter(paths)
    path = next(names)
    with _explained(path), _unfinished(path.parent) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        while not _take_name(temporary, path):
            path = next(names)
    return path


@contextlib.contextmanager
def replacing_folder(name: PathName, *, obsolete: Iterable[str] = ()) -> Iterator[Path]:
    """Give an empty folder whose files go into the one of this name all at once, or not at all.

    Args:
        name: of the folder, made where it is missing. Other files in it stay.
        obsolete: files in it that must not stay beside the new ones unless written anew, such as
            those of an older save, '/'-joined.

    Raises:
        InputTypeError: `name` is neither a string nor a path.
        StorageError: a file or folder cannot be written; the older files stay as they were.
    """
    path = as_path(name)
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    folder = make_folder(path)
    try:
        finish_folder(folder)
        with _explained(folder), _unfinished(folder, is_folder=True) as built:
            (built / _FILES).mkdir()
            try:
                yield built / _FILES
            except StorageError as error:  # it names a place that the caller does not know
                text = str(error).replace(str(built / _FILES), str(folder))
                raise StorageError(text) from error.__cause__
            _put_in_place(built, folder, set(obsolete))
    except BaseException:
        for empty in missing:
            with contextlib.suppress(OSError):
                empty.rmdir()
        raise


def finish_folder(path: Path) -> None:
    """Move into place what a process saved into a folder as a whole before it was killed.

    A folder may come from a stranger, so nothing outside it is touched, whatever it says was saved.

    Args:
        path: a folder, or a file or folder inside it.

    Raises:
        StorageError: it cannot be moved, so that the folder holds a mixture; or no save left it.
    """
    inside = path if os.path.isdir(path) else path.parent
    for folder in (inside, inside / "..", inside / ".." / ".."):
        if os.path.lexists(folder / _SAVED):
            folder = Path(os.path.realpath(folder))
            with locked(folder):
                if _is_ours(folder / _SAVED, folder):
                    _move(folder / _SAVED, folder)


def _is_ours(saved: Path, folder: Path) -> bool:
    """Tell whether a save was left here for us, and refuse what would reach out of its folder.

    Raises:
        StorageError: says what is strange about it.
    """
    if not os.path.lexists(saved):  # another process was faster
        return False
    users = getattr(os, "geteuid", int)(), os.stat(folder).st_uid
    if os.lstat(saved).st_uid not in users:
        return False
    names: list[str] = []
    problem = ""
    try:
        for part in (saved, saved / _FILES):
            if not stat.S_ISDIR(os.lstat(part).st_mode):
                problem = f"{part.name} is no folder"
        names += _read_obsolete(saved)
        names += _names(saved / _FILES)
    except FileNotFoundError:  # it had been moved, and was being removed
        pass
    except (OSError, ValueError, RecursionError) as error:
        problem = _reason(error)[:200] or type(error).__name__
    for name in names:
        if not _is_inside(folder, name):
            problem = f"{name[:100]!r} is no file of that folder"
    if problem:
        raise StorageError(f"{saved} was not left by an interrupted save ({problem}); remove it.")
    return True


def _is_inside(folder: Path, name: str) -> bool:
    """Tell whether a name is that of a file inside a folder, reached without links."""
    root = os.path.realpath(folder)
    place = os.path.join(root, name)
    parent = os.path.dirname(place)
    return (
        os.path.normpath(place) == place
        and os.path.realpath(parent) == parent
        and os.path.commonpath([place, root]) == root
    )


def _read_obsolete(saved: Path) -> list[str]:
    """Return the names of files that must not stay beside the saved ones.

    Raises:
        OSError: there is no list, or it cannot be read.
        ValueError, RecursionError: it is no list of names.
    """
    path = saved / _OBSOLETE
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_LIST:
        raise ValueError(f"{_OBSOLETE} is no list of names")
    names = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{_OBSOLETE} is no list of names")
    return names


def _put_in_place(built: Path, folder: Path, obsolete: set[str]) -> None:
    """Rename the built folder, after everything has been done that can fail."""
    names = _names(built / _FILES)
    for name in names:
        make_folder((folder / name).parent)
        if (folder / name).is_dir():
            raise IsADirectoryError(f"{folder / name} is a folder")
    (built / _OBSOLETE).write_text(json.dumps(sorted(obsolete - set(names))), encoding="utf-8")
    with locked(folder):
        if os.path.isdir(folder / _SAVED):
            _move(folder / _SAVED, folder)
        os.rename(built, folder / _SAVED)
        _move(folder / _SAVED, folder)


def _move(saved: Path, folder: Path) -> None:
    """Move the files of a saved folder to their places; begun twice it does no harm."""
    try:
        for name in _read_obsolete(saved):
            with contextlib.suppress(OSError):  # it is not there, or it is a folder of the user's
                (folder / name).unlink()
                (folder / name).parent.rmdir()  # where nothing else lies in it
        for name in _names(saved / _FILES):
            os.replace(saved / _FILES / name, folder / name)
    except FileNotFoundError:  # another process was faster
        pass
    except OSError as error:
        raise StorageError(
            f"{folder} holds a mixture of two saves, because what was saved last could not be "
            f"moved into place ({_reason(error)}). Make it writable and call again."
        ) from error
    shutil.rmtree(saved, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    paths = sorted(folder.rglob("*"))
    return [path.relative_to(folder).as_posix() for path in paths if not path.is_dir()]


def _take_name(temporary: Path, path: Path) -> bool:
    """Rename a file unless the name is taken, also by a process that takes it right now."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(path):
            return False
        os.replace(temporary, path)
    return True


@contextlib.contextmanager
def _unfinished(folder: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Make a file or folder of a new name, locked; in the end it is removed if still there."""
    _remove_abandoned(folder)
    while True:
        path = folder / _UNFINISHED.format(uuid.uuid4().hex)
        try:
            path.mkdir() if is_folder else path.touch(exist_ok=False)
            with locked(path, wait=False) as mine:
                if mine is not False and path.exists():  # else it was taken for abandoned
                    yield path
                    return
        finally:
            _remove(path)


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left unfinished that were killed."""
    for left in folder.glob(_UNFINISHED.format("*")):
        with contextlib.suppress(OSError), locked(left, wait=False) as mine:
            if mine or (mine is None and time.time() - left.stat().st_mtime > _DAY):
                _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool | None]:
    """Hold the system's lock on a file or folder, which ends with this process.

    Args:
        path: of what is there.
        wait: for another process to let it go.

    Yields:
        True; False where another process has it; None where there are no such locks.
    """
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        yield None
        return
    try:
        yield _lock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    finally:
        os.close(file)


def _lock(file: int, how: int) -> bool | None:
    import fcntl

    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's errors into ours; others come from what is written and pass."""
    try:
        _check_name(path)
        yield
    except DalleMiniError:
        raise
    except OSError as error:
        raise StorageError(
            f"Could not write {path} ({_reason(error)}). Free some space or choose another folder, "
            "then try again; nothing unfinished was left behind."
        ) from error


def _check_name(path: Path) -> None:
    try:
        os.lstat(path)
    except ValueError as error:  # a name that no file can have
        raise StorageError(f"Could not write {path} ({error}). Choose another name.") from error
    except OSError:
        pass


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
