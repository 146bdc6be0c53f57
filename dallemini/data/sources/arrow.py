"""Reading Parquet and CSV files by pyarrow: which columns there are, and some of the rows."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DalleMiniError, InputError
from ...foreign import show
from ..config import DataConfig
from ..filters import Filter
from ..records import BadRecord
from .base import Fields, all_filters, missing_package
from .delimited import read_cells, read_header
from .files import check_content

LARGEST_GROUP = 2**31  # bytes of a row group with pictures, before compression
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# What pyarrow's own errors are, each of one of these kinds.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    OverflowError,
    NotImplementedError,
    MemoryError,
)
_TAIL = 8  # bytes at the end: the length of the footer, and the magic word
_LARGEST_FOOTER = 2**24  # bytes
_MOST_CHUNKS = 200_000  # row groups times columns
_FEW = 2**26  # bytes that any file may hold
_MOST_TIMES = 15  # how many times larger than its file other contents may be
_NO_VALUES = frozenset(("", "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan"))
_logger = logging.getLogger("dallemini.data")


@dataclass(frozen=True)
class TableFile:
    """What is known of a file before its rows are read.

    Attributes:
        path: the file.
        fields: its columns with pictures and captions.
        names: all its columns.
        wanted: those that records are made of: these two, and the simple ones.
        groups: rows of each row group, where they hold pictures, else None.
        dictionaries: columns of Parquet that are read as `repeated_texts` says.
    """

    path: Path
    fields: Fields
    names: tuple[str, ...]
    wanted: tuple[str, ...]
    groups: tuple[int, ...] | None = None
    dictionaries: tuple[str, ...] = ()


def open_table(path: Path, config: DataConfig) -> TableFile:
    """Look at a Parquet, CSV or TSV file.

    Raises:
        InputError: it is something else, cannot be read, lacks a column, or holds pictures in a row
            group too large for the memory.
        MissingDependencyError: pyarrow is not installed.
    """
    _pyarrow()
    try:
        check_content(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return _open_csv(path, config) if is_csv(path) else _open_parquet(path, config)


def is_csv(path: Path) -> bool:
    """Tell by its ending whether a file is CSV or TSV."""
    return path.suffix.lower() in _DELIMITERS


def read_rows(file: TableFile, columns: Collection[str], *, group: int | None = None) -> Any:
    """Return a pyarrow table of some columns of Parquet, of the whole file or of one row group.

    Raises:
        InputError: the file cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    names = [name for name in file.names if name in columns]
    repeated = list(file.dictionaries)
    try:
        with open_parquet(file.path, read_dictionary=repeated) as parquet:
            footer = parquet.metadata
            if group is None:
                table = parquet.read(columns=names, use_threads=False)
            else:
                footer = footer.row_group(group)
                table = parquet.read_row_group(group, columns=names, use_threads=False)
            if len(table) != footer.num_rows:
                raise _contradiction(file.path, f"{footer.num_rows} rows where {len(table)} are")
            return table
    except UNREADABLE as error:
        if isinstance(error, DalleMiniError):
            raise
        raise InputError(f"{file.path} cannot be read: {short(error)}.") from error


def read_csv(file: TableFile) -> tuple[Any, list[BadRecord]]:
    """Return a pyarrow table of a CSV or TSV file, and the rows that cannot be read.

    Captions and paths are texts, whatever they look like.

    Raises:
        InputError: the file cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    pyarrow = _pyarrow()
    names, fields = file.names, file.fields
    columns: list[list[str]] = [[] for _ in names]
    bad, broken_lines = [], 0
    places = [names.index(name) for name in (fields.image, fields.caption) if name is not None]
    delimiter = _DELIMITERS[file.path.suffix.lower()]
    for line, cells in read_cells(file.path, delimiter, width=len(names), image=places[0]):
        key = f"{file.path.name}:{line}"
        if isinstance(cells, str):
            bad.append(BadRecord(key, "broken metadata", f"line {line}: {cells}"))
        elif not _is_utf8(cells):
            bad.append(BadRecord(key, "caption is not text", f"line {line} is not UTF-8"))
        else:
            broken_lines += any("\n" in cells[place] or "\t" in cells[place] for place in places)
            for values, cell in zip(columns, cells, strict=True):
                values.append(cell)
    if broken_lines:
        _logger.warning(
            "%s: %d captions hold tabs or line breaks; look for quotes that are not closed",
            file.path,
            broken_lines,
        )
    arrays = {
        name: pyarrow.array(values, pyarrow.string()) if place in places else _typed(values)
        for place, (name, values) in enumerate(zip(names, columns, strict=True))
    }
    return pyarrow.table(arrays), bad


def values_of(column: Any) -> Iterator[Any]:
    """Yield the values of a pyarrow column; None for those that Python cannot hold as they are."""
    for value in column:
        try:
            yield value.as_py()
        except (UnicodeDecodeError, ValueError, OverflowError):
            yield None


def short(error: BaseException) -> str:
    """Return the first line of what a library says, which may quote whole files."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def repeated_texts(footer: Any) -> tuple[str, ...]:
    """Return the columns of texts or bytes that are stored as numbers of a list of values.

    They are to be read as such (`read_dictionary`): a megabyte that is named a million times is a
    small file, and would not fit into any memory.
    """
    names: dict[str, None] = {}
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.has_dictionary_page and chunk.physical_type == "BYTE_ARRAY":
                names[chunk.path_in_schema] = None
    return tuple(names)


