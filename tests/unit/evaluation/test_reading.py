"""Which captions and pictures are read, and which are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from dallemini.data import (
    BadRecord,
    BadRecordError,
    CaptionedImage,
    CaptionedImages,
    DataConfig,
    DataShard,
)
from dallemini.errors import InputError, InputTypeError, MissingFileError
from dallemini.evaluation import read_captions
from dallemini.evaluation.reading import Reader


class Spoiled(list[CaptionedImage]):
    """A list in which every other record is bad."""

    def __getitem__(self, index: int) -> CaptionedImage:  # type: ignore[override]
        if index % 2:
            raise BadRecordError(BadRecord(str(index), "broken image", "cut"))
        return super().__getitem__(index)


class Stream:
    """Two shards that can only be read in order, with one bad record."""

    is_stream = True

    def __init__(self, records: list[CaptionedImage]) -> None:
        self.records, self.bad = records, Counter[str]()

    def __len__(self) -> int:
        raise InputTypeError("a stream has no length")

    def __getitem__(self, index: int) -> CaptionedImage:
        raise InputTypeError("a stream has no numbers")

    def shards(self) -> list[DataShard]:
        half = len(self.records) // 2
        return [
            DataShard(0, "a", start=0, stop=half),
            DataShard(1, "b", start=half, stop=len(self.records)),
        ]

    def read(self, shard: DataShard) -> Iterator[CaptionedImage]:
        self.bad["animated"] += 1
        yield from self.records[shard.start : shard.stop]


def test_the_choice_is_random_but_fixed_by_its_seed(pictures: list[CaptionedImage]) -> None:
    chosen = [
        [asked.caption for asked in Reader(pictures, size=16, seed=seed)(6)] for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(set(chosen[0])) == 6


def test_more_records_only_add_to_the_choice(pictures: list[CaptionedImage]) -> None:
    few, many = (list(Reader(pictures, size=16)(count)) for count in (3, 9))
    assert [asked.caption for asked in many[:3]] == [asked.caption for asked in few]


def test_a_record_says_everything_about_its_picture(pictures: list[CaptionedImage]) -> None:
    (asked,) = Reader(pictures[:1], size=16, column="style")(5)
    assert asked.caption == "a red apple"
    assert asked.captions == {"a red apple", "a red apple on white"}
    assert asked.group == "round"
    assert asked.image is not None
    assert torch.equal(asked.image, pictures[0].image)


def test_pictures_are_resized_to_what_the_model_draws(pictures: list[CaptionedImage]) -> None:
    (asked,) = Reader(pictures[:1], size=8)(1)
    assert asked.image is not None
    assert asked.image.shape == (3, 8, 8)
    assert torch.allclose(asked.image.mean(), pictures[0].image.mean(), atol=0.02)


def test_captions_alone_have_no_picture() -> None:
    reader = Reader(["a cat", "a dog"], size=16)
    assert not reader.has_pictures
    assert {asked.caption: asked.image for asked in reader(5)} == {"a cat": None, "a dog": None}


def test_bad_records_are_replaced_and_counted(pictures: list[CaptionedImage]) -> None:
    reader = Reader(Spoiled(pictures), size=16)
    assert reader.has_pictures
    assert len(list(reader(6))) == 6
    assert reader.bad == 6
    assert len(list(Reader(Spoiled(pictures), size=16)(12))) == 6


def test_bad_records_of_captioned_images_are_reported(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a {name} picture")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = CaptionedImages.open(tmp_path, config=DataConfig(image_size=16))
    reader = Reader(images, size=16)
    assert [asked.caption for asked in reader(5)] == ["a good picture"]
    assert reader.bad == sum(images.bad.values()) == 1


def test_streams_are_read_in_order(pictures: list[CaptionedImage]) -> None:
    reader = Reader(Stream(pictures), size=16)
    assert reader.is_stream
    assert reader.has_pictures
    assert reader.count(5) == 5
    found = [asked.caption for asked in reader(8)]
    assert found == [record.captions[0] for record in pictures[:8]]
    assert reader.bad == 2


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(InputError, match="hold no caption"):
        _ = Reader([], size=16).has_pictures


def test_a_source_without_a_good_record_is_refused(pictures: list[CaptionedImage]) -> None:
    with pytest.raises(InputError, match="every record of the data is bad"):
        list(Reader(Stream([]), size=16)(5))


def test_a_single_string_is_refused() -> None:
    with pytest.raises(InputTypeError, match="not one string"):
        _ = Reader("captions.txt", size=16).has_pictures


def test_an_unknown_column_is_refused_with_the_known_ones(pictures: list[CaptionedImage]) -> None:
    with pytest.raises(InputError, match="no column 'set'; the data have: style"):
        list(Reader(pictures, size=16, column="set")(1))


@pytest.mark.parametrize("shape", [(3, 16, 8), (1, 16, 16), (16, 16)])
def test_pictures_that_are_not_square_are_refused(shape: tuple[int, ...]) -> None:
    record = CaptionedImage(key="0", image=torch.zeros(shape), captions=("a cat",))
    with pytest.raises(InputError, match="must be square"):
        list(Reader([record], size=16)(1))


def test_a_picture_without_a_caption_is_refused() -> None:
    record = CaptionedImage(key="0", image=torch.zeros(3, 16, 16), captions=())
    with pytest.raises(InputError, match="needs a caption"):
        list(Reader([record], size=16)(1))


def test_captions_are_the_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("\ufeffa cat\n\n  ein Bär \r\n", encoding="utf-8")
    assert read_captions(path) == ["a cat", "ein Bär"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingFileError, "There is no file"),
        (b"\n \n", InputError, "holds no caption"),
        (b"\xff\xfe\x00", InputError, "holds no captions: it is not UTF-8 from byte 0 on"),
        (b"<!DOCTYPE html>", InputError, "is a web page, not the file itself"),
    ],
)
def test_files_without_captions_are_refused(
    tmp_path: Path, content: bytes | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / "captions.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_captions(path)
