"""Batches: a number means a batch, whatever the ranks, workers, and calls before."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dallemini.data import Batches, CaptionedImages, DataConfig, ImageBatch
from dallemini.errors import InputError, InputTypeError
from picture_files import number_of, picture, served, write_folder, write_parquet, write_shards

# Two workers are more than a machine of one processor has, and PyTorch says so.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SMALL = DataConfig(image_size=8)


def same(one: ImageBatch, other: ImageBatch) -> bool:
    equal = (one.keys, one.captions) == (other.keys, other.captions)
    return equal and torch.equal(one.images, other.images)


def joined(batches: list[ImageBatch]) -> ImageBatch:
    return ImageBatch(
        images=torch.cat([batch.images for batch in batches]),
        captions=tuple(caption for batch in batches for caption in batch.captions),
        keys=tuple(key for batch in batches for key in batch.keys),
    )


@pytest.fixture
def rows(tmp_path: Path) -> CaptionedImages:
    """Eleven oblong pictures with two captions, and everything left to chance."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for n in range(11):
        (folder / f"{n:02}.png").write_bytes(picture(n, size=(40, 24)))
        (folder / f"{n:02}.txt").write_text(f"picture {n}\nanother {n}\n")
    config = DataConfig(image_size=8, crop="random", mirror=True, caption_dropout=0.2)
    return CaptionedImages.open(folder, config=config)


@pytest.fixture
def stream(tmp_path: Path) -> CaptionedImages:
    """Four tars of five."""
    write_shards(tmp_path / "stream", shards=4, size=5)
    return CaptionedImages.open(tmp_path / "stream", config=SMALL)


def test_a_batch_has_pictures_captions_and_keys(rows: CaptionedImages) -> None:
    batch = Batches(rows, batch_size=4)(0)
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, 8, 8), torch.float32)
    for n in range(4):
        number = int(batch.keys[n][:2])
        assert number_of(batch.images[n, :, 0, 0].tolist()) == number
        assert batch.captions[n] in ("", f"picture {number}", f"another {number}")


