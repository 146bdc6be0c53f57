"""WebDataset shards: tar files, read from end to end, from a disk, an address or a command.

A record is the files of one name: `000.jpg` with its caption in `000.txt` or in `000.json`, where
its other columns are too; what img2dataset writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ...config import suggest
from ..captions import NotTextError, read_caption_lines
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import (
    IMAGE_ENDINGS,
    all_filters,
    checked_captions,
    missing_package,
    pick_caption,
    pick_image,
    simple_columns,
)


class TarShards:
    """Records of tar shards.

    Args:
        urls: files, http(s):// addresses, pipe: commands, or what else `webdataset` opens.
        config: fields and filters, which look at the .json of a record.

    Raises:
        MissingDependencyError: webdataset is not installed.
    """

    def __init__(self, urls: tuple[str, ...], config: DataConfig) -> None:
        import_webdataset()
        self.urls, self.config = urls, config
        self.filters = all_filters(config)
        self.left_out = 0
        self._columns: tuple[str, ...] = ()

    def records(self, url: str) -> Iterator[RawRecord | BadRecord]:
        """Yield what passes the filters, and what is bad; a broken shard ends where it breaks."""
        trouble: list[Exception] = []

        def keep(error: Exception) -> bool:
            trouble.append(error)
            return True

        try:
            stream = _open(url)
        except (OSError, ValueError) as error:
            yield _broken(url, error)
            return
        try:
            for sample in _samples(stream, url, keep):
                record = self._record(sample, url)
                if record is not None:
                    yield record
        finally:
            try:
                stream.close()
            except OSError as error:  # of the command that fetched it
                trouble.append(error)
        if trouble:
            yield _broken(url, trouble[-1])

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

    def _record(self, sample: dict[str, Any], url: str) -> RawRecord | BadRecord | None:
        """Make a record of the files of one name, or None if it does not pass."""
        key = f"{Path(url.split('?')[0]).stem}/{sample['__key__']}"
        fields = {name: value for name, value in sample.items() if not name.startswith("__")}
        try:
            columns = _columns(fields.get("json"), key)
            if self.filters:
                self._columns = tuple(columns)
                if not all(f.passes(columns.get(f.column)) for f in self.filters):
                    self.left_out += 1
                    return None
            in_json = pick_caption([c for c in columns if columns[c] is not None], self.config)
            value = self._lines(fields, key) if in_json is None else columns[in_json]
            return RawRecord(
                key=key,
                image=_image(fields, key, self.config),
                captions=checked_captions(value, key, require=self.config.require_captions),
                columns=simple_columns(columns, {in_json}),
            )
        except BadRecordError as error:
            return error.record

    def _lines(self, fields: dict[str, Any], key: str) -> tuple[str, ...]:
        name = pick_caption(list(fields), self.config)
        try:
            return () if name is None else read_caption_lines(fields[name])
        except NotTextError as error:
            raise BadRecordError(BadRecord(key, "caption is not text", str(error))) from error


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


def _open(url: str) -> IO[bytes]:
    path = Path(url.removeprefix("file://") if url.startswith("file://") else url)
    if path.exists():
        return path.open("rb")  # webdataset would leave it open
    stream: IO[bytes] = import_webdataset().gopen(url)
    return stream


def _samples(stream: IO[bytes], url: str, handler: Any) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    files = tar_file_expander([{"url": url, "stream": stream}], handler=handler)
    samples: Iterator[dict[str, Any]] = group_by_keys(files, handler=handler)
    return samples


def _columns(content: bytes | None, key: str) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRecordError(BadRecord(key, "broken metadata", f"its .json: {error}")) from error
    if not isinstance(row, dict):
        raise BadRecordError(BadRecord(key, "broken metadata", "its .json holds no JSON object"))
    return row


def _image(fields: dict[str, Any], key: str, config: DataConfig) -> bytes:
    name = pick_image(list(fields), config)
    if name is None and config.image_column == DataConfig.image_column:
        endings = {field.rpartition(".")[2]: field for field in reversed(fields)}
        name = next((endings[ending] for ending in IMAGE_ENDINGS if ending in endings), None)
    if name is None:
        listed = ", ".join(fields)
        raise BadRecordError(BadRecord(key, "no image", f"it has only the fields {listed}"))
    content: bytes = fields[name]
    return content


def _broken(url: str, error: Exception) -> BadRecord:
    detail = error.args[0] if error.args else error  # webdataset adds its streams to them
    return BadRecord(url, "broken shard", f"{type(error).__name__}: {detail}")
