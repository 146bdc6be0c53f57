"""A folder of pictures with their captions in text files beside them.

`cat.jpg` has its captions in `cat.txt`, one a line, and may have other columns, or the caption, in
`cat.json`: what img2dataset writes as files, and what people collect by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..captions import NotTextError, read_caption_lines
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import (
    IMAGE_ENDINGS,
    all_filters,
    check_any_left,
    check_filters,
    checked_captions,
    pick_caption,
    simple_columns,
)

_ENDINGS = tuple(f".{ending}" for ending in IMAGE_ENDINGS)


class PictureFolder:
    """Records of a folder, its subfolders included, in the order of their names.

    Args:
        folder: where the pictures are.
        config: filters, which look at the columns of the .json files.

    Raises:
        InputError: there are no pictures, no captions at all, a column is missing, or nothing
            passes the filters.
    """

    blocks = None

    def __init__(self, folder: Path, config: DataConfig) -> None:
        self.folder, self.config = folder, config
        names = sorted(find_pictures(folder))
        if not names:
            raise InputError(f"{folder} holds no pictures.")
        if config.require_captions and not any(self._has_caption(name) for name in names):
            raise InputError(
                f"None of the {len(names)} pictures in {folder} has a caption: write it to a .txt "
                "file of the same name, or list all in metadata.jsonl as "
                '{"file_name": ..., "caption": ...} a line.'
            )
        filters = all_filters(config)
        self.names = names
        if filters:
            rows = [self._columns_or_none(name) for name in names]
            known = {column for row in rows for column in row or ()}
            check_filters(filters, known, name=f"{folder} (its .json files)")
            self.names = [
                name
                for name, row in zip(names, rows, strict=True)
                if row is None or all(f.passes(row.get(f.column)) for f in filters)
            ]
        check_any_left(len(self.names), len(names), filters, name=str(folder))

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: it has no caption, or its text files are broken.
        """
        name = self.names[index]
        columns = self._columns(name)
        in_json = pick_caption([c for c in columns if columns[c] is not None], self.config)
        value = self._lines(name) if in_json is None else columns[in_json]
        return RawRecord(
            key=name,
            image=self.folder / name,
            captions=checked_captions(value, name, require=self.config.require_captions),
            columns=simple_columns(columns, {in_json}),
        )

    def _has_caption(self, name: str) -> bool:
        path = self.folder / name
        return path.with_suffix(".txt").exists() or path.with_suffix(".json").exists()

    def _lines(self, name: str) -> tuple[str, ...]:
        path = (self.folder / name).with_suffix(".txt")
        try:
            return read_caption_lines(path.read_bytes())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise BadRecordError(BadRecord(name, "no caption", f"{error}")) from error
        except NotTextError as error:
            raise BadRecordError(BadRecord(name, "caption is not text", str(error))) from error

    def _columns(self, name: str) -> dict[str, Any]:
        path = (self.folder / name).with_suffix(".json")
        try:
            row = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise BadRecordError(
                BadRecord(name, "broken metadata", f"{path.name}: {error}")
            ) from error
        if not isinstance(row, dict):
            raise BadRecordError(
                BadRecord(name, "broken metadata", f"{path.name} holds no JSON object")
            )
        return row

    def _columns_or_none(self, name: str) -> dict[str, Any] | None:
        try:
            return self._columns(name)
        except BadRecordError:
            return None  # stays, to be counted when it is read


def find_pictures(folder: Path) -> Iterator[str]:
    """Yield the paths of the pictures below a folder, relative to it; hidden ones are left out."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(_ENDINGS):
                yield (Path(parent) / name).relative_to(folder).as_posix()
