"""Tar shards: from files, commands and a server; what is in them, and how they break."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dallemini.data import CaptionedImage, CaptionedImages, DataConfig, DataShard
from dallemini.errors import InputTypeError
from picture_files import Sample, number_of, picture, served, write_shards, write_tar

SMALL = DataConfig(image_size=8)


def read_all(dataset: CaptionedImages) -> list[CaptionedImage]:
    return [record for shard in dataset.shards() for record in dataset.read(shard)]


def read_samples(
    tmp_path: Path, *samples: Sample, **config: Any
) -> tuple[CaptionedImages, list[CaptionedImage]]:
    path = write_tar(tmp_path / "a.tar", samples)
    dataset = CaptionedImages.open(path, config=DataConfig(image_size=8, **config))
    return dataset, read_all(dataset)


def test_every_tar_is_a_shard_and_is_read_in_order(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, shards=3, size=4)
    dataset = CaptionedImages.open(tmp_path, config=SMALL)
    assert dataset.is_stream
    assert dataset.shards(2) == [
        DataShard(n, str(path), url=str(path)) for n, path in enumerate(paths)
    ]
    records = read_all(dataset)
    assert [record.key for record in records] == [f"{n // 4:05}/{n:06}" for n in range(12)]
    assert [number_of(r.image[:, 0, 0].tolist()) for r in records] == list(range(12))
    assert [record.captions for record in records] == [(f"picture {n}",) for n in range(12)]


def test_a_stream_has_no_length_and_no_numbers(tmp_path: Path) -> None:
    write_shards(tmp_path)
    dataset = CaptionedImages.open(tmp_path)
    with pytest.raises(InputTypeError, match="is a stream: its records have no numbers"):
        len(dataset)
    with pytest.raises(InputTypeError, match="is a stream"):
        dataset[0]


def test_a_data_set_with_numbers_is_no_stream(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputTypeError, match="is no stream"):
        _ = CaptionedImages.open(tmp_path).stream


def test_commands_are_run(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=2, size=2)
    dataset = CaptionedImages.open(f"pipe:cat {tmp_path}/{{00000..00001}}.tar", config=SMALL)
    assert len(read_all(dataset)) == 4
    assert not dataset.bad


@pytest.mark.skipif(shutil.which("curl") is None, reason="addresses are fetched by curl")
def test_addresses_are_streamed(tmp_path: Path) -> None:
    write_shards(tmp_path, shards=3, size=2)
    with served(tmp_path) as address:
        dataset = CaptionedImages.open(f"{address}/{{00000..00003}}.tar", config=SMALL)
        records = read_all(dataset)
    assert [record.key for record in records] == [f"{n // 2:05}/{n:06}" for n in range(6)]
    assert dataset.bad == {"broken shard": 1}  # there is no 00003.tar


def test_files_may_be_named_by_their_address(tmp_path: Path) -> None:
    path = write_shards(tmp_path, shards=1, size=2)[0]
    assert len(read_all(CaptionedImages.open(f"file://{path}", config=SMALL))) == 2


def test_img2datasets_fields_are_read(tmp_path: Path) -> None:
    about = {"caption": "from json", "width": 7, "exif": "{}", "sha256": None, "tags": ["a"]}
    _, records = read_samples(
        tmp_path,
        {"jpg": picture(1), "txt": "from txt", "json": json.dumps(about)},
        {"jpg": picture(1), "txt": "from txt", "json": json.dumps({"caption": None})},
    )
    assert records[0].captions == ("from json",)
    assert records[0].columns == {"width": 7, "exif": "{}"}
    assert records[1].captions == ("from txt",)


@pytest.mark.parametrize(
    ("column", "captions"),
    [("txt", ("a cat", "a dog")), ("title", ("in json",)), ("alt.txt", ("in a field",))],
)
def test_captions_come_from_the_field_asked_for(
    tmp_path: Path, column: str, captions: tuple[str, ...]
) -> None:
    _, records = read_samples(
        tmp_path,
        {
            "png": picture(1),
            "txt": "a cat\na dog\n",
            "alt.txt": "in a field",
            "json": '{"title": "in json", "caption": "another"}',
        },
        caption_column=column,
    )
    assert records[0].captions == captions


def test_pictures_come_from_the_field_asked_for(tmp_path: Path) -> None:
    sample: Sample = {"left.png": picture(1), "png": picture(2), "txt": "a"}
    for column, number in (("left.png", 1), (None, 2)):
        _, records = read_samples(tmp_path, sample, image_column=column)
        assert number_of(records[0].image[:, 0, 0].tolist()) == number
    for named in ("right.png", "image"):  # a usual name that is given is meant, too
        dataset, records = read_samples(tmp_path, sample, image_column=named)
        assert (records, dataset.bad) == ([], {"no image": 1})
    _, records = read_samples(tmp_path, {"left.PNG": picture(1), "txt": "a"})
    assert len(records) == 1


def test_bad_records_are_counted_and_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, records = read_samples(
        tmp_path,
        {"png": picture(0), "txt": "good"},
        {"png": picture(1)},
        {"png": picture(2), "txt": " \n"},
        {"png": picture(3), "txt": b"caf\xe9"},
        {"png": picture(4), "json": "{"},
        {"png": picture(5), "json": "[]"},
        {"txt": "no picture"},
        {"png": picture(7)[:50], "txt": "a"},
        {"png": picture(8), "txt": "good"},
    )
    assert [record.key for record in records] == ["a/000000", "a/000008"]
    assert dataset.bad == {
        "no caption": 2,
        "caption is not text": 1,
        "broken metadata": 2,
        "no image": 1,
        "broken image": 1,
    }
    assert "skipped a/000006: no image (it has only the fields txt)" in caplog.messages
    assert len(caplog.messages) == 7
    read_all(dataset)
    assert sum(dataset.bad.values()) == 7  # each once


def test_filters_look_at_the_json(tmp_path: Path) -> None:
    samples: list[Sample] = [
        {"png": picture(n), "json": json.dumps({"caption": "a", "width": n, "clip_score": n / 10})}
        for n in range(6)
    ]
    _, records = read_samples(tmp_path, *samples, where=("width <= 4",), min_clip_score=0.2)
    assert [record.columns["width"] for record in records] == [2, 3, 4]


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_shard_that_was_cut_off_gives_what_is_whole(tmp_path: Path, kept: float) -> None:
    path = write_shards(tmp_path, shards=1, size=8)[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept * 0.75)])  # padding at the end is no loss
    dataset = CaptionedImages.open(path, config=SMALL)
    records = read_all(dataset)
    assert 0 < len(records) < 8
    assert dataset.bad["broken shard"] == 1


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_a_broken_shard(tmp_path: Path, content: bytes) -> None:
    write_shards(tmp_path, shards=2, size=2)
    (tmp_path / "00000.tar").write_bytes(content)
    dataset = CaptionedImages.open(tmp_path, config=SMALL)
    assert len(read_all(dataset)) == 2
    assert dataset.bad == {"broken shard": 1}


@pytest.mark.parametrize(
    ("url", "code"),
    [("pipe:exit 3", 3), ("pipe:echo a && exit 4", 4), ("pipe:no-such-command-here", 127)],
)
def test_a_shard_that_cannot_be_fetched_is_broken(
    url: str, code: int, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    dataset = CaptionedImages.open(url, config=SMALL)
    assert read_all(dataset) == []
    assert dataset.bad == {"broken shard": 1}
    told = f"broken shard (what fetches it failed with exit code {code}; try it in a shell)"
    assert f"skipped {url}: {told}" in caplog.text
    capfd.readouterr()


@pytest.mark.parametrize("command", ["head -c 399892 {}", "cat {}; exit 3"])
def test_a_transfer_that_breaks_gives_what_came(tmp_path: Path, command: str) -> None:
    path = write_shards(tmp_path, shards=1, size=200)[0]
    dataset = CaptionedImages.open("pipe:" + command.format(path), config=SMALL)
    assert 100 < len(read_all(dataset)) <= 200  # what is still in the pipe may be lost
    assert dataset.bad["broken shard"] == 1


def test_reading_may_stop_midway(tmp_path: Path) -> None:
    path = write_shards(tmp_path, shards=1, size=20)[0]
    for source in (path, f"pipe:cat {path}"):
        dataset = CaptionedImages.open(source, config=SMALL)
        reading = iter(dataset.read(dataset.shards()[0]))
        assert next(reading).captions == ("picture 0",)
        del reading
        assert not dataset.bad
