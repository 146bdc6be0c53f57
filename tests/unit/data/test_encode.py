"""Encoding: the same rows however the work is divided, what is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import logging
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from dallemini import VQGAN
from dallemini.data import CaptionedImages, DataConfig
from dallemini.data.encode import EncodeReport, encode_images
from dallemini.data.pieces import Pictures, Pieces
from dallemini.data.token_shards import TokenShard, rewrite_shard, shard_name
from dallemini.data.tokens import EncodedImages
from dallemini.errors import InputError, InputTypeError, StorageError, UnsupportedOperationError
from dallemini.testing import TINY_VQGAN, tiny_vqgan

CONFIG = DataConfig(image_size=16, min_side=8)


@pytest.fixture(scope="module")
def vqgan() -> VQGAN:
    return tiny_vqgan()


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="dallemini.data")


def picture_file(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def png(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return picture_file(Image.fromarray(pixels), "PNG")


def write_folder(folder: Path, count: int, *, bad: tuple[int, ...] = ()) -> Path:
    """Write pictures with two captions and a score each; bad ones are cut in the middle."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        content = png(number)
        content = content[: len(content) // 2] if number in bad else content
        (folder / f"{number:03}.png").write_bytes(content)
        texts = [f"picture {number}", f"number {number}"]
        rows.append({"image": f"{number:03}.png", "caption": texts, "score": number / 8})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return folder


def write_tar_of(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_tars(folder: Path, *counts: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = itertools.count()
    for index, count in enumerate(counts):
        files: dict[str, bytes] = {}
        for number in itertools.islice(numbers, count):
            files |= {f"{number:03}.png": png(number), f"{number:03}.txt": b"picture %d" % number}
        write_tar_of(folder / f"{index:02}.tar", files)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", 11, bad=(2, 9))


def open_data(source: Path | str | list[Path], **settings: Any) -> CaptionedImages:
    return CaptionedImages.open(source, config=dataclasses.replace(CONFIG, **settings))


def run(vqgan: VQGAN, source: Path | str, output: Path, **settings: Any) -> EncodeReport:
    keywords = {"shard_size": 4, "batch_size": 3, "progress": False, **settings}
    return encode_images(vqgan, open_data(source), output, **keywords)


def files_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


def stop_at_pictures(encode: Any) -> Any:
    """Return a method that is interrupted at the first pictures; zeros are a trial."""

    def stopping(self: VQGAN, images: torch.Tensor) -> torch.Tensor:
        if images.any():
            raise KeyboardInterrupt
        codes: torch.Tensor = encode(self, images)
        return codes

    return stopping


def rows_of(output: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for path in sorted(output.iterdir()):
        with pyarrow.parquet.ParquetFile(path) as file:
            found[path.name] = file.read().to_pylist()
    return found


def test_rows_are_what_the_vqgan_says_of_each_picture(
    vqgan: VQGAN, pictures: Path, tmp_path: Path
) -> None:
    report = run(vqgan, pictures, tmp_path / "out")
    assert (report.images, report.shards, report.skipped_shards) == (9, 3, 0)
    assert report.bad == {"broken image": 2}
    data, encoded = open_data(pictures), EncodedImages.open(tmp_path / "out")
    good = [number for number in range(11) if number not in (2, 9)]
    assert len(encoded) == len(good)
    assert (encoded.image_length, encoded.codebook_size) == (16, 64)
    for item, number in zip(encoded, good, strict=True):
        wanted = data[number]
        assert (item.key, item.captions) == (wanted.key, wanted.captions)
        assert torch.equal(item.image_tokens, vqgan.encode(wanted.image[None])[0])


def test_other_columns_are_kept(vqgan: VQGAN, pictures: Path, tmp_path: Path) -> None:
    run(vqgan, pictures, tmp_path / "out")
    shards = rows_of(tmp_path / "out")
    assert list(shards) == [shard_name(number) for number in range(3)]
    assert [row["score"] for row in shards[shard_name(0)]] == [0.0, 1 / 8, 3 / 8]


def test_footer_says_what_made_the_shard(vqgan: VQGAN, pictures: Path, tmp_path: Path) -> None:
    run(vqgan, pictures, tmp_path / "out")
    metadata = TokenShard.read(tmp_path / "out" / shard_name(2)).metadata
    assert metadata["vqgan_config"] == TINY_VQGAN.to_dict()
    assert metadata["data"]["image_size"] == 16
    assert metadata["source"] == ["", 8, 11]
    assert (metadata["shard"], metadata["shards"], metadata["records"]) == (2, 3, 11)
    assert metadata["bad"] == {"broken image": 1}


@pytest.mark.slow_except("settings0")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 64}, {"workers": 3, "batch_size": 1}],
)
def test_rows_do_not_depend_on_how_the_work_is_done(
    vqgan: VQGAN,
    pictures: Path,
    tmp_path: Path,
    settings: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(vqgan, pictures, tmp_path / "one")
    monkeypatch.setattr("dallemini.data.pieces.PIECE", 2)  # several pieces of a shard
    report = run(vqgan, pictures, tmp_path / "two", **settings)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    assert (report.images, report.bad) == (9, {"broken image": 2})


@pytest.mark.parametrize("world_size", [2, 5])
def test_processes_share_the_shards(
    vqgan: VQGAN, pictures: Path, tmp_path: Path, world_size: int
) -> None:
    run(vqgan, pictures, tmp_path / "one")
    reports = [
        run(vqgan, pictures, tmp_path / "two", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert sum(report.images for report in reports) == 9
    assert sum(report.shards for report in reports) == 3
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}


def test_finished_shards_are_kept(vqgan: VQGAN, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(vqgan, pictures, output)
    whole = {path.name: path.read_bytes() for path in output.iterdir()}
    (output / shard_name(1)).unlink()
    times = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    report = run(vqgan, pictures, output)
    assert (report.images, report.shards, report.skipped_shards) == (4, 1, 2)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == whole
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    again = run(vqgan, pictures, output)
    assert (again.images, again.shards, again.skipped_shards) == (0, 0, 3)


def test_shard_without_a_good_picture_is_tried_again(vqgan: VQGAN, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pictures", 5, bad=(4,))
    assert run(vqgan, source, tmp_path / "out").images == 4
    write_folder(source, 5)
    report = run(vqgan, source, tmp_path / "out")
    assert (report.images, report.skipped_shards) == (1, 1)
    assert len(EncodedImages.open(tmp_path / "out")) == 5


def test_tar_that_broke_off_is_tried_again(vqgan: VQGAN, tmp_path: Path) -> None:
    (whole,) = write_tars(tmp_path / "tars", 5).iterdir()
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    report = run(vqgan, whole, tmp_path / "out")
    assert 0 < report.images < 5
    assert report.bad == {"broken shard": 1}
    whole.write_bytes(content)
    assert run(vqgan, whole, tmp_path / "out").images == 5
    assert run(vqgan, whole, tmp_path / "out").skipped_shards == 1


@pytest.mark.parametrize("rest", [0, 1])
def test_tars_that_the_filters_leave_empty_leave_no_file(
    vqgan: VQGAN, tmp_path: Path, rest: int
) -> None:
    tars = sorted(write_tars(tmp_path / "tars", 1, rest).iterdir())
    data = open_data(tars, where=("width > 3",))  # which no record has
    for _ in range(2):
        with pytest.raises(InputError, match="none passes the filters"):
            encode_images(vqgan, data, tmp_path / "out", progress=False)
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow_except("0")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_every_tar_of_a_stream_is_a_shard(vqgan: VQGAN, tmp_path: Path, workers: int) -> None:
    source = write_tars(tmp_path / "tars", 5, 2, 4)
    report = run(vqgan, f"{source}/{{00..02}}.tar", tmp_path / "out", workers=workers)
    assert (report.images, report.shards) == (11, 3)
    shards = rows_of(tmp_path / "out")
    assert [len(rows) for rows in shards.values()] == [5, 2, 4]
    captions = [row["captions"] for rows in shards.values() for row in rows]
    assert captions == [[f"picture {number}"] for number in range(11)]
    wanted = write_folder(tmp_path / "pictures", 11)
    run(vqgan, wanted, tmp_path / "folder", shard_size=11)
    codes = [row["image_tokens"] for rows in shards.values() for row in rows]
    assert codes == [r["image_tokens"] for r in rows_of(tmp_path / "folder")[shard_name(0)]]


@pytest.mark.thorough
def test_codes_of_a_trained_vqgan_are_those_of_any_batch_size() -> None:
    vqgan = VQGAN.from_pretrained("dallemini/emoji", subfolder="vqgan")
    noise = torch.rand(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(noise, scale_factor=8, mode="bilinear")
    alone = torch.cat([vqgan.encode(image[None]) for image in images])
    for size in (3, 16, 48):
        together = torch.cat([vqgan.encode(batch) for batch in images.split(size)])
        # two codes may be equally near to within the rounding of floats, which is rare
        assert (together != alone).float().mean() < 0.001


def test_what_workers_get_can_be_pickled(pictures: Path) -> None:
    data = open_data(pictures)
    pieces = pickle.loads(pickle.dumps(Pieces(data, data.shards(4), 3)))
    assert [len(item.keys) for item in pieces if isinstance(item, Pictures)] == [3, 3, 1, 2]


def test_codes_beyond_sixteen_bits_are_kept(pictures: Path, tmp_path: Path) -> None:
    vqgan = tiny_vqgan(dataclasses.replace(TINY_VQGAN, n_embed=2**16 + 10))
    run(vqgan, pictures, tmp_path / "out")
    encoded = EncodedImages.open(tmp_path / "out")
    image = open_data(pictures)[0].image
    assert torch.equal(encoded[0].image_tokens, vqgan.encode(image[None])[0])


def test_pictures_between_the_levels_of_a_byte_stay_exact(
    vqgan: VQGAN, pictures: Path, tmp_path: Path
) -> None:
    class Dimmed(CaptionedImages):
        def prepare(self, *args: Any, **keywords: Any) -> Any:
            item = super().prepare(*args, **keywords)
            return dataclasses.replace(item, image=item.image * 0.7)

    dataset = Dimmed.open(pictures, config=CONFIG)
    encode_images(vqgan, dataset, tmp_path / "out", progress=False)
    image = open_data(pictures)[0].image * 0.7
    encoded = EncodedImages.open(tmp_path / "out")
    assert torch.equal(encoded[0].image_tokens, vqgan.encode(image[None])[0])


def test_another_decoder_of_the_same_codes_is_welcome(
    vqgan: VQGAN, pictures: Path, tmp_path: Path
) -> None:
    run(vqgan, pictures, tmp_path / "out")
    other = tiny_vqgan()
    with torch.no_grad():
        other.decoder.conv_in.weight.add_(1)
    assert run(other, pictures, tmp_path / "out").skipped_shards == 3


def changed_codebook() -> VQGAN:
    vqgan = tiny_vqgan()
    with torch.no_grad():
        vqgan.quantize.embedding.weight[5, 1] += 1
    return vqgan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vqgan": changed_codebook}, "made with another VQGAN"),
        ({"vqgan": lambda: tiny_vqgan(seed=1)}, "made with another VQGAN"),
        ({"vqgan": lambda: tiny_vqgan().to(torch.bfloat16)}, "made with another VQGAN"),
        ({"data": {"image_size": 32}}, "another image_length: image_length is 16 there and 64"),
        ({"data": {"crop": "pad"}}, "other settings of the data"),
        ({"data": {"where": ("score > 0",)}}, "other settings of the data"),
        ({"shard_size": 5}, "another shard_size: shard_size is 4 there and 5 now"),
        ({"shard_size": 11}, "holds tokens-00001.parquet, but these data make 1 shards"),
    ],
)
def test_shards_that_do_not_fit_are_refused_and_kept(
    vqgan: VQGAN, pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = tmp_path / "out"
    run(vqgan, pictures, output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    other = changes["vqgan"]() if "vqgan" in changes else vqgan
    data = open_data(pictures, **changes.get("data", {}))
    with pytest.raises(InputError, match=message):
        encode_images(other, data, output, shard_size=changes.get("shard_size", 4))
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_grown_and_shrunken_data_are_encoded_where_they_changed(
    vqgan: VQGAN, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "pictures", 6)
    for count, images, skipped in ((6, 6, 0), (7, 3, 1), (9, 5, 1), (5, 1, 1)):
        write_folder(source, count)
        report = run(vqgan, source, tmp_path / "out")
        assert (report.images, report.skipped_shards) == (images, skipped)
        run(vqgan, source, tmp_path / f"new-{count}")
        assert files_of(tmp_path / "out") == files_of(tmp_path / f"new-{count}")


def test_changed_pictures_are_encoded_again(vqgan: VQGAN, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pictures", 8)
    run(vqgan, source, tmp_path / "out")
    (source / "005.png").write_bytes(png(77))
    report = run(vqgan, source, tmp_path / "out")
    assert (report.images, report.skipped_shards, report.updated_shards) == (4, 1, 0)
    run(vqgan, source, tmp_path / "new")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")
    assert run(vqgan, source, tmp_path / "out").skipped_shards == 2


def test_changed_captions_and_columns_are_taken_without_encoding(
    vqgan: VQGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "pictures", 8, bad=(1,))
    run(vqgan, source, tmp_path / "out")
    path = source / "metadata.jsonl"
    path.write_text(path.read_text().replace("number 2", "changed").replace("0.75", "0.5"))
    report = run(vqgan, source, tmp_path / "out")
    assert (report.images, report.skipped_shards, report.updated_shards) == (0, 2, 2)
    assert EncodedImages.open(tmp_path / "out")[1].captions == ("picture 2", "changed")
    run(vqgan, source, tmp_path / "new")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_captions_that_come_and_go_are_noticed(vqgan: VQGAN, tmp_path: Path) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(png(number))
        (source / f"{number}.txt").write_text(f"picture {number}")
    (source / "1.txt").unlink()
    assert run(vqgan, source, tmp_path / "out").images == 2
    (source / "1.txt").write_text("picture 1")
    assert run(vqgan, source, tmp_path / "out").images == 3
    (source / "2.txt").write_text("")
    assert run(vqgan, source, tmp_path / "out").images == 2
    assert [item.key for item in EncodedImages.open(tmp_path / "out")] == ["0.png", "1.png"]


@pytest.mark.parametrize("kind", ["folder", "tars"])
def test_other_data_of_the_same_size_are_never_taken_for_the_first(
    vqgan: VQGAN, tmp_path: Path, kind: str
) -> None:
    sources = [tmp_path / "a" / kind, tmp_path / "b" / kind]
    for seed, source in enumerate(sources):
        source.mkdir(parents=True)
        names = [f"{number}.{end}" for number in range(3) for end in ("png", "txt")]
        contents = [c for n in range(3) for c in (png(10 * seed + n), b"the same text")]
        if kind == "folder":
            for name, content in zip(names, contents, strict=True):
                (source / name).write_bytes(content)
        else:
            write_tar_of(source / "0.tar", dict(zip(names, contents, strict=True)))
    run(vqgan, sources[0], tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(
        InputError, match=r"was made from other pictures than .*/b/.*Choose another"
    ):
        run(vqgan, sources[1], tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    assert run(vqgan, sources[1], tmp_path / "out", replace=True).images == 3
    run(vqgan, sources[1], tmp_path / "new")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "new")


def test_a_folder_that_moved_is_the_same(vqgan: VQGAN, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pictures", 5)
    run(vqgan, source, tmp_path / "out")
    moved = source.rename(tmp_path / "moved")
    assert run(vqgan, moved, tmp_path / "out").images == 0
    (moved / "001.png").write_bytes(png(77))
    assert run(vqgan, moved, tmp_path / "out").images == 4


def test_large_files_are_known_by_their_beginning_and_their_time(
    vqgan: VQGAN, tmp_path: Path
) -> None:
    source = tmp_path / "pictures"
    source.mkdir()
    content = [picture_file(Image.new("RGB", (200, 200), color), "BMP") for color in ("red", "tan")]
    (source / "a.bmp").write_bytes(content[0])
    (source / "a.txt").write_text("a picture")
    assert run(vqgan, source, tmp_path / "out").images == 1
    assert run(vqgan, source, tmp_path / "out").images == 0
    middle = len(content[0]) - 3000  # behind what is looked at
    (source / "a.bmp").write_bytes(content[0][:middle] + content[1][middle:])
    assert run(vqgan, source, tmp_path / "out").images == 1


def test_stale_shards_are_gone_before_anything_is_encoded(
    vqgan: VQGAN, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "pictures", 8)
    run(vqgan, source, tmp_path / "out")
    (source / "001.png").write_bytes(png(77))
    monkeypatch.setattr(VQGAN, "encode", stop_at_pictures(VQGAN.encode))
    with pytest.raises(KeyboardInterrupt):
        run(vqgan, source, tmp_path / "out")
    with pytest.raises(InputError, match=r"1 of 2 shards; missing: tokens-00000\.parquet"):
        EncodedImages.open(tmp_path / "out")


def test_shards_of_an_older_version_are_refused_or_replaced(vqgan: VQGAN, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pictures", 3)
    run(vqgan, source, tmp_path / "out")
    shard = TokenShard.read(tmp_path / "out" / shard_name(0))
    old = {k: v for k, v in shard.metadata.items() if k not in ("pictures", "texts", "origin")}
    assert rewrite_shard(shard, old, None)
    with pytest.raises(InputError, match="older version, which did not note its pictures"):
        run(vqgan, source, tmp_path / "out")
    assert run(vqgan, source, tmp_path / "out", replace=True).images == 3


def test_keys_that_stand_for_several_pictures_are_encoded_again(
    vqgan: VQGAN, tmp_path: Path
) -> None:
    source = write_folder(tmp_path / "pictures", 2)
    path = source / "metadata.jsonl"
    path.write_text(path.read_text() + '{"image": "000.png", "caption": "again"}\n')
    run(vqgan, source, tmp_path / "out")
    path.write_text(path.read_text().replace("again", "once more"))
    report = run(vqgan, source, tmp_path / "out")
    assert (report.images, report.updated_shards) == (3, 0)
    assert EncodedImages.open(tmp_path / "out")[2].captions == ("once more",)


def test_settings_of_training_play_no_part(vqgan: VQGAN, pictures: Path, tmp_path: Path) -> None:
    run(vqgan, pictures, tmp_path / "out")
    data = open_data(
        pictures, caption_dropout=0.5, caption_choice="first", mirror=True, crop="random"
    )
    report = encode_images(vqgan, data, tmp_path / "out", shard_size=4, progress=False)
    assert report.skipped_shards == 3


def test_file_that_is_no_shard_is_refused(vqgan: VQGAN, pictures: Path, tmp_path: Path) -> None:
    run(vqgan, pictures, tmp_path / "out")
    (tmp_path / "out" / shard_name(1)).write_bytes(b"half")
    with pytest.raises(InputError, match=r"cannot be read as Parquet .*; delete it"):
        run(vqgan, pictures, tmp_path / "out")


def test_data_without_a_good_record_are_refused(vqgan: VQGAN, tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pictures", 3, bad=(0, 1, 2))
    with pytest.raises(InputError, match=r"None of the records can be used \(3 broken image\)"):
        run(vqgan, source, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_size": 0}, "shard_size must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rank": 1}, "rank 1 of world_size 1"),
        ({"workers": -1}, "workers must be 0 or more"),
    ],
)
def test_sizes_out_of_range_are_refused(
    vqgan: VQGAN, pictures: Path, tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(vqgan, pictures, tmp_path / "out", **settings)


def test_picture_size_that_the_vqgan_does_not_take_is_refused(
    vqgan: VQGAN, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="multiples of 4, not 18x18"):
        encode_images(vqgan, open_data(pictures, image_size=18), tmp_path / "out")


def test_decoder_alone_is_refused(pictures: Path, tmp_path: Path) -> None:
    decoder = tiny_vqgan(dataclasses.replace(TINY_VQGAN, has_encoder=False))
    with pytest.raises(UnsupportedOperationError, match="holds only the decoder"):
        run(decoder, pictures, tmp_path / "out")


def test_output_that_cannot_be_a_folder_is_refused(
    vqgan: VQGAN, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Could not make"):
        run(vqgan, pictures, tmp_path / "file" / "out")
    with pytest.raises(InputTypeError, match="named by a string or a path"):
        encode_images(vqgan, open_data(pictures), 3)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2])
def test_trouble_in_reading_comes_as_it_is(
    vqgan: VQGAN, pictures: Path, tmp_path: Path, workers: int
) -> None:
    class Failing(CaptionedImages):
        def raw_records(self, shard: Any) -> Any:
            yield from super().raw_records(shard)
            raise InputError("The disk is gone.")

    dataset = Failing.open(pictures, config=CONFIG)
    with pytest.raises(InputError, match=r"^The disk is gone\.$"):
        encode_images(vqgan, dataset, tmp_path / "out", workers=workers, progress=False)
    assert os.listdir(tmp_path / "out") == []


def test_bar_tells_pictures_per_second(
    vqgan: VQGAN, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(vqgan, pictures, tmp_path / "out", progress=True)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "11/11" in last
    assert "images/s" in last


def test_only_the_first_process_shows_a_bar(
    vqgan: VQGAN, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(vqgan, pictures, tmp_path / "out", progress=True, rank=1, world_size=2)
    assert capsys.readouterr().err == ""
