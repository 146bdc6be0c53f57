"""A list of pictures in JSON: an object a line, as `metadata.jsonl` has them, or all in one value.

Lines are read when they are asked for; in memory is only where each begins. One value is held:
an array of objects, `{"cat.jpg": "a cat"}` or `{"cat.jpg": {"caption": "a cat"}}` as trainers of
other models write it, or `images` and `annotations` as COCO has them.
"""

from __future__ import annotations

import collections
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import Fields, all_filters, check_any_left, check_filters
from .files import LARGEST_TEXT, check_content, read_head, read_regular

_LARGEST_LIST = 2**29  # bytes of a list that is held whole
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
    skipped: tuple[BadRecord, ...] = ()

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


class JsonList:
    """Records of one file that is one JSON.

    Args:
        path: the file; paths in it are relative to its folder.
        config: columns and filters.

    Raises:
        InputError: it is no list of pictures, a column is missing, or nothing passes the filters.
    """

    blocks = None
    skipped: tuple[BadRecord, ...] = ()

    def __init__(self, path: Path, config: DataConfig) -> None:
        self.path = path
        try:
            value = json.loads(read_regular(path, most=_LARGEST_LIST).decode("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read as JSON: {str(error)[:200]}.") from error
        rows = _rows(value)
        columns = dict.fromkeys(name for row in rows if row is not None for name in row)
        if not columns:
            raise InputError(
                f'{path} is no list of pictures: that is {{"cat.jpg": "a cat", ...}}, or '
                '[{"file_name": "cat.jpg", "caption": "a cat"}, ...].'
            )
        filters = all_filters(config)
        check_filters(filters, columns, name=str(path))
        self.rows = [
            (place, row)
            for place, row in enumerate(rows)
            if row is None or all(f.passes(row.get(f.column)) for f in filters)
        ]
        check_any_left(len(self.rows), len(rows), filters, name=str(path))
        self.fields = Fields.choose(columns, config, name=str(path))

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: the entry is no object, or `Fields.record` refuses it.
        """
        number, row = self.rows[index]
        place = f"{self.path.name}:{number}"
        if row is None:
            raise BadRecordError(BadRecord(place, "broken metadata", "the entry is no JSON object"))
        return self.fields.record(row, folder=self.path.parent, place=place)


def open_json(path: Path, config: DataConfig) -> JsonLines | JsonList:
    """Open a list of pictures in JSON lines, or in one JSON whatever its name ends in.

    Raises:
        InputError: it is something else; and as `JsonLines` and `JsonList`.
    """
    with contextlib.suppress(OSError):  # which those explain
        check_content(path)
    if path.suffix.lower() == ".json":
        return JsonList(path, config)
    head = read_head(path, 100)[0].removeprefix(b"\xef\xbb\xbf").lstrip()
    return (JsonList if head.startswith(b"[") else JsonLines)(path, config)


def _rows(value: Any) -> list[dict[str, Any] | None]:
    """Return the rows of any of the usual lists; None for what is none."""
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        return _coco_rows(value)
    if isinstance(value, dict):
        texts = (str, list)
        return [
            {"file_name": name, **({"caption": entry} if isinstance(entry, texts) else entry)}
            if isinstance(entry, (*texts, dict))
            else None
            for name, entry in value.items()
        ]
    rows = value if isinstance(value, list) else []
    return [row if isinstance(row, dict) else None for row in rows]


def _coco_rows(value: Mapping[str, Any]) -> list[dict[str, Any] | None]:
    """Return a row for each picture, with all its captions."""
    images, captions = value.get("images"), collections.defaultdict[Any, list[Any]](list)
    for entry in value["annotations"]:
        if isinstance(entry, dict) and isinstance(entry.get("image_id"), int | str):
            captions[entry["image_id"]].append(entry.get("caption"))
    return [
        {**image, "caption": captions.get(image.get("id"), [])} if isinstance(image, dict) else None
        for image in (images if isinstance(images, list) else ())
    ]


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
