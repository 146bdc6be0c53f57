"""What comes out of a data set: pictures with captions, batches of them, and bad records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..errors import InputError

Reason = Literal[
    "no image",
    "second image",
    "not an image",
    "broken image",
    "animated",
    "transparent",
    "too small",
    "too large",
    "no caption",
    "caption is not text",
    "broken metadata",
    "broken shard",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class CaptionedImage:
    """One record that can be used.

    Attributes:
        key: its name in the data set: the path of the picture, or the row of its file.
        image: f32[3,S,S] in [0, 1].
        captions: every caption, without the blanks around it; at least one unless
            `DataConfig.require_captions` is off.
        columns: its other columns that hold a number, a truth value or a text.
    """

    key: str
    image: Tensor
    captions: tuple[str, ...]
    columns: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBatch:
    """N pictures, each with the caption that was chosen for it.

    Attributes:
        images: f32[N,3,S,S] in [0, 1].
        captions: N captions; the empty one where it was dropped.
        keys: N names.
    """

    images: Tensor
    captions: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
        key: its name in the data set.
        reason: the kind of trouble, one of a few, for counting.
        detail: what exactly is wrong.
    """

    key: str
    reason: Reason
    detail: str


class BadRecordError(InputError):
    """A record cannot be used; `record` says which and why."""

    def __init__(self, record: BadRecord) -> None:
        self.record = record
        super().__init__(
            f"The record {record.key} is bad: {record.reason}, {record.detail}. Mend it or leave "
            "it out; batches and `read` skip it."
        )

    def __reduce__(self) -> tuple[type[BadRecordError], tuple[BadRecord]]:
        return BadRecordError, (self.record,)


@dataclass(frozen=True)
class DataShard:
    """A part of a data set: consecutive rows, or one tar.

    Attributes:
        number: its place among the shards, from 0.
        name: for people: the rows, or the file or address of the tar.
        start: first row; 0 for a tar.
        stop: row after the last; 0 for a tar, whose length is not known before it is read.
        url: file or address of the tar, else None.
    """

    number: int
    name: str
    start: int = 0
    stop: int = 0
    url: str | None = None


@dataclass(frozen=True, kw_only=True)
class RawRecord:
    """A record before its picture is decoded, as the sources give it.

    Attributes:
        key: its name in the data set.
        image: the encoded picture, or the file that holds it.
        captions: as in `CaptionedImage`.
        columns: likewise.
    """

    key: str
    image: bytes | Path
    captions: tuple[str, ...]
    columns: Mapping[str, object] = field(default_factory=dict)
