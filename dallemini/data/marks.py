"""What encoded tokens were made of: digests by which changed pictures and texts are noticed.

Knows records, not tokens. A picture is known by its key and its bytes; one in a file of more than
`HEAD` bytes by its first ones, its size and the time of its last change, so that a million of them
can be compared without reading terabytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .dataset import CaptionedImages
from .records import BadRecord, DataShard, RawRecord
from .sources.files import read_head

HEAD = 2**16  # bytes of a file that are looked at


@dataclass(frozen=True)
class Mark:
    """Digests of one record: of its picture, and of its captions and other columns."""

    picture: bytes
    texts: bytes = b""


def mark(record: RawRecord | BadRecord) -> Mark:
    """Return the digests of a record; a bad one is known by what is wrong with it."""
    if isinstance(record, BadRecord):
        return Mark(_digest(["bad", record.key, record.reason]))
    if isinstance(record.image, bytes):
        stamp = _digest([len(record.image)], record.image)
    else:
        stamp = _stamp(record.image)
    texts = [record.key, record.captions, dict(record.columns)]
    return Mark(_digest(["good", record.key], stamp), _digest(texts))


def mark_shard(dataset: CaptionedImages, shard: DataShard) -> list[Mark]:
    """Return the digests of all records of a shard; of a tar, one of its file.

    Raises:
        InputError: a file cannot be read any more.
    """
    if shard.url is None:
        return [mark(record) for record in dataset.raw_records(shard)]
    return [Mark(_stamp(Path(shard.url.removeprefix("file://"))))]


def summarize(marks: Iterable[Mark]) -> dict[str, str]:
    """Return what a footer says of the records of a shard."""
    listed = list(marks)
    return {
        "pictures": _digest([], *(each.picture for each in listed)).hex(),
        "texts": _digest([], *(each.texts for each in listed)).hex(),
    }


def origin_of(names: Iterable[str | Path]) -> str:
    """Return a digest of where data come from, absolute where they are files."""
    absolute = [name if "://" in str(name) else os.path.abspath(name) for name in names]
    return _digest(list(map(str, absolute))).hex()


def _stamp(path: Path) -> bytes:
    try:
        head, about = read_head(path, HEAD)
    except (OSError, ValueError):
        return b"unreadable"  # which may change, or be an address
    if about.st_size <= HEAD:
        return _digest([len(head)], head)
    return _digest([about.st_size, about.st_mtime_ns], head)


def _digest(values: Sequence[object], *contents: bytes) -> bytes:
    text = json.dumps(values, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    for content in contents:
        digest.update(content)
    return digest.digest()
