"""Reading Parquet and CSV files by pyarrow: which columns there are, and some of the rows."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..config import DataConfig
from ..filters import Filter
from .base import Fields, missing_package

LARGEST_GROUP = 2**31  # bytes of a row group with pictures, before compression
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_UNREADABLE = OSError, ValueError, KeyError  # pyarrow's own errors are of these kinds


@dataclass(frozen=True)
class TableFile:
    """What is known of a file before its rows are read.

    Attributes:
        path: the file.
        fields: its columns with pictures and captions.
        names: all its columns.
        wanted: those that records are made of: these two, and the simple ones.
        groups: rows of each row group, where they hold pictures, else None.
    """

    path: Path
    fields: Fields
    names: tuple[str, ...]
    wanted: tuple[str, ...]
    groups: tuple[int, ...] | None = None


def open_table(path: Path, config: DataConfig) -> TableFile:
    """Look at a Parquet, CSV or TSV file.

    Raises:
        InputError: it cannot be read, lacks a column, or holds pictures in a row group too large
            for the memory.
        MissingDependencyError: pyarrow is not installed.
    """
    return _open_csv(path, config) if is_csv(path) else _open_parquet(path, config)


def is_csv(path: Path) -> bool:
    """Tell by its ending whether a file is CSV or TSV."""
    return path.suffix.lower() in _DELIMITERS


def read_rows(file: TableFile, columns: Collection[str], *, group: int | None = None) -> Any:
    """Return a pyarrow table of some columns, of the whole file or of one row group.

    Raises:
        InputError: the file cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    names = [name for name in file.names if name in columns]
    try:
        if is_csv(file.path):
            return _read_csv(file, names)
        with _pyarrow().parquet.ParquetFile(file.path) as parquet:
            if group is None:
                return parquet.read(columns=names, use_threads=False)
            return parquet.read_row_group(group, columns=names, use_threads=False)
    except _UNREADABLE as error:
        raise InputError(f"{file.path} cannot be read: {error}.") from error


def passing_rows(table: Any, filters: Sequence[Filter]) -> NDArray[np.int64]:
    """Return the numbers of the rows that pass all filters, i64."""
    mask = np.ones(len(table), dtype=bool)
    types = _pyarrow().types
    for condition in filters:
        column = table.column(condition.column)
        numeric = types.is_integer(column.type) or types.is_floating(column.type)
        if numeric and isinstance(condition.value, float):
            mask &= condition.passes_all(column.to_numpy())
        else:
            mask &= np.fromiter(map(condition.passes, column.to_pylist()), bool, len(table))
    return np.flatnonzero(mask)


def _open_parquet(path: Path, config: DataConfig) -> TableFile:
    pyarrow = _pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            footer, schema = file.metadata, file.schema_arrow
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}.") from error
    fields = Fields.choose(schema.names, config, name=str(path))
    needed = {fields.image, fields.caption}
    wanted = [f.name for f in schema if f.name in needed or _is_simple(f.type)]
    kind, types = schema.field(fields.image).type, pyarrow.types
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind)):
        return TableFile(path, fields, tuple(schema.names), tuple(wanted))
    about = [footer.row_group(number) for number in range(footer.num_row_groups)]
    for group in about:
        if group.total_byte_size > LARGEST_GROUP:
            raise InputError(
                f"{path} holds {group.num_rows} pictures in one row group of "
                f"{group.total_byte_size / 2**30:.1f} GiB, which would have to be in memory at "
                "once. Write it again with row_group_size=1000."
            )
    rows = tuple(group.num_rows for group in about)
    return TableFile(path, fields, tuple(schema.names), tuple(wanted), rows)


def _open_csv(path: Path, config: DataConfig) -> TableFile:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names = next(csv.reader(file, delimiter=_DELIMITERS[path.suffix.lower()]), [])
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as text: {error}.") from error
    fields = Fields.choose(names, config, name=str(path))
    return TableFile(path, fields, tuple(names), tuple(names))


def _read_csv(file: TableFile, names: list[str]) -> Any:
    """Read columns; captions and paths are texts, whatever they look like."""
    pyarrow = _pyarrow()
    texts = {file.fields.image, file.fields.caption} & set(names)
    return pyarrow.csv.read_csv(
        file.path,
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=_DELIMITERS[file.path.suffix.lower()], newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(texts, pyarrow.string())
        ),
    )


def _is_simple(kind: Any) -> bool:
    types = _pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    checks = types.is_boolean, types.is_integer, types.is_floating
    return any(check(kind) for check in (*checks, types.is_string, types.is_large_string))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise missing_package("pyarrow", "Parquet and CSV files") from error
    return pyarrow
