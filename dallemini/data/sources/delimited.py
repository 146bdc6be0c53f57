"""CSV and TSV files as people write them, row by row: a broken row never costs its neighbours.

A quote that is not closed would make one caption of all rows up to the next quote, so a row goes
over several lines only where none of these is a row by itself. Nothing here knows columns by name.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ...errors import InputError
from .base import IMAGE_ENDINGS
from .files import LARGEST_TEXT

_MOST_LINES = 100  # of one row
_PICTURE = re.compile(rf"\.({'|'.join(IMAGE_ENDINGS)})$", re.IGNORECASE)
_OPEN = "unexpected end of data"  # what csv says where a quote is not closed


def read_header(path: Path, delimiter: str) -> list[str]:
    """Return the names in the first line that is not blank.

    Raises:
        InputError: the file cannot be read as text.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = _Rows(file, path, delimiter)
            header = next((cells for _, cells in rows.cells() if isinstance(cells, list)), [])
            "".join(header).encode()  # surrogates stand for bytes that are not UTF-8
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}.") from error
    return header


def read_cells(
    path: Path, delimiter: str, *, width: int, image: int
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the rows below the header.

    Args:
        path: the file. Bytes that are not UTF-8 become surrogates.
        delimiter: between cells. Where it is a tab, quotes that do not surround a cell are text.
        width: number of columns.
        image: the column with the picture, whose ending tells a row from a line of a caption.

    Yields:
        The number of a row's first line, from 1, and its cells, or what is wrong with it.

    Raises:
        InputError: the file cannot be read, or has lines too long for a table.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = _Rows(file, path, delimiter, width=width, image=image).cells()
            next(rows, None)
            for number, cells in rows:
                if isinstance(cells, list) and len(cells) != width:
                    cells = f"it has {len(cells)} cells instead of {width}"
                yield number, cells
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error


class _Rows:
    """The lines of a file, and the rows that they make."""

    def __init__(
        self, file: TextIO, path: Path, delimiter: str, *, width: int = 0, image: int = 0
    ) -> None:
        self.file, self.path, self.delimiter = file, path, delimiter
        self.width, self.image = width, image
        self.ahead: deque[str] = deque()
        self.number = 0

    def cells(self) -> Iterator[tuple[int, list[str] | str]]:
        """Yield the first line's number and the cells of each row, or what is wrong with it."""
        while line := self._line(0):
            self._take(1)
            if not line.strip(" \r\n"):
                continue
            number = self.number
            if '"' in line:
                yield number, self._quoted(line)
            else:
                yield number, line.rstrip("\r\n").split(self.delimiter)

    def _line(self, place: int) -> str:
        """Return the line so many lines ahead, or nothing at the end."""
        while len(self.ahead) <= place:
            line = self.file.readline(LARGEST_TEXT)
            if len(line) >= LARGEST_TEXT:
                raise InputError(f"{self.path} is no table: a line has {len(line)} letters.")
            self.ahead.append(line)
        return self.ahead[place]

    def _take(self, count: int) -> None:
        self.number += count
        for _ in range(count):
            self.ahead.popleft()

    def _quoted(self, line: str) -> list[str] | str:
        """Return the cells of a row with quotes, which may go on in the lines ahead."""
        text = line
        cells = self._parse(text)
        for place in range(_MOST_LINES):
            if cells != _OPEN or not (more := self._line(place)) or self._is_row(line, more):
                break
            text += more
            cells = self._parse(text) if '"' in more else _OPEN
            if isinstance(cells, list):
                self._take(place + 1)
                return cells
        if isinstance(cells, str) and self.delimiter == "\t":
            return line.rstrip("\r\n").split(self.delimiter)
        return "a quote is not closed" if cells == _OPEN else cells

    def _parse(self, text: str) -> list[str] | str:
        """Return the cells of a text, with quotes doubled or behind a backslash; or the trouble."""
        trouble = ""
        for escape in (None, "\\"):
            try:
                rows = csv.reader([text], delimiter=self.delimiter, strict=True, escapechar=escape)
                return next(iter(rows), [])
            except csv.Error as error:
                trouble = trouble or str(error)
        return trouble

    def _is_row(self, first: str, line: str) -> bool:
        """Tell whether a line that follows an open quote is a row by itself."""
        start, cells = first.split(self.delimiter), line.split(self.delimiter)
        if len(cells) < self.width or self.width < 2:
            return False
        if len(start) > self.image and not _PICTURE.search(start[self.image].strip('"')):
            return len(cells) == self.width
        return bool(_PICTURE.search(cells[self.image].strip('"\r\n')))
