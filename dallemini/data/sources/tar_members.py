"""The files in a tar, one after the other, with bounds on what is read and skipped.

Knows tars and bytes, not pictures. `tarfile` would believe every size that a header names, take a
damaged header for the end, and leave out what follows the end without a word.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from ...foreign import HEAD, other_content
from .files import LARGEST_PICTURE

_LARGEST_HEADER = 2**20  # bytes of a long name, or of what is said of a file besides
_MOST_SKIPPED = 2**28  # bytes, where skipping is reading
_PART = 2**16
_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Member:
    """A file of a tar.

    Attributes:
        name: its path.
        content: its bytes; None where they are not wanted or cannot be had.
        trouble: why they cannot be had.
    """

    name: str
    content: bytes | None = None
    trouble: str = ""


def read_members(stream: IO[bytes], most: Callable[[str], int]) -> Iterator[Member]:
    """Yield what is in a tar, folders left out.

    Args:
        stream: the tar, packed or not.
        most: how many bytes of a file of some name are wanted; 0 where it is only to be named.

    Raises:
        Exception: of any kind, as `tarfile` does: the tar breaks off, is none, or cannot be read.
    """
    forward = _Forward(stream)
    tar = tarfile.TarFile(fileobj=forward, encoding="utf-8")  # type: ignore[arg-type]
    while (about := tar.next()) is not None:
        # Or a tar of a million files would be held in memory.
        tar.members.clear()  # type: ignore[attr-defined]
        if not about.isdir():
            yield _read(tar, about, most(about.name), forward)
    forward.check_end()


def _read(tar: tarfile.TarFile, about: tarfile.TarInfo, most: int, forward: _Forward) -> Member:
    if about.issym() or about.islnk():
        return Member(about.name, trouble=f"it is a link to {about.linkname[:200]}, not followed")
    if not about.isfile():
        return Member(about.name, trouble="it is a device or a named pipe, not a file")
    if about.size > most:
        forward.check_skipping(about)
        return Member(about.name, trouble=f"it has {about.size} bytes" if most else "")
    with forward.large_reads(), tar.extractfile(about) as file:  # type: ignore[union-attr]
        return Member(about.name, file.read())


class _Forward:
    """A tar's bytes, which are read from front to end and never many at once."""

    def __init__(self, stream: IO[bytes]) -> None:
        start = stream.read(HEAD)
        if problem := other_content(start, packed=True):
            raise tarfile.ReadError(f"it {problem.rstrip('.')}")
        if start.startswith(_ZSTD):
            raise tarfile.ReadError("tars packed by zstd are not read; unpack it")
        opener = next((o for magic, o in _OPENERS.items() if start.startswith(magic)), None)
        self.can_jump = opener is None and _is_seekable(stream)
        if self.can_jump:
            stream.seek(0)
        source = stream if self.can_jump else _Pushed(start, stream)
        self.stream: Any = source if opener is None else opener(source)
        self.place, self.limit, self.last = 0, _LARGEST_HEADER, b""

    def read(self, size: int) -> bytes:
        if size > self.limit:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.last = self.stream.read(size)
        self.place += len(self.last)
        return self.last

    def tell(self) -> int:
        return self.place

    def seek(self, place: int) -> None:
        if place < self.place:  # or a tar could lead back to where it began, for ever
            raise tarfile.ReadError("a header that points back")
        if self.can_jump:
            self.stream.seek(place)
            self.place = place
        while self.place < place and (part := self.stream.read(min(place - self.place, _PART))):
            self.place += len(part)

    @contextlib.contextmanager
    def large_reads(self) -> Iterator[None]:
        """Allow a whole file to be read within a `with`."""
        self.limit = LARGEST_PICTURE
        try:
            yield
        finally:
            self.limit = _LARGEST_HEADER

    def check_skipping(self, about: tarfile.TarInfo) -> None:
        """Refuse to unpack gigabytes in order to skip them.

        Raises:
            ReadError: the tar cannot jump over a large file.
        """
        if not self.can_jump and about.size > _MOST_SKIPPED:
            raise tarfile.ReadError(f"{about.name[:200]} in it has {about.size} bytes")

    def check_end(self) -> None:
        """Refuse a tar whose end is none.

        Raises:
            ReadError: a header is damaged, or other data follow.
        """
        if any(self.last):
            raise tarfile.ReadError(f"the header before byte {self.place} is damaged")
        if any(self.stream.read(_PART)):
            raise tarfile.ReadError("it goes on behind its end, as if several had been joined")


class _Pushed:
    """A stream whose first bytes were looked at."""

    def __init__(self, start: bytes, stream: IO[bytes]) -> None:
        self.start, self.stream = start, stream

    def read(self, size: int) -> bytes:
        taken, self.start = self.start[:size], self.start[size:]
        return taken + self.stream.read(size - len(taken)) if len(taken) < size else taken

    def seekable(self) -> bool:
        return False


def _is_seekable(stream: IO[bytes]) -> bool:
    return hasattr(stream, "seekable") and stream.seekable()
