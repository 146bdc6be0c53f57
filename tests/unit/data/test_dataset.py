"""`CaptionedImages`: the same interface over every source, and bad records on the way."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from dallemini.data import BadRecord, BadRecordError, CaptionedImages, DataConfig, DataShard
from dallemini.errors import DalleMiniError, InputError
from picture_files import BAD_PICTURES, bad_picture, picture, write_folder, write_parquet

SMALL = DataConfig(image_size=8, max_pixels=5_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six good pictures between bad ones of every kind."""
    write_folder(tmp_path)
    for name in BAD_PICTURES:
        (tmp_path / f"bad-{name}.png").write_bytes(bad_picture(name))
        (tmp_path / f"bad-{name}.txt").write_text("a bad picture")
    (tmp_path / "mute.png").write_bytes(picture(7))
    return tmp_path


def test_a_record_has_picture_captions_and_columns(tmp_path: Path) -> None:
    row = {"image": picture(3), "caption": ["a", "b"], "n": 3, "key": "third", "none": None}
    path = write_parquet(tmp_path / "a.parquet", [row])
    record = CaptionedImages.open(path, config=SMALL)[0]
    assert (record.key, record.captions) == ("third", ("a", "b"))
    assert dict(record.columns) == {"n": 3, "key": "third"}
    assert (record.image.shape, record.image.dtype) == ((3, 8, 8), torch.float32)
    assert torch.allclose(record.image[0], torch.full((8, 8), 30 / 255))


def test_bad_records_are_skipped_counted_and_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = CaptionedImages.open(folder, config=SMALL)
    for _ in range(2):
        records = [record for shard in dataset.shards(4) for record in dataset.read(shard)]
        assert [record.captions[0] for record in records] == [f"picture {n}" for n in range(6)]
    expected = dict.fromkeys([*BAD_PICTURES.values(), "no caption"], 0)
    for reason in [*BAD_PICTURES.values(), "no caption"]:
        expected[reason] += 1
    assert dataset.bad == expected
    assert len(caplog.messages) == sum(expected.values())
    assert {record.name for record in caplog.records} == {"dallemini.data"}
    assert "skipped bad-animated.png: animated (it has several frames)" in caplog.messages


def test_a_bad_record_by_number_is_an_error_and_not_counted(folder: Path) -> None:
    dataset = CaptionedImages.open(folder, config=SMALL)
    with pytest.raises(BadRecordError, match=r"The record bad-animated\.png is bad: animated"):
        dataset[6]
    assert not dataset.bad


def test_the_error_survives_another_process() -> None:
    error = BadRecordError(BadRecord("a.png", "animated", "it has 2 frames"))
    assert isinstance(error, DalleMiniError)
    assert isinstance(error, ValueError)
    sent = pickle.loads(pickle.dumps(error))
    assert (str(sent), sent.record) == (str(error), error.record)


def test_counts_cannot_be_changed_from_outside(folder: Path) -> None:
    with pytest.raises(TypeError):
        CaptionedImages.open(folder).bad["animated"] = 3  # type: ignore[index]


def test_shards_are_consecutive_and_whole(folder: Path) -> None:
    dataset = CaptionedImages.open(folder)
    shards = dataset.shards(5)
    assert shards[0] == DataShard(0, "rows 0 to 4", start=0, stop=5)
    assert [(shard.start, shard.stop) for shard in shards] == [(0, 5), (5, 10), (10, 14)]
    assert pickle.loads(pickle.dumps(shards)) == shards


def test_impossible_numbers_are_refused(folder: Path) -> None:
    dataset = CaptionedImages.open(folder)
    with pytest.raises(InputError, match="at least 1 record, not 0"):
        dataset.shards(0)
    for index in (14, -15):
        with pytest.raises(IndexError, match=rf"no record {index} among the 14"):
            dataset[index]


def test_reading_crops_in_the_middle_whatever_batches_do(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(3, size=(64, 20)))
    (tmp_path / "a.txt").write_text("a")
    plain = CaptionedImages.open(tmp_path, config=DataConfig(image_size=8))
    random = CaptionedImages.open(
        tmp_path, config=DataConfig(image_size=8, crop="random", mirror=True)
    )
    assert torch.equal(plain[0].image, random[0].image)
