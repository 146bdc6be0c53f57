"""The part of a stream that one reader takes: its shards, epoch after epoch, shuffled."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

from ..errors import InputError
from .dataset import CaptionedImages
from .order import random_at, shuffled
from .records import BadRecord, RawRecord

_IDLE_EPOCHS = 2  # without one record, until it is believed that there are none

Item = TypeVar("Item")


class Lane:
    """The records of one of several readers, without end.

    In each epoch all shards are shuffled and dealt out, so that no two readers have the same one.
    Which record comes at which place does not depend on whether pictures can be decoded.

    Args:
        dataset: a stream.
        number: of this reader.
        lanes: number of readers.
        seed: of the shuffling.
    """

    def __init__(self, dataset: CaptionedImages, number: int, lanes: int, *, seed: int) -> None:
        self.dataset, self.number, self.lanes, self.seed = dataset, number, lanes, seed
        self.bad: deque[BadRecord] = deque(maxlen=100)
        self._ahead: deque[RawRecord | BadRecord] = deque()
        self._records = self._read_on()

    def take(self, count: int) -> list[RawRecord | BadRecord]:
        """Return the next records.

        Raises:
            InputError: there is not one record in the reader's shards.
        """
        return [self._ahead.popleft() if self._ahead else next(self._records) for _ in range(count)]

    def skip(self, count: int) -> None:
        """Leave out the next records, without decoding them.

        Raises:
            InputError: as `take`.
        """
        for _ in range(count):
            self.take(1)

    def look_ahead(self) -> Iterator[RawRecord | BadRecord]:
        """Yield the records that come next, which stay to be taken."""
        for place in itertools.count():
            while len(self._ahead) <= place:
                self._ahead.append(next(self._records))
            yield self._ahead[place]

    def _read_on(self) -> Iterator[RawRecord | BadRecord]:
        idle = 0
        for epoch in itertools.count():
            found = 0
            for record in self._shuffle(self._epoch(epoch), epoch):
                found += isinstance(record, RawRecord)
                yield record
            idle = 0 if found else idle + 1
            if idle == _IDLE_EPOCHS:
                raise InputError(self._describe_nothing())

    def _epoch(self, epoch: int) -> Iterator[RawRecord | BadRecord]:
        urls = shuffled(self.dataset.stream.urls, self.seed, f"shards of epoch {epoch}")
        for url in urls[self.number :: self.lanes]:
            for record in self.dataset.stream.records(url):
                if isinstance(record, BadRecord):
                    self.bad.append(record)
                yield record

    def _shuffle(self, records: Iterator[Item], epoch: int) -> Iterator[Item]:
        """Give each record the place of another in a buffer that the next ones fill."""
        chance = random_at(self.seed, f"buffer of epoch {epoch} of reader {self.number}")
        held: list[Item] = []
        for record in records:
            held.append(record)
            if len(held) >= self.dataset.config.shuffle_buffer:
                place = int(chance.random() * len(held))
                held[place], held[-1] = held[-1], held[place]
                yield held.pop()
        while held:
            place = int(chance.random() * len(held))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()

    def _describe_nothing(self) -> str:
        left_out = self.dataset.stream.describe_left_out()
        last = f" The last trouble: {self.bad[-1].key}: {self.bad[-1].detail}." if self.bad else ""
        return (
            f"The shards of {self.dataset.name} that this reader has ({len(self._mine())} of "
            f"{len(self.dataset.stream.urls)}) hold no record that can be used.{left_out}{last}"
        )

    def _mine(self) -> Sequence[str]:
        return self.dataset.stream.urls[self.number :: self.lanes]
