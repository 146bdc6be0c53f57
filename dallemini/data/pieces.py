"""Reading ahead of a network: shards cut into pieces, decoded by worker processes.

A piece is some hundred records that lie together, so that a worker seldom reads what another one
needs too. Nothing is random: a piece and the batches in it depend on the shards and the sizes
alone, not on the number of workers.

Shapes: N pictures, S pixels.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import DalleMiniError
from .dataset import CaptionedImages
from .marks import Mark, mark, mark_shard
from .records import BadRecord, CaptionedImage, DataShard

PIECE = 256  # records of a piece; more where a batch has more


@dataclass(frozen=True)
class Piece:
    """What a worker reads at once: part `part` of the `parts` of a shard."""

    shard: DataShard
    part: int
    parts: int
    size: int

    @property
    def records(self) -> DataShard:
        """The records of this part alone; those of a stream are not divided."""
        if self.parts == 1:
            return self.shard
        start = self.shard.start + self.part * self.size
        stop = min(start + self.size, self.shard.stop)
        return dataclasses.replace(self.shard, start=start, stop=stop)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Some records of a piece, not yet encoded.

    Plain arrays, because they come through a pipe: the memory that torch would share between
    processes instead is too small in many containers.

    Attributes:
        piece: where they are from.
        number: of this batch in the piece.
        pixels: u8 or, where these would not be exact, f32 [N,3,S,S].
        keys: names of the N records.
        captions: all captions of each.
        columns: other columns of each.
    """

    piece: Piece
    number: int
    pixels: NDArray[Any]
    keys: list[str]
    captions: list[tuple[str, ...]]
    columns: list[Mapping[str, object]]

    def images(self) -> Tensor:
        """Return the pictures f32[N,3,S,S] in [0, 1]."""
        images = torch.from_numpy(self.pixels)
        return images if images.is_floating_point() else images.float() / 255


@dataclass(frozen=True, eq=False)
class PieceEnd:
    """A piece was read; the last thing that is heard of it.

    Attributes:
        piece: which.
        bad: records left out, by reason.
        marks: of all records, the bad ones included; of a tar, of its file.
        error: what ended it early.
    """

    piece: Piece
    bad: Mapping[str, int]
    marks: Sequence[Mark] = ()
    error: DalleMiniError | None = None


class Pieces(IterableDataset[Pictures | PieceEnd]):
    """Reads shards piece by piece; of several workers, each takes the pieces of its turn."""

    def __init__(
        self, dataset: CaptionedImages, shards: Sequence[DataShard], batch_size: int
    ) -> None:
        self.dataset, self.shards, self.batch_size = dataset, shards, batch_size
        self.size = batch_size * max(1, PIECE // batch_size)

    @property
    def records(self) -> int | None:
        """How many records there are to read; None for a stream."""
        return None if self.dataset.is_stream else sum(s.stop - s.start for s in self.shards)

    def __iter__(self) -> Iterator[Pictures | PieceEnd]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        pieces = (piece for shard in self.shards for piece in self._cut(shard))
        for piece in itertools.islice(pieces, first, None, step):
            yield from self._read(piece)

    def _cut(self, shard: DataShard) -> Iterator[Piece]:
        parts = max(1, math.ceil((shard.stop - shard.start) / self.size))
        return (Piece(shard, part, parts, self.size) for part in range(parts))

    def _read(self, piece: Piece) -> Iterator[Pictures | PieceEnd]:
        bad: collections.Counter[str] = collections.Counter()
        is_tar = piece.shard.url is not None
        marks = mark_shard(self.dataset, piece.shard) if is_tar else []
        error = None
        try:
            records = self._prepare(piece, bad, None if is_tar else marks)
            for number in itertools.count():
                several = list(itertools.islice(records, self.batch_size))
                if not several:
                    break
                yield _pack(piece, number, several)
        except DalleMiniError as raised:  # told as it is, not as torch quotes a worker's error
            error = raised
        yield PieceEnd(piece, bad, marks, error)

    def _prepare(
        self, piece: Piece, bad: collections.Counter[str], marks: list[Mark] | None
    ) -> Iterator[CaptionedImage]:
        """Yield what can be used, count the rest, and note each record before it is decoded."""
        for record in self.dataset.raw_records(piece.records):
            if marks is not None:
                marks.append(mark(record))
            outcome = self.dataset.try_to_prepare(record)
            if isinstance(outcome, BadRecord):
                self.dataset.report(outcome)
                bad[outcome.reason] += 1
            else:
                yield outcome


def _pack(piece: Piece, number: int, records: Sequence[CaptionedImage]) -> Pictures:
    images = torch.stack([record.image for record in records])
    small = images.mul(255).round().to(torch.uint8)
    pixels = small if torch.equal(small.float() / 255, images) else images
    return Pictures(
        piece,
        number,
        pixels.numpy(),
        keys=[record.key for record in records],
        captions=[record.captions for record in records],
        columns=[dict(record.columns) for record in records],
    )