def test_an_epoch_shows_every_record_once(rows: CaptionedImages) -> None:
    keys = [key for index in range(22) for key in Batches(rows, batch_size=1)(index).keys]
    assert len(set(keys[:11])) == len(set(keys[11:])) == 11
    assert keys[:11] != keys[11:]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_together_draw_what_one_draws(rows: CaptionedImages, world_size: int) -> None:
    whole = Batches(rows, batch_size=6, seed=3)
    parts = [
        Batches(rows, batch_size=6 // world_size, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for index in range(5):
        assert same(joined([part(index) for part in parts]), whole(index))


def test_a_number_means_a_batch_whatever_came_before(rows: CaptionedImages) -> None:
    forward = Batches(rows, batch_size=4)
    expected = [forward(index) for index in range(8)]
    jumping = Batches(rows, batch_size=4)
    for index in (7, 0, 3, 3, 2, 6):
        assert same(jumping(index), expected[index])


def test_another_seed_draws_otherwise(rows: CaptionedImages) -> None:
    assert not same(Batches(rows, batch_size=8, seed=0)(0), Batches(rows, batch_size=8, seed=1)(0))


def test_the_same_record_looks_different_in_the_next_epoch(rows: CaptionedImages) -> None:
    batches = Batches(rows, batch_size=11)
    captions = [dict(zip(batches(n).keys, batches(n).captions, strict=True)) for n in range(4)]
    assert any(len({epoch[key] for epoch in captions}) > 1 for key in captions[0])


@pytest.mark.thorough
def test_workers_draw_the_same_batches(rows: CaptionedImages) -> None:
    alone, helped = Batches(rows, batch_size=4), Batches(rows, batch_size=4, workers=2)
    for index in (0, 1, 2, 7, 8, 1):
        assert same(alone(index), helped(index))
    helped.close()
    assert same(alone(2), helped(2))
    helped.close()


@pytest.mark.thorough_except("0")
@pytest.mark.parametrize("workers", [0, 2])
def test_the_generator_of_the_caller_is_left_alone(
    rows: CaptionedImages, stream: CaptionedImages, workers: int
) -> None:
    before = torch.get_rng_state()
    for dataset in (rows, stream):
        batches = Batches(dataset, batch_size=4, workers=workers)
        batches(0)
        batches(3)
        batches.close()
    assert torch.equal(torch.get_rng_state(), before)


def test_captions_are_dropped_in_their_share(tmp_path: Path) -> None:
    config = DataConfig(image_size=8, caption_dropout=0.3)
    dataset = CaptionedImages.open(write_folder(tmp_path), config=config)
    batches = Batches(dataset, batch_size=50)
    captions = [caption for index in range(10) for caption in batches(index).captions]
    assert 115 < captions.count("") < 185


@pytest.mark.thorough_except("0")
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_records_are_replaced_and_counted(
    tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, 8)
    (tmp_path / "002.png").write_bytes(b"no picture")
    (tmp_path / "005.txt").write_text("")
    dataset = CaptionedImages.open(tmp_path, config=SMALL)
    batches = Batches(dataset, batch_size=4, workers=workers)
    keys = Counter(key for index in range(10) for key in batches(index).keys)
    batches.close()
    assert sum(keys.values()) == 40
    assert set(keys) == {f"{n:03}.png" for n in (0, 1, 3, 4, 6, 7)}
    assert dataset.bad == {"not an image": 1, "no caption": 1}
    assert len(caplog.messages) == 2


@pytest.mark.slow_except("0")
@pytest.mark.parametrize("workers", [0, 1])
def test_records_that_are_all_bad_end_in_one_sentence(tmp_path: Path, workers: int) -> None:
    write_folder(tmp_path, 3)
    for n in range(3):
        (tmp_path / f"{n:03}.png").write_bytes(b"no picture")
    dataset = CaptionedImages.open(tmp_path, config=SMALL)
    batches = Batches(dataset, batch_size=2, workers=workers)
    message = r"100 records of .* in a row cannot be used \(not an image: 100\); the last was 00"
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            batches(0)
    assert dataset.bad == {"not an image": 3}


@pytest.mark.parametrize("index", [-1, -5])
def test_negative_numbers_are_refused(rows: CaptionedImages, index: int) -> None:
    with pytest.raises(InputError, match=f"there is no batch {index}"):
        Batches(rows, batch_size=1)(index)


def test_other_numbers_are_refused(rows: CaptionedImages, stream: CaptionedImages) -> None:
    for dataset in (rows, stream):
        with pytest.raises(InputTypeError, match="numbered by a whole number"):
            Batches(dataset, batch_size=1)(0.5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="batch_size must be at least 1"):
            Batches(dataset, batch_size=0)
        with pytest.raises(InputError, match="rank 1 of world_size 1"):
            Batches(dataset, batch_size=1, rank=1)


def test_pictures_in_parquet_are_drawn_group_by_group(tmp_path: Path) -> None:
    found = [{"image": picture(n), "caption": f"picture {n}"} for n in range(40)]
    path = write_parquet(tmp_path / "a.parquet", found, group=4)
    config = DataConfig(image_size=8, shuffle_buffer=8)
    dataset = CaptionedImages.open(path, config=config)
    batches, helped = Batches(dataset, batch_size=8), Batches(dataset, batch_size=8, workers=2)
    drawn = [batches(index) for index in range(5)]
    numbers = [int(caption.split()[1]) for batch in drawn for caption in batch.captions]
    assert sorted(numbers) == list(range(40))
    for start in range(0, 40, 8):
        assert len({number // 4 for number in numbers[start : start + 8]}) == 2
    assert all(same(helped(index), drawn[index]) for index in range(5))
    helped.close()


def read_keys(batches: Batches, count: int) -> list[str]:
    return [key for index in range(count) for key in batches(index).keys]


def test_a_stream_shows_every_record_once_an_epoch(stream: CaptionedImages) -> None:
    keys = read_keys(Batches(stream, batch_size=4), 10)
    assert len(set(keys[:20])) == len(set(keys[20:])) == 20
    assert sorted(keys[:20]) == sorted(keys[20:])
    assert keys[:20] != keys[20:] != sorted(keys[20:])


@pytest.mark.slow_except("2-2", "4-0")
@pytest.mark.parametrize(("world_size", "workers"), [(2, 0), (4, 0), (1, 2), (2, 2), (1, 4)])
def test_readers_of_a_stream_do_not_overlap(
    stream: CaptionedImages, world_size: int, workers: int
) -> None:
    keys = []
    for rank in range(world_size):
        batches = Batches(stream, batch_size=5, rank=rank, world_size=world_size, workers=workers)
        keys += read_keys(batches, 4 // world_size)
        batches.close()
    assert len(set(keys)) == 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_the_same_batch_for_the_same_number(
    stream: CaptionedImages, workers: int
) -> None:
    batches = Batches(stream, batch_size=3, seed=5, workers=workers)
    expected = [batches(index) for index in range(12)]
    assert same(batches(11), expected[11])
    for index in (4, 5, 9, 2, 0):  # forward, skipping, and back
        assert same(batches(index), expected[index])
    batches.close()
    resumed = Batches(stream, batch_size=3, seed=5, workers=workers)
    assert same(resumed(7), expected[7])
    assert same(resumed(8), expected[8])
    resumed.close()


def test_bad_records_of_a_stream_do_not_move_the_others(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, shards=2, size=10)
    good = CaptionedImages.open(paths, config=SMALL)
    expected = read_keys(Batches(good, batch_size=4), 5)
    content = bytearray(paths[0].read_bytes())
    for _ in range(3):  # pictures that cannot be decoded any more
        start = content.index(b"\x89PNG")
        content[start : start + 4] = b"none"
    paths[0].write_bytes(content)
    dataset = CaptionedImages.open(paths, config=SMALL)
    found = read_keys(Batches(dataset, batch_size=4), 5)
    different = [n for n in range(20) if found[n] != expected[n]]
    assert {expected[n] for n in different} == {f"00000/{place:06}" for place in range(3)}
    assert dataset.bad == {"not an image": 3}
    resumed = Batches(dataset, batch_size=4)(3)
    assert list(resumed.keys) == found[12:16]


def test_too_few_shards_are_refused(stream: CaptionedImages) -> None:
    with pytest.raises(InputError, match=r"has 4 shards, too few for 5 processes with 1 readers"):
        Batches(stream, batch_size=1, world_size=5)
    with pytest.raises(InputError, match=r"for 2 processes with 3 readers each.*Use fewer workers"):
        Batches(stream, batch_size=1, world_size=2, workers=3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_of_which_nothing_passes_says_so(tmp_path: Path, workers: int) -> None:
    write_shards(tmp_path, shards=1, size=3)
    config = DataConfig(image_size=8, where=("width >= 3",))
    dataset = CaptionedImages.open(tmp_path, config=config)
    batches = Batches(dataset, batch_size=1, workers=workers)
    message = r"hold no record.*were left out by 'width >= 3'; the last one had no column 'width'"
    with pytest.raises(InputError, match=message):
        batches(0)


def test_a_stream_of_broken_shards_says_so(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2, size=3)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    dataset = CaptionedImages.open(tmp_path, config=SMALL)
    with pytest.raises(InputError, match=r"cannot be used|hold no record that can be used"):
        Batches(dataset, batch_size=1)(0)
    assert dataset.bad == {"broken shard": 2}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Four shards on a server."""
    write_shards(tmp_path / "served", shards=4, size=5)
    with served(tmp_path / "served") as address:
        yield address


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("curl") is None, reason="addresses are fetched by curl")
def test_a_stream_from_a_server_equals_its_files(address: str, tmp_path: Path) -> None:
    over_http = CaptionedImages.open(f"{address}/{{00000..00003}}.tar", config=SMALL)
    from_disk = CaptionedImages.open(tmp_path / "served", config=SMALL)
    one, other = Batches(over_http, batch_size=4, workers=2), Batches(from_disk, batch_size=4)
    assert sorted(read_keys(one, 4)) != []
    alone = Batches(over_http, batch_size=4)
    assert all(same(alone(index), other(index)) for index in range(5))
    one.close()


def test_large_numbers_of_batches_leave_no_files_open(stream: CaptionedImages) -> None:
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    batches = Batches(stream, batch_size=4)
    for index in itertools.chain(range(8), range(3)):
        batches(index)
    batches.close()
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before + 1
