"""Whether a file in the Hub's cache has the bytes that its name promises.

The client compares sizes only. A blob's name is its SHA-256, or for a small file the SHA-1 that git
gives it; each is compared once, and the cache remembers which were good.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import HubError, StorageError
from ..files import make_folder, write_text

_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_PIECE = 1 << 20
_good: set[tuple[str, str]] = set()


def with_right_bytes(
    path: Path, notes: Path, *, name: str, download: Callable[[], Path] | None
) -> Path:
    """Return the path of a cached file, downloaded again if its bytes are not the Hub's.

    Args:
        path: of the file in a snapshot; a link to a blob, else nothing can be compared.
        notes: folder that remembers good blobs.
        name: of the file, for messages.
        download: fetches the file; None while offline.

    Raises:
        HubError: the bytes are wrong, and wrong again after a new download.
        As `download` raises.
    """
    if _is_right(path, notes):
        return path
    if download is None:
        raise HubError(
            f"Offline: {name} in the cache ({path}) is damaged: its bytes are not those that the "
            "Hub names. Call once with a network connection, which downloads it again."
        )
    _remove(path)
    path = download()
    if _is_right(path, notes):
        return path
    _remove(path)
    raise HubError(
        f"{name} came with other bytes than the Hub names, twice; nothing of it was kept. Look for "
        "a proxy or a mirror (HF_ENDPOINT) that changes files, or try again later."
    )


def _is_right(path: Path, notes: Path) -> bool:
    blob = Path(os.path.realpath(path))
    if not _DIGEST.fullmatch(blob.name):
        return True
    found = blob.stat()
    state = f"{found.st_size} {found.st_mtime_ns}"
    note = notes / blob.name
    if (str(blob), state) in _good or _read(note) == state:
        return True
    if blob.name not in _digests(blob, found.st_size):
        return False
    _good.add((str(blob), state))
    with contextlib.suppress(StorageError):  # in a cache that cannot be written it is read again
        write_text(make_folder(notes) / blob.name, state)
    return True


def _read(note: Path) -> str | None:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _digests(blob: Path, size: int) -> set[str]:
    """Return what the name of a blob may be: SHA-256, git's SHA-1, and that of some mirrors."""
    kinds = [hashlib.sha256()]
    if len(blob.name) == 40:
        git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        kinds = [git, hashlib.sha1(usedforsecurity=False)]
    with blob.open("rb") as file:
        while piece := file.read(_PIECE):
            for kind in kinds:
                kind.update(piece)
    return {kind.hexdigest() for kind in kinds}


def _remove(path: Path) -> None:
    """Remove a link and its blob, so that the client downloads it again."""
    for file in (Path(os.path.realpath(path)), path):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{file} has not the bytes that the Hub names and cannot be removed "
                f"({error.strerror}). Delete it and call again."
            ) from error
