"""Files of prompts: one a line, or the column or key `prompt` of a table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DalleMiniError, InputError
from ..files import as_path
from ..foreign import check_file, show, show_names
from .captions import NotTextError, read_caption_lines

_LARGEST = 1 << 28  # bytes of a file, and letters of all its prompts
_COLUMN = "prompt"
_NOT_LINES = {
    ".json",
    ".tsv",
    ".yaml",
    ".yml",
    ".xlsx",
    ".xls",
    ".ods",
    ".arrow",
    ".feather",
    ".gz",
    ".zip",
}


def read_prompts(path: str | os.PathLike[str], *, keep_empty: bool = False) -> list[str]:
    r"""Return the prompts in a file, in its order; blank lines of a text file are left out.

    Args:
        path: a `.csv` or `.parquet` table with a column `prompt`, `.jsonl` with a key `prompt` in
            each line, or a text file with one prompt a line.
        keep_empty: let an entry of a table that holds no text be an empty prompt, instead of
            refusing the file.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is not UTF-8, has no column or key `prompt`, holds no prompt, or has the name
            of another kind of table.
        MissingDependencyError: Parquet without pyarrow.

    Example:
        >>> from pathlib import Path
        >>> from dallemini.data.prompts import read_prompts
        >>> _ = Path("prompts.txt").write_text("a red apple\n\na blue bird\n")
        >>> read_prompts("prompts.txt")
        ['a red apple', 'a blue bird']
    """
    file = as_path(path)
    check_file(file, error=InputError, largest=_LARGEST, may_be_empty=True)
    readers = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
    suffix = file.suffix.lower()
    read = readers.get(suffix)
    if suffix in _NOT_LINES:
        raise InputError(
            f"{file}: prompts are not read from {suffix} files; give .txt with one a line, or "
            f".jsonl, .csv or .parquet with {_COLUMN!r} in each line or as a column."
        )
    if read is None:
        return parse_prompts(file.read_bytes(), str(file))
    found = []
    for number, prompt in enumerate(read(file), start=1):
        is_prompt = isinstance(prompt, str) and prompt.strip()
        if not is_prompt and not keep_empty:
            raise InputError(f"{file}: entry {number} has no prompt in {_COLUMN!r}.")
        found.append(str(prompt) if is_prompt else "")
    return _some(found, str(file))


def parse_prompts(content: bytes, name: str) -> list[str]:
    """Return the prompts in the bytes of a text file, one a line.

    Raises:
        InputError: it is not UTF-8, or holds no prompt.
    """
    try:
        return _some([*read_caption_lines(content)], name)
    except NotTextError as error:
        raise InputError(f"{name} is no text: {error}.") from error


def _some(prompts: list[str], name: str) -> list[str]:
    if not prompts:
        raise InputError(f"There is no prompt in {name}.")
    return prompts


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text: it is not UTF-8.") from error


def _read_csv(file: Path) -> Iterable[object]:
    rows = csv.DictReader(io.StringIO(_read_text(file), newline=""))
    try:
        _check_column(rows.fieldnames or [], file)
        return [row[_COLUMN] for row in rows]
    except csv.Error as error:
        raise InputError(f"{file} is no CSV: {error}.") from error


def _read_json_lines(file: Path) -> Iterable[object]:
    for number, line in enumerate(_read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: line {number} is no JSON: {show(line)}.") from error
        if not isinstance(entry, dict) or _COLUMN not in entry:
            raise InputError(f"{file}: line {number} has no key {_COLUMN!r}: {show(line)}.")
        yield entry[_COLUMN]


def _read_parquet(file: Path) -> Iterable[object]:
    from .sources.arrow import (  # here, because few need it
        UNREADABLE,
        check_footer,
        open_parquet,
        repeated_texts,
        short,
        values_of,
    )

    try:
        with open_parquet(file) as table:
            _check_column(table.schema_arrow.names, file)
            check_footer(file, table.metadata, (_COLUMN,))
            repeated = repeated_texts(table.metadata)
        with open_parquet(file, read_dictionary=repeated) as table:
            values = values_of(table.read(columns=[_COLUMN])[_COLUMN])
            left = _LARGEST
            for value in values:
                left -= len(value) if isinstance(value, str) else 0
                if left < 0:
                    raise InputError(f"{file} holds more than {_LARGEST} letters; split it.")
                yield value
    except DalleMiniError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{file} is no Parquet: {short(error)}.") from error


def _check_column(names: Iterable[str], file: Path) -> None:
    known = list(names)
    if _COLUMN not in known:
        raise InputError(
            f"{file} has no column {_COLUMN!r}; it has {show_names(known) or 'none'}. Rename the "
            "one that holds the prompts."
        )
