"""Files of strangers: folders walked once each, and regular files read up to a largest size.

Knows paths and bytes, not what is in them. A folder may link to itself, and a name may stand for a
device that never ends or a pipe into which nobody writes; none of these is read without end.
"""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError, MissingFileError
from ...foreign import HEAD, other_content

LARGEST_PICTURE = 2**27  # bytes of an encoded picture
LARGEST_TEXT = 2**24  # bytes of a file of captions, of a line, or of a JSON object
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
_logger = logging.getLogger("dallemini.data")


class NotRegularError(OSError):
    """A name stands for something else than a file, or for a file that is too large."""


def read_regular(path: Path, *, most: int) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        NotRegularError: it is something else, or has more than `most` bytes.
        OSError: it cannot be read.
        ValueError: no file can have this name.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        about = os.fstat(file.fileno())
        _check_regular(about)
        content = file.read(most + 1) if about.st_size <= most else None
    if content is None or len(content) > most:
        raise NotRegularError(f"it has more than {most} bytes")
    return content


def read_head(path: Path, size: int) -> tuple[bytes, os.stat_result]:
    """Return the first bytes of a regular file, and what the system says of it.

    Raises:
        NotRegularError: it is something else.
        OSError: it cannot be read.
        ValueError: no file can have this name.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        about = os.fstat(file.fileno())
        _check_regular(about)
        return file.read(size), about


def check_content(path: Path) -> None:
    """Refuse a file that is something else than it is called: a pointer, a web page, nothing.

    Raises:
        InputError: it is.
        NotRegularError: as `read_head`; and the others that it names.
    """
    if problem := other_content(read_head(path, HEAD)[0]):
        raise InputError(f"{path} {problem}")


def check_regular(path: Path) -> None:
    """Refuse what is no regular file.

    Raises:
        MissingFileError: there is nothing of this name.
        InputError: it is a folder, a device, a named pipe or a socket.
    """
    try:
        _check_regular(os.stat(path))
    except FileNotFoundError as error:
        raise MissingFileError(f"There is no file or folder {str(path)!r}.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder below one, itself included, with the names of what else is in it.

    Links to folders are followed, after the folders that lie here themselves. Each real folder
    comes once, so that a link to itself or to one of its parents leads nowhere. Hidden folders and
    files are left out.
    """
    real = folder.resolve()
    seen = {_identity(parent) for parent in real.parents}
    waiting, links = deque([folder]), deque[Path]()
    while waiting or links:
        current = waiting.popleft() if waiting else links.popleft()
        try:
            if (identity := _identity(current)) in seen:
                continue
            seen.add(identity)
            with os.scandir(current) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            _logger.warning("skipped the folder %s: %s", current, error.strerror)
            continue
        names = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                names.append(entry.name)
            else:
                (links if entry.is_symlink() else waiting).append(current / entry.name)
        yield current, names


def expand_pattern(pattern: str) -> list[str]:
    """Return what a pattern fits, sorted; `**` stands for each real folder once."""
    before, found, after = pattern.partition("**")
    if not found or (before and not before.endswith("/")) or (after and not after.startswith("/")):
        return sorted(glob.glob(pattern))
    rest = after.strip("/") or "*"
    names: dict[str, None] = {}
    for start in sorted(glob.glob(before)) if before else ["."]:
        for folder, _ in walk(Path(start)):
            inside = glob.escape(str(folder)) + "/" if before or str(folder) != "." else ""
            names.update(dict.fromkeys(expand_pattern(inside + rest)))
    return sorted(names)


def _open_at_once(path: str, flags: int) -> int:
    """Open without blocking: a named pipe would otherwise wait for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _identity(path: Path) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_dev, about.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, for example: to be counted when it is read
        return False


def _check_regular(about: os.stat_result) -> None:
    kind = stat.S_IFMT(about.st_mode)
    if kind != stat.S_IFREG:
        raise NotRegularError(f"it is {_KINDS.get(kind, 'something else')}, not a file")
