"""WebDataset shards: tar files, read from end to end, from a disk, an address or a command.

A record is the files of one name: `000.jpg` with its caption in `000.txt` or in `000.json`, where
its other columns are too; what img2dataset writes. `tar_window` finds them.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ...config import suggest
from ...errors import InputError
from ...foreign import show
from ..captions import NotTextError, read_caption_lines
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import (
    all_filters,
    checked_captions,
    missing_package,
    parse_columns,
    pick_caption_value,
    simple_columns,
)
from .files import LARGEST_PICTURE, LARGEST_TEXT, check_regular
from .tar_members import read_members
from .tar_window import WINDOW, Unit, Window, parse_name

_SORT = (
    f"files of one name lie more than {WINDOW >> 20} MB apart: write the tar sorted by name "
    "(tar --sort=name)"
)
_logger = logging.getLogger("dallemini.data")


class TarShards:
    """Records of tar shards.

    Args:
        urls: files, http(s):// addresses, pipe: commands, or what else `webdataset` opens.
        config: fields and filters, which look at the .json of a record.

    Raises:
        MissingDependencyError: webdataset is not installed.
        InputError: addresses of this kind are not opened.
    """

    def __init__(self, urls: tuple[str, ...], config: DataConfig) -> None:
        import_webdataset()
        for url in urls:
            _check_scheme(url)
        self.urls, self.config = urls, config
        self.filters = all_filters(config)
        self.left_out = 0
        self._columns: tuple[str, ...] = ()

    def records(self, url: str) -> Iterator[RawRecord | BadRecord]:
        """Yield what passes the filters, and what is bad; a broken shard ends where it breaks."""
        try:
            stream = _open(url)
        except Exception as error:  # what opens addresses raises anything at all
            yield _broken(url, error)
            return
        window, trouble = Window(), list[Exception]()
        try:
            yield from self._read(stream, url, window, trouble)
        finally:
            try:
                stream.close()
            except OSError as error:  # of the command that fetched it
                trouble.append(error)
        if window.lost:
            detail = f"{window.lost} texts came too long after their pictures; {_SORT}"
            _logger.warning("%s: %s", url, detail)
        if trouble:
            yield _broken(url, trouble[-1])

    def _read(
        self, stream: IO[bytes], url: str, window: Window, trouble: list[Exception]
    ) -> Iterator[RawRecord | BadRecord]:
        """Yield the records of an open tar; `trouble` takes what ends it early."""
        shard = Path(url.split("?")[0]).stem
        members = read_members(stream, self._most)
        while True:
            try:
                member = next(members, None)
            except Exception as error:  # tarfile raises anything at all on broken files
                trouble.append(error)
                member = None
            if member is None:
                break
            name = parse_name(member.name, self.config)
            for unit in window.add(name, member) if name else ():
                yield from self._records(unit, shard)
        for unit in window.end():
            yield from self._records(unit, shard)

    def _most(self, name: str) -> int:
        """Return how many bytes of a file are wanted at most."""
        parsed = parse_name(name, self.config)
        if parsed is None or parsed.kind == "other":
            return 0
        return LARGEST_PICTURE if parsed.kind == "image" else LARGEST_TEXT

    def _records(self, unit: Unit, shard: str) -> Iterator[RawRecord | BadRecord]:
        """Yield the record of a unit, unless it does not pass, and the pictures too many."""
        key = f"{shard}/{unit.name.stem}"
        if "image" in unit.files or not unit.rest:
            record = _second(key, unit.first) if unit.first else self._record(unit, key)
            if record is not None:
                yield record
        for member in unit.rest:
            yield _second(f"{shard}/{member.name}", unit.name.stem)

    def describe_left_out(self) -> str:
        """Say how many records did not pass the filters in this process, and why that may be."""
        if not self.left_out:
            return ""
        missing = [f.column for f in self.filters if f.column not in self._columns]
        listed = " and ".join(repr(str(condition)) for condition in self.filters)
        hint = ""
        if missing:
            hint = (
                f"; the last one had no column {missing[0]!r}.{suggest(missing[0], self._columns)}"
            )
        return f" {self.left_out} were left out by {listed}{hint}"

    def _record(self, unit: Unit, key: str) -> RawRecord | BadRecord | None:
        """Make a record of the files of one name, or None if it does not pass."""
        try:
            columns = _columns(unit, key)
            if self.filters:
                self._columns = tuple(columns)
                if not all(f.passes(columns.get(f.column)) for f in self.filters):
                    self.left_out += 1
                    return None
            in_json, value = pick_caption_value(columns, self.config)
            image = _image(unit, key)
            captions = checked_captions(
                _lines(unit, key, self.config) if in_json is None else value,
                key,
                require=self.config.require_captions,
            )
        except BadRecordError as error:
            bad = error.record
            hint = f"; {_SORT}" if unit.is_cut and bad.reason in ("no caption", "no image") else ""
            return dataclasses.replace(bad, detail=bad.detail + hint)
        return RawRecord(
            key=key, image=image, captions=captions, columns=simple_columns(columns, {in_json})
        )


def import_webdataset() -> Any:
    """Return `webdataset`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise missing_package("webdataset", "Tar shards") from error
    return webdataset


