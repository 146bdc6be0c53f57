"""Which record a batch takes, and what chance decides, from seed and position alone.

Training sees an endless sequence of positions: one permutation of the records after another. A
global batch takes the next positions, each process its part of them, so that neither the number of
processes nor what was drawn before changes what is at a position.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError, InputTypeError

Item = TypeVar("Item")
_PERIOD = 1000  # positions in which every set has its share
_EPOCHS_KEPT = 2  # a batch may lie across the border of two


def batch_positions(index: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> range:
    """Return the positions of one process's part of global batch `index`.

    Args:
        index: number of the global batch, from 0.
        batch_size: records of one process.
        rank: number of the process.
        world_size: number of processes.

    Raises:
        InputError: `index` is negative.
        InputTypeError: `index` is not a whole number.

    Example:
        >>> batch_positions(1, batch_size=4, rank=1, world_size=2)
        range(12, 16)
    """
    if not isinstance(index, int) or isinstance(index, bool):
        raise InputTypeError(f"A batch is numbered by a whole number, not {index!r}.")
    if index < 0:
        raise InputError(f"Batches are numbered from 0; there is no batch {index}.")
    start = (index * world_size + rank) * batch_size
    return range(start, start + batch_size)


def check_split(*, batch_size: int, rank: int, world_size: int, workers: int = 0) -> None:
    """Refuse sizes that do not describe one of several processes.

    Raises:
        InputError: `batch_size` or `world_size` is below 1, `workers` is negative, or `rank` is
            not below `world_size`.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}.")
    if world_size < 1 or not 0 <= rank < world_size:
        raise InputError(
            f"rank {rank} of world_size {world_size} does not exist; ranks go from 0 to below it."
        )
    if workers < 0:
        raise InputError(f"workers must be 0 or more, not {workers}.")


def stable_seed(*parts: int | str) -> int:
    """Mix numbers and names to a seed of 63 bits, the same on every machine.

    Example:
        >>> stable_seed(0, "epoch", 1) == stable_seed(0, "epoch", 1)
        True
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def random_at(seed: int, position: int | str) -> random.Random:
    """Return the source of every chance at a position; only its `random()` is fixed by Python.

    Example:
        >>> random_at(0, 5).random() == random_at(0, 5).random()
        True
    """
    return random.Random(stable_seed(seed, "position", position))


def shuffled(items: Sequence[Item], *parts: int | str) -> list[Item]:
    """Return items in an order that follows from a seed and names.

    Example:
        >>> sorted(shuffled("abc", 0, "letters"))
        ['a', 'b', 'c']
    """
    generator = torch.Generator("cpu").manual_seed(stable_seed(*parts))
    return [items[place] for place in _permutation(len(items), generator)]


class EpochOrder:
    """The record at each position of the endless sequence of shuffled epochs.

    Args:
        length: number of records.
        seed: of the shuffling.
        blocks: sizes of the groups of consecutive records that are read together. Then groups are
            shuffled, and records within some groups that follow each other.
        window: how many records are shuffled together then, at least.

    Raises:
        InputError: there are no records.

    Example:
        >>> order = EpochOrder(3, seed=0)
        >>> sorted(order[position] for position in range(3, 6))
        [0, 1, 2]
    """

    def __init__(
        self, length: int, *, seed: int = 0, blocks: Sequence[int] | None = None, window: int = 1
    ) -> None:
        if length < 1:
            raise InputError("There are no records to draw batches from.")
        self.length, self.seed, self.window = length, seed, window
        self.blocks = None if blocks is None else np.asarray(blocks, dtype=np.int64)
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, position: int) -> int:
        """Return the record at a position, from 0."""
        epoch, place = divmod(position, self.length)
        if epoch not in self._epochs:
            while len(self._epochs) >= _EPOCHS_KEPT:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = self._shuffle(epoch)
        return int(self._epochs[epoch][place])

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        generator = torch.Generator("cpu").manual_seed(stable_seed(self.seed, "epoch", epoch))
        if self.blocks is None:
            return _permutation(self.length, generator)
        starts = np.concatenate([[0], np.cumsum(self.blocks)])
        shuffled, waiting, held = [], [], 0
        for block in _permutation(len(self.blocks), generator):
            waiting.append(np.arange(starts[block], starts[block + 1]))
            held += len(waiting[-1])
            if held >= self.window:
                shuffled.append(np.concatenate(waiting)[_permutation(held, generator)])
                waiting, held = [], 0
        if waiting:
            shuffled.append(np.concatenate(waiting)[_permutation(held, generator)])
        return np.concatenate(shuffled)


class MixedOrder:
    """The record at each position where several sets of records are shown in given shares.

    Every `_PERIOD` positions hold the same number of records of a set; each set goes through epochs
    of its own.

    Args:
        orders: of each set, whose records are counted one set after the other.
        weights: how often records of each set come, in any unit.
        seed: of the order in which the sets take turns.

    Example:
        >>> order = MixedOrder([EpochOrder(2), EpochOrder(50)], [1, 3])
        >>> sum(order[position] < 2 for position in range(4000))
        1000
    """

    def __init__(
        self, orders: Sequence[EpochOrder], weights: Sequence[float], *, seed: int = 0
    ) -> None:
        self.orders = orders
        self.starts = np.concatenate([[0], np.cumsum([order.length for order in orders])])
        shares = np.round(np.cumsum(weights) / sum(weights) * _PERIOD).astype(int)
        self.counts: NDArray[np.int64] = np.diff(shares, prepend=0)
        turns = np.repeat(np.arange(len(orders)), self.counts)
        generator = torch.Generator("cpu").manual_seed(stable_seed(seed, "turns"))
        self.turns: NDArray[np.int64] = turns[_permutation(_PERIOD, generator)]
        # which one of its set each turn is
        self.ranks = np.empty(_PERIOD, np.int64)
        for number in range(len(orders)):
            self.ranks[self.turns == number] = np.arange(self.counts[number])

    def __getitem__(self, position: int) -> int:
        """Return the record at a position, from 0."""
        period, place = divmod(position, _PERIOD)
        number = int(self.turns[place])
        own = period * int(self.counts[number]) + int(self.ranks[place])
        return self.orders[number][own] + int(self.starts[number])


def make_order(
    lengths: Sequence[int],
    weights: Sequence[float] | None,
    *,
    seed: int,
    blocks: Sequence[Sequence[int] | None] | None = None,
    window: int = 1,
) -> EpochOrder | MixedOrder:
    """Return the order of several sets of records: all of each epoch, or in given shares.

    Args:
        lengths: records of each set.
        weights: how often records of each come; None shows all of them equally often.
        seed: of the shuffling.
        blocks: of each set, as `EpochOrder` takes them.
        window: as `EpochOrder` takes it.

    Raises:
        InputError: a set has no records.
    """
    parts = [None] * len(lengths) if blocks is None else list(blocks)
    if weights is None:
        joined = None
        if any(part is not None for part in parts):
            pairs = zip(parts, lengths, strict=True)
            joined = [n for part, length in pairs for n in ([1] * length if part is None else part)]
        return EpochOrder(sum(lengths), seed=seed, blocks=joined, window=window)
    orders = [
        EpochOrder(length, seed=stable_seed(seed, "set", number), blocks=part, window=window)
        for number, (length, part) in enumerate(zip(lengths, parts, strict=True))
    ]
    return MixedOrder(orders, weights, seed=seed)


def _permutation(length: int, generator: torch.Generator) -> NDArray[np.int64]:
    order: NDArray[np.int64] = torch.randperm(
        length, generator=generator, dtype=torch.int64, device="cpu"
    ).numpy()
    return order
