"""A list of pictures in JSON lines, such as the `metadata.jsonl` of an image folder.

Lines are read when they are asked for; in memory is only where each begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import Fields, all_filters, check_any_left, check_filters
from .files import LARGEST_TEXT

_LOOKED_AT = 100  # lines that tell which columns there are


class JsonLines:
    """Records of one file, a JSON object a line.

    Args:
        path: the file; paths in it are relative to its folder.
        config: columns and filters.

    Raises:
        InputError: no line is an object, a column is missing, or nothing passes the filters.
    """

    blocks = None
    skipped = ()

    def __init__(self, path: Path, config: DataConfig) -> None:
        self.path = path
        filters = all_filters(config)
        columns: dict[str, None] = {}
        seen: set[str] = set()
        starts, total = [], 0
        for start, line in _lines(path):
            row = None
            if filters or total < _LOOKED_AT:
                row = _parse(line)
            total += 1
            if row is not None and total <= _LOOKED_AT:
                columns.update(dict.fromkeys(row))
            if row is not None and filters:
                seen.update(row)
                if not all(condition.passes(row.get(condition.column)) for condition in filters):
                    continue
            starts.append(start)  # a broken line stays, to be counted when it is read
        if total and not columns:
            raise InputError(f"{path} holds no JSON objects, one a line.")
        check_filters(filters, seen, name=str(path)) if total else None
        check_any_left(len(starts), total, filters, name=str(path))
        self.fields = Fields.choose(columns, config, name=str(path))
        self.starts = np.asarray(starts, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: the line is no JSON object, or `Fields.record` refuses it.
        """
        start = int(self.starts[index])
        with self.path.open("rb") as file:
            file.seek(start)
            row = _parse(file.readline(LARGEST_TEXT))
        place = f"{self.path.name}:{start}"
        if row is None:
            raise BadRecordError(
                BadRecord(place, "broken metadata", "the line at this byte is no JSON object")
            )
        return self.fields.record(row, folder=self.path.parent, place=place)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield where each line that is not blank begins, and the line."""
    start = 0
    with path.open("rb") as file:
        while line := file.readline(LARGEST_TEXT):
            if line.strip():
                yield start, line
            start += len(line)
            if len(line) == LARGEST_TEXT:
                raise InputError(f"{path} has a line of {LARGEST_TEXT} bytes; is it a list?")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
