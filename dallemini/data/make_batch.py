"""What is in a batch: which records, in the place of which bad ones, with which chance.

A reader lives in the process of its caller or in a worker, so errors and bad records go back as
values, to be raised and counted where the data set is.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..errors import DalleMiniError, InputError
from .captions import choose_caption
from .dataset import CaptionedImages
from .order import batch_positions, random_at
from .records import BadRecord, BadRecordError, CaptionedImage, ImageBatch, RawRecord
from .stream import Lane

_TRIES = 100  # records that are tried in one place of a batch
_NEAR = 64  # from how far ahead those come; what is near is likely in memory

Candidates = Iterable[RawRecord | BadRecord]


@dataclass(frozen=True)
class Split:
    """What one process draws: see `Batches`; `readers` is the number of its workers, or 1."""

    batch_size: int
    seed: int
    rank: int
    world_size: int
    readers: int


@dataclass(frozen=True)
class Outcome:
    """A batch or the error in its place, and the bad records met on the way."""

    batch: ImageBatch | None
    bad: tuple[BadRecord, ...] = ()
    error: DalleMiniError | None = None


class RowBatches(Dataset[Outcome]):
    """Batches, by number, of records that are reached by number."""

    def __init__(self, dataset: CaptionedImages, split: Split) -> None:
        self.dataset, self.split = dataset, split
        self.order = dataset.order(split.seed)

    def __getitem__(self, index: int) -> Outcome:
        """Return a batch."""
        places = batch_positions(
            index,
            batch_size=self.split.batch_size,
            rank=self.split.rank,
            world_size=self.split.world_size,
        )
        candidates = ((place, self._candidates(place)) for place in places)
        return make_batch(self.dataset, candidates, seed=self.split.seed)

    def _candidates(self, position: int) -> Iterator[RawRecord | BadRecord]:
        """Yield the record at a position, then others from near it."""
        chance = random_at(self.split.seed, f"instead of {position}")
        yield self.dataset.raw(self.order[position])
        while True:
            ahead = 1 + int(chance.random() * _NEAR)
            yield self.dataset.raw(self.order[position + ahead])


class StreamBatches(IterableDataset[Outcome]):
    """Batches of a stream from one number on; workers take turns, each with its own shards.

    Args:
        dataset: a stream.
        split: what this process draws.
        start: number of the first batch.
    """

    def __init__(self, dataset: CaptionedImages, split: Split, *, start: int) -> None:
        self.dataset, self.split, self.start = dataset, split, start

    def __iter__(self) -> Iterator[Outcome]:
        """Yield every batch of this worker."""
        worker = get_worker_info()
        first = self.start + (worker.id if worker else 0)
        split = self.split
        lanes = split.world_size * split.readers
        number = split.rank * split.readers + first % split.readers
        lane = Lane(self.dataset, number, lanes, seed=split.seed)
        try:
            lane.skip(first // split.readers * split.batch_size)
            for batch in itertools.count(first // split.readers):
                outcome = self._read(lane, batch * split.batch_size, number, lanes)
                yield outcome
                if outcome.batch is None:
                    return
        except DalleMiniError as error:
            yield Outcome(None, tuple(lane.bad), error)

    def _read(self, lane: Lane, start: int, number: int, lanes: int) -> Outcome:
        """Take the next records of a lane; those after them may stand in for bad ones."""
        own = lane.take(self.split.batch_size)
        others = lane.look_ahead()
        candidates = (
            ((start + row) * lanes + number, itertools.chain([record], others))
            for row, record in enumerate(own)
        )
        return make_batch(self.dataset, candidates, seed=self.split.seed)


def make_batch(
    dataset: CaptionedImages, rows: Iterable[tuple[int, Candidates]], *, seed: int
) -> Outcome:
    """Fill each row of a batch with the first of its candidates that can be used.

    Args:
        dataset: prepares the records.
        rows: position and candidates of each row.
        seed: of crops, captions and dropout.
    """
    bad: list[BadRecord] = []
    chosen, captions = [], []
    try:
        for position, candidates in rows:
            chance = random_at(seed, position)
            record = _first_good(dataset, candidates, position, seed, bad)
            chosen.append(record)
            captions.append(
                choose_caption(
                    record.captions,
                    chance,
                    choice=dataset.config.caption_choice,
                    dropout=dataset.config.caption_dropout,
                )
            )
    except DalleMiniError as error:
        return Outcome(None, tuple(bad), error)
    batch = ImageBatch(
        images=torch.stack([record.image for record in chosen]),
        captions=tuple(captions),
        keys=tuple(record.key for record in chosen),
    )
    return Outcome(batch, tuple(bad))


def _first_good(
    dataset: CaptionedImages,
    candidates: Candidates,
    position: int,
    seed: int,
    bad: list[BadRecord],
) -> CaptionedImage:
    """Return the first candidate that can be used, and note those before it as bad.

    Raises:
        InputError: too many cannot be used.
    """
    refused: list[BadRecord] = []
    try:
        for candidate in itertools.islice(candidates, _TRIES):
            if isinstance(candidate, BadRecord):
                refused.append(candidate)
                continue
            try:
                return dataset.prepare(candidate, random_at(seed, f"crop {position}"))
            except BadRecordError as error:
                refused.append(error.record)
    finally:
        bad += refused
    counts = Counter(record.reason for record in refused)
    listed = ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())
    raise InputError(
        f"{len(refused)} records of {dataset.name} in a row cannot be used ({listed}); the last "
        f"was {refused[-1].key}: {refused[-1].detail}. Look at the data, or at the configuration."
    )
