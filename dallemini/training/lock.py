"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import StorageError
from ..files import make_folder
from .distributed import rank, someone

NAME = ".lock"
_held: dict[Path, int] = {}  # folders that this process has locked, with the thread that did


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run's folder, made if missing, for this run; once more in the same thread is fine.

    The system takes the lock away when the process ends, however it ends.

    Raises:
        StorageError: another run has the folder, or it cannot be made or written.
    """
    problem = None
    lock = FileLock(folder / NAME, timeout=0)
    place = folder.resolve()
    if _held.get(place) == threading.get_ident():
        yield
        return
    if rank() == 0:
        problem = _take(lock, folder)
    if someone(problem is not None):
        raise StorageError(problem or f"The first process could not take the folder {folder}.")
    _held[place] = threading.get_ident()
    try:
        yield
    finally:
        del _held[place]
        lock.release()


def _take(lock: FileLock, folder: Path) -> str | None:
    """Take the lock, or return why it cannot be had."""
    try:
        make_folder(folder)
        lock.acquire()
    except StorageError as error:
        return str(error)
    except Timeout:
        return f"Another run is using {folder}: wait until it ends, or take another run folder."
    except (OSError, NotImplementedError):  # a file system without locks
        pass
    return None
