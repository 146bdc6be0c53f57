"""A folder of pictures with their captions in text files beside them.

`cat.jpg` has its captions in `cat.txt`, one a line, and may have other columns, or the caption, in
`cat.json`: what img2dataset writes as files, and what people collect by hand. `cat.caption` and
`cat.jpg.txt` will do as well, endings in any case, and accents however the file system wrote them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..captions import NotTextError, read_caption_lines
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import (
    IMAGE_ENDINGS,
    TEXT_ENDINGS,
    UNREAD_ENDINGS,
    WITHOUT_CAPTIONS,
    all_filters,
    check_any_left,
    check_filters,
    checked_captions,
    parse_columns,
    pick_caption_value,
    simple_columns,
)
from .files import LARGEST_TEXT, read_regular, walk

_SIDECARS = (*TEXT_ENDINGS, "json")
_ENDINGS = re.compile(r"(\.\w{2,5})?\.\w{2,7}$")


@dataclass(frozen=True)
class FoundPicture:
    """A picture and its sidecars, as paths below the folder.

    Attributes:
        name: the picture.
        text: where its captions are, or would be.
        columns: the .json file where its other columns are, or would be.
        has_any: whether one of the two is there.
    """

    name: str
    text: str
    columns: str
    has_any: bool = True

    @classmethod
    def usual(cls, name: str) -> FoundPicture:
        """Return a picture with sidecars that are called as it is."""
        stem = name.rpartition(".")[0]
        return cls(name, f"{stem}.txt", f"{stem}.json")

    @property
    def is_read(self) -> bool:
        """Whether its kind is one that is read."""
        return _ending(self.name) in IMAGE_ENDINGS

    @property
    def is_usual(self) -> bool:
        """Whether the sidecars are called as the picture."""
        usual = self.usual(self.name)
        return (self.text, self.columns) == (usual.text, usual.columns)


class PictureFolder:
    """Records of a folder, its subfolders included, in the order of their names.

    Attributes:
        skipped: pictures of kinds that are not read, such as SVG.

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
        names, unread, has_any = [], [], False
        # Names take memory: those of sidecars are kept only where they do not follow.
        self._unusual: dict[str, FoundPicture] = {}
        for found in find_pictures(folder):
            if not found.is_read:
                unread.append(found.name)
                continue
            names.append(found.name)
            has_any |= found.has_any
            if not found.is_usual:
                self._unusual[found.name] = found
        names.sort()
        self.skipped = list(map(_unread, sorted(unread)))
        if not names:
            raise InputError(f"{folder} holds no pictures{_describe_unread(self.skipped)}.")
        if config.require_captions and not has_any and config.caption_from == "files":
            raise InputError(
                f"None of the {len(names)} pictures in {folder} has a caption: write it to a .txt "
                "file of the same name, or list all in metadata.jsonl as "
                f'{{"file_name": ..., "caption": ...}} a line; or take the names of folders or '
                'files, by caption_from="folder" or "name" (--data.caption-from folder). '
                f"{WITHOUT_CAPTIONS}"
            )
        self.names = self._filter(names)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: it has no caption, or its text files are broken.
        """
        name = self.names[index]
        if self.config.caption_from != "files":
            return self._named(name)
        found = self._found(name)
        columns = self._columns(found)
        in_json, value = pick_caption_value(columns, self.config)
        return RawRecord(
            key=name,
            image=self.folder / name,
            captions=checked_captions(
                self._lines(found) if in_json is None else value,
                name,
                require=self.config.require_captions,
            ),
            columns=simple_columns(columns, {in_json}),
        )

    def _named(self, name: str) -> RawRecord:
        """Return a record whose caption is the name of its folder or its file."""
        folder, _, file = f"{self.folder.absolute().name}/{name}".rpartition("/")
        is_file = self.config.caption_from == "name"
        word = file.rpartition(".")[0] if is_file else folder.rpartition("/")[2]
        caption = unicodedata.normalize("NFC", re.sub(r"[_\-\s]+", " ", word)).strip()
        captions = checked_captions(caption, name, require=self.config.require_captions)
        columns = simple_columns(self._columns(self._found(name)), ())
        return RawRecord(key=name, image=self.folder / name, captions=captions, columns=columns)

    def _filter(self, names: list[str]) -> list[str]:
        """Return the pictures that pass the filters.

        Raises:
            InputError: a column is missing, or none passes.
        """
        filters = all_filters(self.config)
        if not filters:
            return names
        rows = [self._columns_or_none(name) for name in names]
        known = {column for row in rows for column in row or ()}
        check_filters(filters, known, name=f"{self.folder} (its .json files)")
        passing = [
            name
            for name, row in zip(names, rows, strict=True)
            if row is None or all(f.passes(row.get(f.column)) for f in filters)
        ]
        check_any_left(len(passing), len(names), filters, name=str(self.folder))
        return passing

    def _found(self, name: str) -> FoundPicture:
        return self._unusual.get(name) or FoundPicture.usual(name)

    def _lines(self, found: FoundPicture) -> tuple[str, ...]:
        try:
            joined = self.config.caption_lines == "joined"
            return read_caption_lines(self._read(found.text) or b"", joined=joined)
        except OSError as error:
            raise BadRecordError(BadRecord(found.name, "no caption", f"{error}")) from error
        except NotTextError as error:
            bad = BadRecord(found.name, "caption is not text", str(error))
            raise BadRecordError(bad) from error

    def _columns(self, found: FoundPicture) -> dict[str, Any]:
        try:
            content = self._read(found.columns)
        except OSError as error:
            bad = BadRecord(found.name, "broken metadata", f"{found.columns}: {error}")
            raise BadRecordError(bad) from error
        return {} if content is None else parse_columns(content, found.name, name=found.columns)

    def _read(self, name: str) -> bytes | None:
        """Return what is in a sidecar, if there is one."""
        try:
            return read_regular(self.folder / name, most=LARGEST_TEXT)
        except FileNotFoundError:
            return None

    def _columns_or_none(self, name: str) -> dict[str, Any] | None:
        try:
            return self._columns(self._found(name))
        except BadRecordError:
            return None  # stays, to be counted when it is read


def find_pictures(folder: Path) -> Iterator[FoundPicture]:
    """Yield the pictures below a folder, once each; hidden ones are left out."""
    known = (*IMAGE_ENDINGS, *UNREAD_ENDINGS)
    for parent, names in walk(folder):
        sidecars = {_normal(name): name for name in reversed(names) if _ending(name) in _SIDECARS}
        below = parent.relative_to(folder).as_posix()
        start = "" if below == "." else f"{below}/"
        for name in names:
            if _ending(name) in known:
                yield _with_sidecars(start, name, sidecars)


def _with_sidecars(start: str, name: str, sidecars: Mapping[str, str]) -> FoundPicture:
    """Find `cat.jpg.txt`, `cat.txt` or `cat.caption`, and likewise .json, beside `cat.jpg`."""
    whole = _normal(name)
    stems = whole, whole.rpartition(".")[0]

    def find(*endings: str) -> str | None:
        names = (f"{stem}.{ending}" for stem in stems for ending in endings)
        return next((sidecars[name] for name in names if name in sidecars), None)

    usual = FoundPicture.usual(start + name)
    text, columns = find(*TEXT_ENDINGS), find("json")
    return FoundPicture(
        name=start + name,
        text=usual.text if text is None else start + text,
        columns=usual.columns if columns is None else start + columns,
        has_any=text is not None or columns is not None,
    )


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _normal(name: str) -> str:
    """Return a name as it is compared: letters composed, endings in lower case."""
    return _ENDINGS.sub(lambda found: found[0].lower(), unicodedata.normalize("NFC", name))


def _unread(name: str) -> BadRecord:
    kind = _ending(name).upper()
    return BadRecord(name, "not an image", f"{kind} is not read; convert it to PNG or JPEG")


def _describe_unread(skipped: Sequence[BadRecord]) -> str:
    counts = Counter(_ending(record.key) for record in skipped)
    listed = ", ".join(f"{count} .{ending}" for ending, count in counts.most_common())
    return f" but those of kinds that are not read ({listed}); convert them" if listed else ""
