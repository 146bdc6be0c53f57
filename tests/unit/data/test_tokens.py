"""Encoded pictures read back: in memory and mapped, by number and in batches."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch

from dallemini.data import tokens
from dallemini.data.token_shards import shard_name, write_shard
from dallemini.data.tokens import EncodedImages, TokenBatches
from dallemini.errors import InputError, InputTypeError, MissingFileError
from encoded_sets import CODEBOOK_SIZE, LENGTH, note, random_rows, write_set


@pytest.fixture
def dataset(tmp_path: Path) -> EncodedImages:
    write_set(tmp_path / "set", 5, 0, 7)
    return EncodedImages.open(tmp_path / "set")


@pytest.fixture
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "LARGE", 1)


def test_pictures_come_in_the_order_of_the_shards(tmp_path: Path) -> None:
    written = write_set(tmp_path, 5, 0, 7)
    dataset = EncodedImages.open(tmp_path)
    assert (len(dataset), dataset.image_length) == (12, LENGTH)
    assert (dataset.codebook_size, dataset.is_mapped) == (CODEBOOK_SIZE, False)
    rows = [
        (key, tuple(captions), codes)
        for part in written
        for key, captions, codes in zip(
            part.keys, part.captions, part.image_tokens.tolist(), strict=True
        )
    ]
    for index, (key, captions, codes) in enumerate(rows):
        item = dataset[index]
        assert (item.key, item.captions, item.image_tokens.tolist()) == (key, captions, codes)
        assert item.image_tokens.dtype == torch.int64


def test_negative_numbers_count_from_the_end(dataset: EncodedImages) -> None:
    assert dataset[-1].key == dataset[11].key == "2/6.png"


@pytest.mark.parametrize("index", [12, -13])
def test_number_beyond_the_end_is_refused(dataset: EncodedImages, index: int) -> None:
    with pytest.raises(IndexError, match=f"no picture {index} among these 12"):
        dataset[index]


def test_iteration_ends(dataset: EncodedImages) -> None:
    assert len(list(dataset)) == 12


@pytest.mark.usefixtures("_everything_is_large")
def test_large_set_is_mapped_and_equal(tmp_path: Path) -> None:
    written = write_set(tmp_path / "set", 5, 0, 7)
    mapped = EncodedImages.open(tmp_path / "set", cache_dir=tmp_path / "cache")
    assert mapped.is_mapped
    assert [item.key for item in mapped] == [key for part in written for key in part.keys]
    assert [item.captions for item in mapped] == [
        tuple(several) for part in written for several in part.captions
    ]
    codes = torch.stack([item.image_tokens for item in mapped])
    assert codes.tolist() == [code for part in written for code in part.image_tokens.tolist()]


@pytest.mark.usefixtures("_everything_is_large")
def test_the_copy_is_made_once_and_again_after_a_change(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 5)
    for _ in range(2):
        EncodedImages.open(tmp_path / "set")
    assert len(list(tmp_path.glob("set/mapped-*"))) == 1
    write_set(tmp_path / "set", 6)
    assert len(EncodedImages.open(tmp_path / "set")) == 6


@pytest.mark.usefixtures("_everything_is_large")
def test_damaged_copy_is_made_again(tmp_path: Path) -> None:
    write_set(tmp_path, 5)
    first = EncodedImages.open(tmp_path)[4].key
    (copy,) = tmp_path.glob("mapped-*")
    (copy / "tokens").write_bytes(b"")
    assert EncodedImages.open(tmp_path)[4].key == first


@pytest.mark.usefixtures("_everything_is_large")
def test_mapped_set_without_any_caption_works(tmp_path: Path) -> None:
    write_shard(tmp_path / shard_name(0), random_rows(2, captions=[[], []]), note())
    dataset = EncodedImages.open(tmp_path)
    assert dataset[1].captions == ()
    assert TokenBatches(dataset, batch_size=2)(0).captions == ("", "")


def test_pickled_set_is_equal_and_small(dataset: EncodedImages) -> None:
    again = pickle.loads(pickle.dumps(dataset))
    assert [item.captions for item in again] == [item.captions for item in dataset]


@pytest.mark.usefixtures("_everything_is_large")
def test_pickled_mapped_set_leaves_its_arrays_on_disk(tmp_path: Path) -> None:
    write_set(tmp_path, 500)
    dataset = EncodedImages.open(tmp_path)
    packed = pickle.dumps(dataset)
    assert len(packed) < 1000
    assert torch.equal(pickle.loads(packed)[7].image_tokens, dataset[7].image_tokens)


def test_several_folders_and_files_are_one_set(tmp_path: Path) -> None:
    write_set(tmp_path / "a", 2)
    write_set(tmp_path / "b", 1, 3)
    assert len(EncodedImages.open([tmp_path / "a", tmp_path / "b"])) == 6
    assert len(EncodedImages.open([tmp_path / "b" / shard_name(1), str(tmp_path / "a")])) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vqgan": "two"}, "another VQGAN"),
        ({"codebook_size": 32_000}, "another codebook_size"),
        ({"image_length": 25}, "another image_length"),
    ],
)
def test_sets_whose_codes_mean_other_things_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_set(tmp_path / "a", 2)
    write_set(tmp_path / "b", 2, **changes)
    with pytest.raises(InputError, match=message):
        EncodedImages.open([tmp_path / "a", tmp_path / "b"])


def test_set_without_a_picture_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, 0)
    with pytest.raises(InputError, match="There is no picture in"):
        EncodedImages.open(tmp_path)


def test_no_source_is_refused() -> None:
    with pytest.raises(InputError, match="an empty list of files"):
        EncodedImages.open([])


def test_incomplete_and_missing_folders_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 1, 1)
    (tmp_path / "set" / shard_name(0)).unlink()
    with pytest.raises(InputError, match="1 of 2 shards"):
        EncodedImages.open(tmp_path / "set")
    with pytest.raises(MissingFileError, match="no file or folder"):
        EncodedImages.open(tmp_path / "other")


def test_an_epoch_takes_every_picture_once(dataset: EncodedImages) -> None:
    batches = TokenBatches(dataset, batch_size=4, seed=3)
    for epoch in range(2):
        keys = [key for index in range(3) for key in batches(3 * epoch + index).keys]
        assert sorted(keys) == sorted(item.key for item in dataset)


def test_batch_depends_on_its_number_and_the_seed_alone(dataset: EncodedImages) -> None:
    first = TokenBatches(dataset, batch_size=4, seed=3, caption_dropout=0.3)
    again = TokenBatches(dataset, batch_size=4, seed=3, caption_dropout=0.3)
    wanted = [first(index) for index in range(10)]
    for index in (7, 0, 9):
        assert again(index).keys == wanted[index].keys
        assert again(index).captions == wanted[index].captions
        assert torch.equal(again(index).image_tokens, wanted[index].image_tokens)
    other = TokenBatches(dataset, batch_size=4, seed=4)
    assert any(other(index).keys != wanted[index].keys for index in range(3))


def test_rows_belong_to_their_keys(dataset: EncodedImages) -> None:
    by_key = {item.key: item for item in dataset}
    batch = TokenBatches(dataset, batch_size=8)(1)
    assert batch.image_tokens.shape == (8, LENGTH)
    for key, caption, codes in zip(batch.keys, batch.captions, batch.image_tokens, strict=True):
        assert caption in by_key[key].captions
        assert torch.equal(codes, by_key[key].image_tokens)


def test_processes_together_take_what_one_would(dataset: EncodedImages) -> None:
    alone = TokenBatches(dataset, batch_size=6, seed=1, caption_dropout=0.5)
    parts = [
        TokenBatches(dataset, batch_size=2, seed=1, rank=rank, world_size=3, caption_dropout=0.5)
        for rank in range(3)
    ]
    for index in range(5):
        whole, split = alone(index), [part(index) for part in parts]
        assert whole.keys == tuple(key for batch in split for key in batch.keys)
        assert whole.captions == tuple(text for batch in split for text in batch.captions)
        assert torch.equal(whole.image_tokens, torch.cat([batch.image_tokens for batch in split]))


def test_first_or_any_caption_is_chosen(dataset: EncodedImages) -> None:
    first = TokenBatches(dataset, batch_size=12, caption_choice="first")
    assert all(caption.startswith("picture") for caption in first(0).captions)
    drawn = TokenBatches(dataset, batch_size=12)
    kinds = Counter(text.split()[0] for index in range(20) for text in drawn(index).captions)
    assert kinds["picture"] == pytest.approx(120, abs=35)
    assert kinds["Bild"] == 240 - kinds["picture"]


def test_a_share_of_captions_is_dropped(dataset: EncodedImages) -> None:
    batches = TokenBatches(dataset, batch_size=12, caption_dropout=0.25)
    dropped = sum(text == "" for index in range(50) for text in batches(index).captions)
    assert dropped == pytest.approx(150, abs=45)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"caption_dropout": 1.5}, "share from 0 to 1, not 1.5"),
        ({"caption_choice": "last"}, "'first' or 'random', not 'last'"),
    ],
)
def test_settings_out_of_range_are_refused(
    dataset: EncodedImages, keywords: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TokenBatches(dataset, **{"batch_size": 1, **keywords})  # type: ignore[arg-type]


def test_batch_that_cannot_be_is_refused(dataset: EncodedImages) -> None:
    batches = TokenBatches(dataset, batch_size=2)
    with pytest.raises(InputError, match="there is no batch -1"):
        batches(-1)
    with pytest.raises(InputTypeError, match="whole number"):
        batches(0.5)  # type: ignore[arg-type]
