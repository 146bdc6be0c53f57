"""What every source gives, and the columns that they have in common."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ...config import suggest
from ...errors import InputError, MissingDependencyError
from ...foreign import show, show_names
from ..captions import NotTextError, read_captions
from ..config import DataConfig
from ..filters import Filter, parse_filter
from ..records import BadRecord, BadRecordError, RawRecord

IMAGE_ENDINGS: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
IMAGE_ENDINGS += ("avif", "ppm", "jfif", "jpe", "jp2")
TEXT_ENDINGS = ("txt", "caption")
# Pictures that people have, which PIL alone does not read, or not as pixels.
UNREAD_ENDINGS: tuple[str, ...] = ("svg", "svgz", "heic", "heif", "jxl", "psd", "eps", "ai")
UNREAD_ENDINGS += ("pdf", "xcf", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf")
WITHOUT_CAPTIONS = (
    "Where captions are not needed, as for a VQGAN, set require_captions=False "
    "(--data.require-captions False; of `dallemini encode`: --no-require-captions)."
)
# Names that datasets, img2dataset and the LAION lists use, in the order in which they are tried.
IMAGE_NAMES: tuple[str, ...] = ("image", "file", "file_name", "filename", "path", "image_path")
IMAGE_NAMES += (*IMAGE_ENDINGS, "url", "URL", "image_url")
CAPTION_NAMES = ("caption", "captions", "text", "txt", "TEXT")
DOWNLOADS = "downloads"  # folder beside a table of addresses
_LONGEST_KEY = 1000


class NotDownloadedError(BadRecordError):
    """The picture of a record is an address, and is not at the place that it is fetched to."""

    def __init__(self, key: str, url: str, place: Path) -> None:
        self.url, self.place = url, place
        detail = "it is an address; fetch all by `dallemini data TABLE --download`"
        super().__init__(BadRecord(key, "no image", detail))


class RowSource(Protocol):
    """Records that are reached by their number."""

    @property
    def skipped(self) -> Sequence[BadRecord]:
        """What was found that can be no record, such as broken rows of a table."""

    @property
    def blocks(self) -> Sequence[int] | None:
        """Sizes of the groups of records that are read together, where it matters."""

    def __len__(self) -> int:
        """Return the number of records that pass the filters."""

    def row(self, index: int) -> RawRecord:
        """Return a record; raises BadRecordError."""


@runtime_checkable
class StreamSource(Protocol):
    """Records that are reached one after the other, from several places."""

    @property
    def urls(self) -> tuple[str, ...]:
        """Files, addresses or commands, one for each shard."""

    def records(self, url: str) -> Iterator[RawRecord | BadRecord]:
        """Yield the records of a shard that pass the filters, and what is bad."""

    def describe_left_out(self) -> str:
        """Say how many records did not pass the filters in this process, and why that may be."""


def all_filters(config: DataConfig) -> tuple[Filter, ...]:
    """Return the filters of a configuration, that by score among them."""
    filters = [parse_filter(text) for text in config.where]
    if config.min_clip_score is not None:
        filters.append(Filter(config.clip_score_column, ">=", config.min_clip_score))
    return tuple(filters)


def check_filters(filters: Iterable[Filter], columns: Iterable[str], *, name: str) -> None:
    """Refuse filters on columns that are not there.

    Raises:
        InputError: a filter's column is not among those of the source `name`.
    """
    known = set(columns)
    for condition in filters:
        if condition.column not in known:
            raise InputError(
                f"The filter {show(str(condition))} needs the column {show(condition.column)}, "
                f"which {name} does not have.{suggest(condition.column, known)}"
            )


def check_any_left(left: int, total: int, filters: Sequence[Filter], *, name: str) -> None:
    """Refuse to go on with nothing.

    Raises:
        InputError: there were no records, or none passed the filters.
    """
    if not total:
        raise InputError(f"{name} holds no records.")
    if not left:
        listed = " and ".join(show(str(condition)) for condition in filters[:5])
        raise InputError(f"None of the {total} records of {name} passes {listed}; loosen them.")


@dataclass(frozen=True)
class Fields:
    """Which columns of a source hold the picture and the captions.

    Attributes:
        image: the column with the path or the bytes.
        caption: the column with the captions, if there is one.
        require_captions: as in `DataConfig`.
    """

    image: str
    caption: str | None
    require_captions: bool

    @classmethod
    def choose(cls, columns: Iterable[str], config: DataConfig, *, name: str) -> Fields:
        """Find the columns that a configuration asks for.

        Raises:
            InputError: one of them is not there.
        """
        known = list(columns)
        listed = show_names(known, most=12, length=40) or "none"
        asked_image = show(config.image_column or IMAGE_NAMES[0])
        asked_caption = show(config.caption_column or CAPTION_NAMES[0])
        image = pick_image(known, config)
        if image is None:
            raise InputError(
                f"{name} has no column {asked_image} with pictures; its columns are: "
                f"{listed}. Set DataConfig.image_column."
            )
        caption = pick_caption(known, config)
        if caption is None and config.require_captions:
            raise InputError(
                f"{name} has no column {asked_caption} with captions; its columns are: "
                f"{listed}. Set DataConfig.caption_column. {WITHOUT_CAPTIONS}"
            )
        return cls(image, caption, config.require_captions)

    def record(self, row: Mapping[str, Any], *, folder: Path, place: str) -> RawRecord:
        """Make a record of a row.

        Args:
            row: column to value.
            folder: where relative paths start.
            place: names the record if nothing in it does.

        Raises:
            BadRecordError: it has no picture or no caption, or they are of another kind.
        """
        value = row.get(self.image)
        if isinstance(value, Mapping):  # as `datasets` keeps pictures
            content, path = value.get("bytes"), value.get("path")
            value = path if content is None else content
            key = str(row.get("key") or path or place)[:_LONGEST_KEY]
        else:
            named = value if isinstance(value, str) else ""
            key = str(row.get("key") or named or place)[:_LONGEST_KEY]
        return RawRecord(
            key=key,
            image=_image(value, key, folder),
            captions=self.captions(row, key),
            columns=simple_columns(row, {self.image, self.caption}),
        )

    def captions(self, row: Mapping[str, Any], key: str) -> tuple[str, ...]:
        """Return the captions of a row.

        Raises:
            BadRecordError: there is none, or something else is in their place.
        """
        value = None if self.caption is None else row.get(self.caption)
        return checked_captions(value, key, require=self.require_captions)


def checked_captions(value: object, key: str, *, require: bool) -> tuple[str, ...]:
    """Return the captions in a value.

    Raises:
        BadRecordError: it is something else, or holds none although one is required.
    """
    try:
        captions = read_captions(value)
    except NotTextError as error:
        raise BadRecordError(BadRecord(key, "caption is not text", str(error))) from error
    if require and not captions:
        raise BadRecordError(BadRecord(key, "no caption", "the caption is missing or blank"))
    return captions


def pick_caption_value(columns: Mapping[str, Any], config: DataConfig) -> tuple[str | None, object]:
    """Return the column of a JSON file with captions, and its value; a blank one does not count."""
    name = pick_caption([name for name, value in columns.items() if not _is_blank(value)], config)
    return name, None if name is None else columns[name]


def parse_columns(content: bytes, key: str, *, name: str) -> dict[str, Any]:
    """Return the columns in a JSON file.

    Raises:
        BadRecordError: it holds no JSON object.
    """
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRecordError(BadRecord(key, "broken metadata", f"{name}: {error}")) from error
    if not isinstance(row, dict):
        raise BadRecordError(BadRecord(key, "broken metadata", f"{name} holds no JSON object"))
    return row


def pick_image(columns: Sequence[str], config: DataConfig) -> str | None:
    """Return the column with the picture: the configured one or, where none is, a usual one."""
    return _pick(columns, config.image_column, IMAGE_NAMES)


def pick_caption(columns: Sequence[str], config: DataConfig) -> str | None:
    """Return the column with the captions, likewise."""
    return _pick(columns, config.caption_column, CAPTION_NAMES)


def simple_columns(row: Mapping[str, Any], without: Iterable[str | None]) -> dict[str, object]:
    """Return what is a number, a truth value or a text in a row."""
    left_out = set(without)
    return {
        name: value
        for name, value in row.items()
        if name not in left_out and isinstance(value, bool | int | float | str)
    }


def missing_package(package: str, purpose: str) -> MissingDependencyError:
    """Return the error for an optional package that is not installed."""
    return MissingDependencyError(
        f'{purpose} need {package}, which is not installed; run: pip install ".[train]"'
    )


def _pick(columns: Sequence[str], configured: str | None, usual: Sequence[str]) -> str | None:
    names = usual if configured is None else (configured,)
    return next((name for name in names if name in columns), None)


def _is_blank(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_blank, value))
    return value is None or (isinstance(value, str) and not value.strip())


def _image(value: object, key: str, folder: Path) -> bytes | Path:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        detail = "the column is empty" if not value else f"it is {type(value).__name__}"
        raise BadRecordError(BadRecord(key, "no image", detail))
    if not value.startswith(("http://", "https://")):
        return find_name(folder, value)
    name = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    place = folder / DOWNLOADS / name[:2] / name
    if not place.exists():
        raise NotDownloadedError(key, value, place)
    return place


def find_name(folder: Path, name: str) -> Path:
    """Return a path in a folder, with its accents as the file system has written them."""
    path = folder / name
    if name.isascii() or path.exists():
        return path
    forms = (folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return next((form for form in forms if form.exists()), path)
