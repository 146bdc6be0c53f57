"""Digests of local files, noted in the cache: a file of gigabytes is read through only once.

A note holds for one place as long as the file there has the size, the times and the inode that it
had when it was read. Any other state, and any doubt, means that the file is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ..errors import StorageError
from ..files import make_folder, write_text
from ..hub.source import file_digest

# A file system's clock may tick only every two seconds (FAT): a file that was just written could
# be written again without its time showing it.
_SETTLED_NS = 2_000_000_000


def noted_digest(path: Path, notes: Path) -> str:
    """Return the SHA-256 of a file's content, from the notes if the file is as it was then.

    Args:
        path: the file.
        notes: folder of the notes, made when one is first written. Where it cannot be read or
            written, the file is read instead.

    Raises:
        OSError: the file cannot be read.
    """
    place = Path(os.path.realpath(path))
    note = notes / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"
    state = _state(place)
    if known := _recall(note, state):
        return known
    digest = file_digest(place)
    settled = time.time_ns() - state["modified_ns"] >= _SETTLED_NS
    if settled and _state(place) == state:  # else it was written while it was read
        _write(note, {**state, "sha256": digest})
    return digest


def _state(place: Path) -> dict[str, Any]:
    """Everything that changes when a file is written, replaced or moved."""
    found = place.stat()
    return {
        "path": str(place),
        "size": found.st_size,
        "modified_ns": found.st_mtime_ns,
        "changed_ns": found.st_ctime_ns,  # shows a copy that keeps the time of its original
        "inode": found.st_ino,
    }


def _recall(note: Path, state: dict[str, Any]) -> str | None:
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = known.pop("sha256", None) if isinstance(known, dict) else None
    return digest if isinstance(digest, str) and known == state else None


def _write(note: Path, content: dict[str, Any]) -> None:
    # Without a note the file is read again, which is all that an unwritable cache costs here.
    with contextlib.suppress(StorageError):
        write_text(make_folder(note.parent) / note.name, json.dumps(content))