def open_parquet(path: Path, **options: Any) -> Any:
    """Open a `ParquetFile`, after a look at how long its footer says that it is.

    Args:
        path: the file.
        **options: of pyarrow's `ParquetFile`.

    Raises:
        InputError: the footer is longer than any that describes pictures.
        Exception: one of `UNREADABLE`: the file is none, or damaged.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        tail = file.read(_TAIL)
    length = int.from_bytes(tail[:4], "little")
    if _LARGEST_FOOTER < length < size:  # elsewhere pyarrow says that it is no Parquet
        raise InputError(
            f"{path} has a footer of {length} bytes, but at most {_LARGEST_FOOTER} are read: it "
            "has too many columns or row groups, or is damaged. Write it again, with "
            "row_group_size=1000."
        )
    return _pyarrow().parquet.ParquetFile(path, **options)


def check_footer(path: Path, footer: Any, columns: Collection[str]) -> None:
    """Refuse a footer that contradicts itself, and a file that unpacks to many times its size.

    A footer is believed by whoever reads the rows: how many they are, and how much memory they
    need. Pictures and captions do not pack well, so what needs much more than the file is none.

    Args:
        path: the file.
        footer: pyarrow's metadata of it.
        columns: those that will be read.

    Raises:
        InputError: it does.
    """
    chunks = footer.num_row_groups * footer.num_columns
    if chunks > _MOST_CHUNKS:
        raise InputError(
            f"{path} has {footer.num_row_groups} row groups of {footer.num_columns} columns; write "
            "it again with row_group_size=1000 and the columns that are needed."
        )
    nested = [footer.schema.column(at).max_repetition_level > 0 for at in range(footer.num_columns)]
    size, rows, packed, whole = path.stat().st_size, 0, 0, 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        rows += group.num_rows
        for place, in_list in enumerate(nested):
            chunk = group.column(place)
            values = chunk.num_values
            if not 0 <= group.num_rows <= values or (values > group.num_rows and not in_list):
                raise _contradiction(path, f"{values} values in {group.num_rows} rows")
            if chunk.path_in_schema.partition(".")[0] in columns:
                packed += min(max(chunk.total_compressed_size, 0), size)
                whole += max(chunk.total_uncompressed_size, 4 * values)
    if rows != footer.num_rows:
        raise _contradiction(path, f"{footer.num_rows} rows, but {rows} in its row groups")
    if whole > _FEW and whole > _MOST_TIMES * packed:
        raise InputError(
            f"{path} would unpack {packed} bytes to {whole / 2**30:.1f} GiB, as no pictures and "
            "captions do; it is not read."
        )


def _contradiction(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged: its footer says that it has {what}. Write it again.")


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
            mask &= np.fromiter(map(condition.passes, values_of(column)), bool, len(table))
    return np.flatnonzero(mask)


def _open_parquet(path: Path, config: DataConfig) -> TableFile:
    pyarrow = _pyarrow()
    try:
        with open_parquet(path) as file:
            footer, schema = file.metadata, file.schema_arrow
            check_footer(path, footer, ())
            dictionaries = repeated_texts(footer)
    except UNREADABLE as error:
        if isinstance(error, DalleMiniError):
            raise
        raise InputError(f"{path} cannot be read as Parquet: {short(error)}.") from error
    fields = Fields.choose(schema.names, config, name=str(path))
    needed = {fields.image, fields.caption}
    wanted = [f.name for f in schema if f.name in needed or _is_simple(f.type)]
    filtered = {condition.column for condition in all_filters(config)}
    check_footer(path, footer, {*wanted, *filtered})
    kind, types = schema.field(fields.image).type, pyarrow.types
    if not (types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind)):
        names = tuple(schema.names)
        return TableFile(path, fields, names, tuple(wanted), dictionaries=dictionaries)
    about = [footer.row_group(number) for number in range(footer.num_row_groups)]
    for group in about:
        if group.total_byte_size > LARGEST_GROUP:
            raise InputError(
                f"{path} holds {group.num_rows} pictures in one row group of "
                f"{group.total_byte_size / 2**30:.1f} GiB, which would have to be in memory at "
                "once. Write it again with row_group_size=1000."
            )
    rows = tuple(group.num_rows for group in about)
    return TableFile(path, fields, tuple(schema.names), tuple(wanted), rows, dictionaries)


def _open_csv(path: Path, config: DataConfig) -> TableFile:
    _pyarrow()
    names = read_header(path, _DELIMITERS[path.suffix.lower()])
    fields = Fields.choose(names, config, name=str(path))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"{path} has several columns {show(twice[0])}; give each a name of its own."
        )
    return TableFile(path, fields, tuple(names), tuple(names))


def _typed(values: list[str]) -> Any:
    """Return a column of whole numbers, numbers, truth values, or else texts."""
    pyarrow = _pyarrow()
    texts = pyarrow.array([None if v in _NO_VALUES else v for v in values], pyarrow.string())
    for kind in (pyarrow.int64(), pyarrow.float64(), pyarrow.bool_()):
        try:
            return texts.cast(kind)
        except pyarrow.ArrowInvalid:
            continue
    return pyarrow.array(values, pyarrow.string())


def _is_utf8(cells: Sequence[str]) -> bool:
    """Tell whether texts that were read as UTF-8 were that."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True


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
