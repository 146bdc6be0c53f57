"""Converted checkpoints in the cache: written once, by one process, and complete or not there.

A conversion appears in its folder when it is finished, so that no reader ever sees half of it. A
lock keeps two processes from doing the same work.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DalleMiniError, DalleMiniWarning, StorageError
from ..files import finish_folder, make_folder, replacing_folder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_temporary: dict[Path, Path] = {}


def convert_once(
    folder: Path, is_usable: Callable[[Path], bool], convert: Callable[[Path], None], *, name: str
) -> Path:
    """Return a folder with a conversion, making it where it is missing or damaged.

    Args:
        folder: its place in the cache.
        is_usable: tells whether a folder holds the whole conversion.
        convert: writes the conversion into an existing empty folder.
        name: what is converted, for messages.

    Returns:
        `folder`; or, where the cache cannot be written, a temporary folder that lives as long as
        this process.

    Raises:
        StorageError: the disk is full. Nothing unfinished is left.
    """
    if is_usable(folder):
        return folder
    if (made := _temporary.get(folder)) and is_usable(made):
        return made
    try:
        _convert_into(folder, is_usable, convert)
        return folder
    except OSError as error:
        if isinstance(error, DalleMiniError) and not isinstance(error, StorageError):
            raise
        cause = error.__cause__ if isinstance(error, StorageError) else error
        reason = getattr(cause, "strerror", None) or str(error)
        if getattr(cause, "errno", None) in _FULL:
            raise StorageError(
                f"{name} could not be converted into {folder.parent} ({reason}). Free some space "
                "or choose another folder with cache_dir= or HF_HOME; nothing unfinished was left."
            ) from error
    warnings.warn(
        f"The cache {folder.parent} cannot be written ({reason}), so {name} is converted into a "
        "temporary folder, which is removed when this process ends; the next process converts it "
        "again. Choose a writable folder with cache_dir= or HF_HOME.",
        DalleMiniWarning,
        stacklevel=2,
    )
    _temporary[folder] = _convert_for_this_process(convert)
    return _temporary[folder]


def _convert_into(
    folder: Path, is_usable: Callable[[Path], bool], convert: Callable[[Path], None]
) -> None:
    make_folder(folder.parent)
    with _locked(folder.with_name(f".{folder.name}.lock")):
        finish_folder(folder)
        if is_usable(folder):  # another process was faster
            return
        try:
            with replacing_folder(folder) as unfinished:
                convert(unfinished)
        except OSError:
            if not is_usable(folder):  # without a lock another process may have come first
                raise


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, where the file system knows locks."""
    from filelock import FileLock  # here, so that only a conversion waits for it

    lock = FileLock(path)
    try:
        lock.acquire()
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _convert_for_this_process(convert: Callable[[Path], None]) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="dallemini-"))
    except OSError as error:
        raise StorageError(
            f"No temporary folder can be made ({error}). Set TMPDIR to a writable folder."
        ) from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    convert(folder)
    return folder
