"""Positions and permutations: nothing but seed and position decides."""

from __future__ import annotations

from typing import Any

import pytest

from dallemini.data.order import (
    EpochOrder,
    batch_positions,
    check_split,
    random_at,
    shuffled,
    stable_seed,
)
from dallemini.errors import InputError, InputTypeError


def test_ranks_share_a_global_batch_whatever_their_number() -> None:
    whole = list(batch_positions(3, batch_size=12))
    for world_size in (1, 2, 3, 4):
        parts = [
            batch_positions(3, batch_size=12 // world_size, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert [position for part in parts for position in part] == whole


@pytest.mark.parametrize("index", [1.0, "1", None, True])
def test_batch_numbers_are_whole(index: Any) -> None:
    with pytest.raises(InputTypeError, match="numbered by a whole number"):
        batch_positions(index, batch_size=1)


def test_batch_numbers_start_at_0() -> None:
    with pytest.raises(InputError, match="there is no batch -1"):
        batch_positions(-1, batch_size=1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"world_size": 0}, "rank 0 of world_size 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"rank": -1}, "rank -1"),
        ({"workers": -1}, "workers must be 0 or more"),
    ],
)
def test_impossible_splits_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_split(**{"batch_size": 1, "rank": 0, "world_size": 1, **sizes})


def test_every_epoch_holds_every_record_once_in_another_order() -> None:
    order = EpochOrder(50, seed=1)
    epochs = [[order[epoch * 50 + place] for place in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs[0] != [EpochOrder(50, seed=2)[place] for place in range(50)]


def test_order_does_not_depend_on_what_was_asked_before() -> None:
    order, forward = EpochOrder(7, seed=0), EpochOrder(7, seed=0)
    expected = [forward[position] for position in range(70)]
    assert [order[position] for position in reversed(range(70))] == expected[::-1]


def test_blocks_are_read_together_and_mixed_within_a_window() -> None:
    blocks = [5, 3, 4, 6, 2, 10]
    order = EpochOrder(30, seed=0, blocks=blocks, window=8)
    drawn = [order[position] for position in range(30)]
    assert sorted(drawn) == list(range(30))
    ends = [sum(blocks[: n + 1]) for n in range(6)]
    block_of = [next(n for n, end in enumerate(ends) if record < end) for record in drawn]
    for block in range(6):  # a block is left for good once its window is over
        places = [place for place, found in enumerate(block_of) if found == block]
        assert places[-1] - places[0] < 8 + max(blocks)
    assert drawn != sorted(drawn)


def test_no_records_are_refused() -> None:
    with pytest.raises(InputError, match="no records"):
        EpochOrder(0)


def test_chance_is_fixed_by_seed_and_position() -> None:
    assert random_at(0, 1).random() == random_at(0, 1).random()
    assert len({random_at(seed, place).random() for seed in range(9) for place in range(9)}) == 81


def test_seeds_are_the_same_on_every_machine() -> None:
    assert stable_seed(0, "epoch", 1) == 8372147079113586533
    assert shuffled(range(5), 0, "here") == shuffled(range(5), 0, "here")
    assert [EpochOrder(6, seed=0)[place] for place in range(6)] == [4, 0, 3, 5, 1, 2]
