"""Several sources as one: all records once an epoch, or in the shares of their weights."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

from dallemini.data import BadRecordError, Batches, CaptionedImages, DataConfig, EncodedImages
from dallemini.data.order import EpochOrder, MixedOrder
from dallemini.data.sources import split_weights
from dallemini.data.tokens import TokenBatches
from dallemini.errors import InputError
from encoded_sets import write_set
from picture_files import write_folder, write_parquet

CONFIG = DataConfig(image_size=8, min_side=4)


def test_every_source_has_its_share_of_each_thousand_positions() -> None:
    order = MixedOrder([EpochOrder(3), EpochOrder(700), EpochOrder(10)], [0.2, 0.5, 0.3], seed=1)
    for start in (0, 1000, 5000):
        rows = [order[position] for position in range(start, start + 1000)]
        shares = collections.Counter((row >= 3) + (row >= 703) for row in rows)
        assert shares == {0: 200, 1: 500, 2: 300}
    taken = [order[position] for position in range(7000)]
    every = collections.Counter(row for row in taken if 3 <= row < 703)
    assert len(every) == 700, "each goes through epochs of its own"
    assert set(every.values()) == {5}
    assert taken[:50] != [MixedOrder(order.orders, [2, 5, 3], seed=2)[n] for n in range(50)]


def test_folders_and_tables_are_read_as_one(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "a", 3), write_folder(tmp_path / "b", 2)
    (second / "001.txt").write_text("")
    rows = [{"image": "a/000.png", "caption": "from a table"}]
    table = write_parquet(tmp_path / "list.parquet", rows)
    data = CaptionedImages.open([first, second, table], config=CONFIG)
    assert len(data) == 6
    assert [data[n].key for n in (0, 2, 3, 5)] == [
        *("a/000.png", "a/002.png", "b/000.png"),
        "list.parquet/a/000.png",
    ]
    with pytest.raises(BadRecordError, match=r"The record b/001\.png is bad: no caption"):
        data[4]
    keys = {key for batch in range(3) for key in Batches(data, batch_size=2)(batch).keys}
    assert len(keys) == 5


@pytest.mark.thorough
def test_weights_decide_what_batches_show(tmp_path: Path) -> None:
    names = [f"{write_folder(tmp_path / 'a', 2)}:9", f"{write_folder(tmp_path / 'b', 5)}:1"]
    batches = Batches(CaptionedImages.open(names, config=CONFIG), batch_size=100, seed=3)
    keys = [key for index in range(10) for key in batches(index).keys]
    assert sum(key.startswith("a/") for key in keys) == 900
    again = Batches(CaptionedImages.open(names, config=CONFIG), batch_size=100, seed=3)
    assert again(7).keys == batches(7).keys


def test_token_sets_are_mixed_by_weight(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 2)
    write_set(tmp_path / "b", 4, 2)
    mixed = EncodedImages.open([f"{tmp_path / 'a'}:0.5", f"{tmp_path / 'b'}:0.5"])
    assert len(mixed) == 8
    assert mixed.lengths == [2, 6]
    batches = TokenBatches(mixed, batch_size=1000)
    assert sum(batches._order[position] < 2 for position in range(1000)) == 500
    assert batches(0).image_tokens.shape == (1000, 16)


def test_names_with_colons_that_exist_have_no_weight(tmp_path: Path) -> None:
    (tmp_path / "a:1").mkdir()
    assert split_weights([f"{tmp_path}/a:1"]) == ([f"{tmp_path}/a:1"], None)
    assert split_weights([f"{tmp_path}/a:1:2.5"]) == ([f"{tmp_path}/a:1"], (2.5,))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a:0.5", "b"], "Give every source a weight or none: 'b' has none"),
        (["a:0", "b:1"], "Weights of sources are numbers above 0, not 0.0"),
    ],
)
def test_weights_that_say_nothing_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_weights(names)
