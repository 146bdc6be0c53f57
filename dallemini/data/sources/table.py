"""Parquet and CSV files, a record a row.

Where the rows name picture files, everything but the pictures is held in memory. Where Parquet rows
hold the pictures themselves, only a few groups of rows are, read when they are asked for.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..config import DataConfig
from ..filters import Filter
from ..records import BadRecord, BadRecordError, RawRecord
from .arrow import TableFile, is_csv, open_table, passing_rows, read_csv, read_rows
from .base import all_filters, check_any_left, check_filters


@dataclass(frozen=True)
class Group:
    """Rows that are read together: a row group with pictures, or a whole file without.

    Attributes:
        file: where they are.
        number: of the row group, or None for the whole file.
        first: number of the first row in the file.
        rows: those that pass the filters, counted from the first.
    """

    file: TableFile
    number: int | None
    first: int
    rows: Sequence[int] | NDArray[np.int64]


class Table:
    """Records of Parquet, CSV or TSV files.

    Attributes:
        blocks: rows of each group, where they hold pictures and are read when they are asked for.
        skipped: broken rows of CSV and TSV files.

    Args:
        paths: the files; relative paths in one start at its folder.
        config: columns and filters; `shuffle_buffer` says how many rows with pictures are held.

    Raises:
        InputError: a file cannot be read, a column is missing, nothing passes the filters, or a
            row group with pictures is too large for the memory.
        MissingDependencyError: pyarrow is not installed.
    """

    def __init__(self, paths: Sequence[Path], config: DataConfig) -> None:
        self.window = config.shuffle_buffer
        filters = all_filters(config)
        self._tables: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self.groups: list[Group] = []
        self.skipped: list[BadRecord] = []
        total = 0
        for file in [open_table(path, config) for path in paths]:
            check_filters(filters, file.names, name=str(file.path))
            total += self._add(file, filters)
        self.ends: list[int] = np.cumsum([len(group.rows) for group in self.groups]).tolist()
        name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
        if not total and self.skipped:
            first = self.skipped[0]
            raise InputError(
                f"{name} cannot be read: each of its {len(self.skipped)} rows is broken, the first "
                f"is {first.key}: {first.detail}."
            )
        check_any_left(self.ends[-1] if self.ends else 0, total, filters, name=name)
        in_rows = any(group.number is not None for group in self.groups)
        self.blocks = [len(group.rows) for group in self.groups] if in_rows else None
        self.largest = max(len(group.rows) for group in self.groups)

    def _add(self, file: TableFile, filters: Sequence[Filter]) -> int:
        """Note the groups of a file, and return how many rows it has in all."""
        if file.groups is None:
            if is_csv(file.path):
                table, bad = read_csv(file)
                self.skipped += bad
            else:
                columns = {*file.wanted, *(condition.column for condition in filters)}
                table = read_rows(file, columns)
            group = Group(file, None, 0, passing_rows(table, filters))
            self._tables[len(self.groups)] = table.take(group.rows) if filters else table
            self.groups.append(group)
            return len(table)
        first = 0
        for number, length in enumerate(file.groups):
            rows: Sequence[int] | NDArray[np.int64] = range(length)
            if filters:
                columns = {condition.column for condition in filters}
                rows = passing_rows(read_rows(file, columns, group=number), filters)
            if len(rows):
                self.groups.append(Group(file, number, first, rows))
            first += length
        return first

    def __len__(self) -> int:
        return int(self.ends[-1])

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: `Fields.record` refuses the row.
            InputError: the file cannot be read any more.
        """
        number = bisect.bisect_right(self.ends, index)
        group = self.groups[number]
        place = index - (self.ends[number] - len(group.rows))
        fields, path = group.file.fields, group.file.path
        name = f"{path.name}:{group.first + int(group.rows[place])}"
        table = self._table(number)
        row = {}
        for column in table.column_names:
            try:
                row[column] = table.column(column)[place].as_py()
            except (ValueError, OverflowError) as error:  # not UTF-8, or a date of the year 10,000
                if column == fields.caption:
                    bad = BadRecord(name, "caption is not text", f"it is not UTF-8: {error}")
                    raise BadRecordError(bad) from error
        return fields.record(row, folder=path.parent, place=name)

    def _table(self, number: int) -> Any:
        """Return the rows of a group, and hold those groups that are shuffled together."""
        if number not in self._tables:
            group = self.groups[number]
            held = sum(map(len, self._tables.values()))
            while self.blocks is not None and self._tables and held > self.window + self.largest:
                held -= len(self._tables.popitem(last=False)[1])
            if is_csv(group.file.path):
                table = read_csv(group.file)[0]
            else:
                table = read_rows(group.file, group.file.wanted, group=group.number)
            self._tables[number] = table.take(group.rows) if len(group.rows) < len(table) else table
        self._tables.move_to_end(number)
        return self._tables[number]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the rows out: another process reads what it needs."""
        return {**self.__dict__, "_tables": collections.OrderedDict()}
