"""Several sources as one: their records one after the other, and how often each is to be shown.

Knows sources by their numbers of records, not what they read.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ..records import BadRecord, BadRecordError, RawRecord
from .base import RowSource

_WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>\d+\.?\d*|\.\d+)", re.DOTALL)


def split_weights(names: Sequence[str]) -> tuple[list[str], tuple[float, ...] | None]:
    """Take the weights off names such as "pictures:0.7"; None where there are none.

    Raises:
        InputError: some have a weight and some have none, or one is zero.

    Example:
        >>> split_weights(["a:0.7", "b:0.3"])
        (['a', 'b'], (0.7, 0.3))
    """
    found = [None if Path(name).exists() else _WEIGHTED.fullmatch(name) for name in names]
    if not any(found):
        return list(names), None
    weights = [float(match["weight"]) for match in found if match]
    if len(weights) < len(found):
        lacking = next(name for name, match in zip(names, found, strict=True) if not match)
        raise InputError(f"Give every source a weight or none: {lacking!r} has none.")
    if not all(0 < weight < math.inf for weight in weights):
        raise InputError(f"Weights of sources are numbers above 0, not {min(weights)}.")
    return [match["name"] for match in found if match], tuple(weights)


class Joined:
    """Records of several sources; the name of each stands before its keys.

    Attributes:
        lengths: records of each source.
        part_blocks: sizes of the groups that are read together, of each source.
        skipped: what the sources found that can be no record.

    Args:
        sources: reached by number.
        names: of the sources.
    """

    blocks = None

    def __init__(self, sources: Sequence[RowSource], names: Sequence[str]) -> None:
        self.sources, self.names = list(sources), [Path(name).name or name for name in names]
        self.lengths = [len(source) for source in self.sources]
        self.part_blocks = [source.blocks for source in self.sources]
        self.ends = list(itertools.accumulate(self.lengths))
        self.skipped = [
            self._named(record, number)
            for number, source in enumerate(self.sources)
            for record in source.skipped
        ]

    def __len__(self) -> int:
        return self.ends[-1]

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: as its source does.
        """
        number = bisect.bisect_right(self.ends, index)
        place = index - (self.ends[number] - self.lengths[number])
        try:
            record = self.sources[number].row(place)
        except BadRecordError as error:
            BadRecordError.__init__(error, self._named(error.record, number))
            raise
        return dataclasses.replace(record, key=f"{self.names[number]}/{record.key}")

    def _named(self, record: BadRecord, number: int) -> BadRecord:
        return dataclasses.replace(record, key=f"{self.names[number]}/{record.key}")
