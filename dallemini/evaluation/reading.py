"""What is evaluated: captions, with or without pictures of their own.

Chooses by seed which of them, and reads each once, so that pictures need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import both_sides
from ..data import BadRecordError
from ..data.captions import NotTextError, read_caption_lines
from ..errors import InputError, InputTypeError
from ..foreign import check_file

_LARGEST = 1 << 28  # bytes of a file of captions


class CaptionedPicture(Protocol):
    """A picture with its captions; `dallemini.data.CaptionedImage` is one."""

    @property
    def image(self) -> Tensor:
        """f[3,H,W] in [0, 1]."""

    @property
    def captions(self) -> tuple[str, ...]:
        """What is said of it; the first is asked for."""

    @property
    def columns(self) -> Mapping[str, object]:
        """What else is known of it."""


class PictureSource(Protocol):
    """Captioned pictures by number; `dallemini.data.CaptionedImages` or a list."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> CaptionedPicture:
        """Read one; a `BadRecordError` says that it is bad."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One caption to measure.

    Attributes:
        caption: what is asked for.
        captions: everything that is said of its picture.
        image: f[3,H,W] in [0, 1], its own picture at the size that the model draws.
        group: pictures of other groups are no rivals.
    """

    caption: str
    captions: frozenset[str]
    image: Tensor | None = None
    group: object = None


class Reader:
    """Reads a random but fixed choice of a source, bad records left out and counted.

    A stream has no random access: its first records are taken, in their order.

    Args:
        source: captions, or captioned pictures.
        size: height and width of the pictures that are returned, one number for a square.
        seed: of the choice.
        column: whose value is the group.
    """

    def __init__(
        self,
        source: Sequence[str] | PictureSource,
        *,
        size: int | tuple[int, int],
        seed: int = 0,
        column: str | None = None,
    ) -> None:
        self.size = both_sides(size)
        self.source, self.seed, self.column = source, seed, column
        self._bad, self._bad_before = 0, _count_bad(source)

    @property
    def bad(self) -> int:
        """How many records were left out so far."""
        return self._bad + _count_bad(self.source) - self._bad_before

    @property
    def has_pictures(self) -> bool:
        """False for captions alone.

        Raises:
            InputTypeError: the source is a single string.
            InputError: the source is empty.
        """
        if isinstance(self.source, str):
            raise InputTypeError(
                "evaluate takes a list of captions or captioned pictures, not one string; open "
                "files with read_captions or CaptionedImages.open."
            )
        if self.is_stream:
            return True
        if not len(self.source):
            raise InputError("There is nothing to evaluate: the data hold no caption.")
        try:
            return not isinstance(self.source[0], str)
        except BadRecordError:
            return True

    @property
    def is_stream(self) -> bool:
        """True where records come one after the other only."""
        return bool(getattr(self.source, "is_stream", False))

    def count(self, wanted: int) -> int:
        """Return how many there are at most, when so many are wanted."""
        return wanted if self.is_stream else min(wanted, len(self.source))

    def __call__(self, wanted: int) -> Iterator[Asked]:
        """Yield up to so many records.

        Raises:
            InputError: a caption is no string, or a picture has the wrong shape.
        """
        found = 0
        for record in self._stream() if self.is_stream else self._choose():
            if found == wanted:
                break
            found += 1
            yield self._ask(record)
        if not found:
            raise InputError("There is nothing to evaluate: every record of the data is bad.")

    def _choose(self) -> Iterator[CaptionedPicture | str]:
        generator = torch.Generator().manual_seed(self.seed)
        for index in torch.randperm(
            len(self.source), generator=generator, dtype=torch.int64, device="cpu"
        ).tolist():
            try:
                record = self.source[index]
            except BadRecordError as error:
                if hasattr(self.source, "report"):  # which counts and logs
                    self.source.report(error.record)
                else:
                    self._bad += 1
                continue
            yield record

    def _stream(self) -> Iterator[CaptionedPicture]:
        source: Any = self.source
        for shard in source.shards():
            yield from source.read(shard)

    def _ask(self, record: CaptionedPicture | str) -> Asked:
        if isinstance(record, str):
            return Asked(caption=record, captions=frozenset((record,)))
        if not hasattr(record, "captions") or not record.captions:
            raise InputError(f"Every picture needs a caption, which {record!r:.80} has not.")
        return Asked(
            caption=record.captions[0],
            captions=frozenset(record.captions),
            image=_fit(record.image, self.size),
            group=self._group(record.columns),
        )

    def _group(self, columns: Mapping[str, object]) -> object:
        if self.column is None:
            return None
        if self.column not in columns:
            known = ", ".join(sorted(columns)) or "none"
            raise InputError(f"There is no column {self.column!r}; the data have: {known}.")
        return columns[self.column]


def _count_bad(source: object) -> int:
    bad = getattr(source, "bad", None)
    return sum(bad.values()) if isinstance(bad, Mapping) else 0


def read_captions(path: str | Path) -> list[str]:
    """Read captions from a text file, one a line; empty lines are left out.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is no UTF-8 text, something else in its place, or holds no caption.
    """
    check_file(path, error=InputError, largest=_LARGEST, may_be_empty=True)
    try:
        captions = list(read_caption_lines(Path(path).read_bytes()))
    except NotTextError as error:
        raise InputError(f"{path} holds no captions: {error}; write one a line.") from error
    if not captions:
        raise InputError(f"{path} holds no caption; write one a line.")
    return captions


def _fit(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize f[3,h,w] to f[3,H,W], of the same proportions."""
    fits = image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
    if not fits or image.shape[1] * size[1] != image.shape[2] * size[0]:
        asked = f"in proportion to {size[1]}x{size[0]} pixels, f[3,H,W]"
        asked = "square, f[3,S,S]" if size[0] == size[1] else asked
        raise InputError(
            f"Pictures to evaluate must be {asked}, not {list(image.shape)}; open them with "
            "CaptionedImages, which crops them."
        )
    if image.shape[1:] == size:
        return image
    resized = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)
    return resized[0].clamp(0, 1)
