"""`Batches`: from a number to a batch, always the same one.

Knows numbers and worker processes; what is in a batch is decided in `readers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from .dataset import CaptionedImages
from .make_batch import Outcome, RowBatches, Split, StreamBatches
from .order import batch_positions, check_split
from .records import ImageBatch


class Batches:
    """Batches of a data set, by number.

    The same number gives the same batch, whatever was asked for before. A record is replaced by
    another if it is bad. While one batch is used, `workers` processes prepare the next.

    Of a stream, numbers should rise: to go back is to read again from the start. Its batches also
    depend on `world_size` and `workers`, which divide its shards.

    Args:
        dataset: where records come from.
        batch_size: pictures of this process; a global batch has `batch_size * world_size`.
        seed: of order, crops, captions and dropout.
        rank: number of this process.
        world_size: number of processes.
        workers: processes that prepare batches ahead; 0 prepares each when it is asked for.

    Raises:
        InputError: a size is out of range, or a stream has fewer shards than readers.
    """

    def __init__(
        self,
        dataset: CaptionedImages,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
    ) -> None:
        check_split(batch_size=batch_size, rank=rank, world_size=world_size, workers=workers)
        self.dataset, self.workers = dataset, workers
        self.split = Split(batch_size, seed, rank, world_size, max(workers, 1))
        self._rows = None if dataset.is_stream else RowBatches(dataset, self.split)
        if dataset.is_stream:
            self._check_shards()
        self._iterator: Iterator[Outcome] | None = None
        self._next = 0
        self._last: tuple[int, Outcome] | None = None

    def __call__(self, index: int) -> ImageBatch:
        """Return this process's part of batch `index`.

        Raises:
            InputError: `index` is negative, or records are all bad or left out.
            InputTypeError: `index` is not a whole number.
        """
        batch_positions(index, batch_size=1)  # refuses what is no number of a batch
        if self._last is None or self._last[0] != index:
            self._last = index, self._outcome(index)
        outcome = self._last[1]
        for record in outcome.bad:
            self.dataset.report(record)
        if outcome.batch is None:
            self.close()
            raise outcome.error or InputError("There are no more records.")
        return outcome.batch

    def close(self) -> None:
        """Stop the workers; another call starts them again."""
        self._iterator = self._last = None

    def _outcome(self, index: int) -> Outcome:
        if self._rows is not None and not self.workers:
            return self._rows[index]
        iterator = self._iterator
        can_go_on = index >= self._next if self._rows is None else index == self._next
        if iterator is None or not can_go_on:
            iterator = self._iterator = None  # ends the old workers before there are new ones
            self._iterator = iterator = self._start(index)
            self._next = index
        skipped, self._next = index - self._next, index + 1
        return next(itertools.islice(iterator, skipped, None))

    def _start(self, index: int) -> Iterator[Outcome]:
        """Read from batch `index` on, in workers if there are any."""
        data: Dataset[Outcome] | None = self._rows
        if data is None:
            data = StreamBatches(self.dataset, self.split, start=index)
        loader = DataLoader(
            data,
            batch_size=None,
            sampler=None if self._rows is None else _From(index),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # or it would draw from the generator of the caller
        )
        return iter(loader)

    def _check_shards(self) -> None:
        readers = self.split.world_size * self.split.readers
        shards = len(self.dataset.shards())
        if shards < readers:
            raise InputError(
                f"{self.dataset.name} has {shards} shards, too few for {self.split.world_size} "
                f"processes with {self.split.readers} readers each, which share them without "
                "overlap. Use fewer workers or processes, or smaller shards."
            )


class _From:
    """The numbers of batches from one on, without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.start)


def _as_it_is(outcome: Any) -> Any:
    return outcome