def _check_scheme(url: str) -> None:
    """Refuse an address that nothing here can fetch."""
    from webdataset.gopen import gopen_schemes, rewrite_url

    scheme, is_address, _ = str(rewrite_url(url)).partition("://")
    if is_address and scheme.isalnum() and scheme not in {*gopen_schemes, "file"}:
        raise InputError(
            f"{show(url, most=200)[1:-1]}: addresses that begin with {scheme}:// are not opened. "
            "Name a command that prints the tar, such as 'pipe:aws s3 cp s3://bucket/a.tar -', or "
            "download it."
        )


def _open(url: str) -> IO[bytes]:
    path = Path(url.removeprefix("file://") if url.startswith("file://") else url)
    if path.exists():
        check_regular(path)
        return path.open("rb")  # webdataset would leave it open
    stream: IO[bytes] = import_webdataset().gopen(url)
    return stream


def _lines(unit: Unit, key: str, config: DataConfig) -> tuple[str, ...]:
    member = unit.files.get("text")
    if member is None:
        return ()
    if member.content is None:
        raise BadRecordError(BadRecord(key, "no caption", f"{member.name}: {member.trouble}"))
    try:
        return read_caption_lines(member.content, joined=config.caption_lines == "joined")
    except NotTextError as error:
        raise BadRecordError(BadRecord(key, "caption is not text", str(error))) from error


def _columns(unit: Unit, key: str) -> dict[str, Any]:
    member = unit.files.get("columns")
    if member is None:
        return {}
    if member.content is None:
        raise BadRecordError(BadRecord(key, "broken metadata", f"its .json: {member.trouble}"))
    return parse_columns(member.content, key, name="its .json")


def _image(unit: Unit, key: str) -> bytes:
    member = unit.files.get("image")
    if member is None:
        listed = ", ".join(unit.listed[:8])
        raise BadRecordError(BadRecord(key, "no image", f"it has only the fields {listed}"))
    if member.content is None:
        raise BadRecordError(BadRecord(key, "no image", member.trouble))
    return member.content


def _second(key: str, first: str) -> BadRecord:
    detail = f"{first} has the texts of this name; set image_column, or name each as its texts"
    return BadRecord(key, "second image", detail)


def _broken(url: str, error: Exception) -> BadRecord:
    if code := re.search(r"exit (\d+) \(read\)", str(error)):
        detail = f"what fetches it failed with exit code {code[1]}; try it in a shell"
        return BadRecord(url, "broken shard", detail)
    reason = error.args[0] if error.args else error  # webdataset adds its streams to them
    return BadRecord(url, "broken shard", f"{type(error).__name__}: {str(reason)[:300]}")
