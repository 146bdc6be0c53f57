"""Which files of a tar belong together: points in names, order, second pictures, and bounds."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from dallemini.data import CaptionedImages, DataConfig
from dallemini.data.sources import tar_members, tar_window
from picture_files import number_of, picture, write_shards, write_tar_files

Files = Sequence[tuple[str, bytes | str]]
Found = list[tuple[str, int, tuple[str, ...]]]


def read(path: Path, files: Files | None = None, **config: object) -> tuple[Found, dict[str, int]]:
    """Return key, number and captions of all records, and what is bad."""
    if files is not None:
        write_tar_files(path, files)
    settings = DataConfig.from_dict({"image_size": 8, **config})
    dataset = CaptionedImages.open(path, config=settings)
    records = [record for shard in dataset.shards() for record in dataset.read(shard)]
    found = [(r.key, number_of(r.image[:, 0, 0].tolist()), r.captions) for r in records]
    return found, dict(dataset.bad)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return tmp_path / "a.tar"


DATES = ("2022.05.01", "2022.05.02", "2022.05.03", "2023.01.01")


def files_of(name: str, number: int, text: str) -> Files:
    """Return a picture, with a caption of its number in a file of some kind, or without."""
    image = (f"{name}.png", picture(number))
    caption = f"text {number}"
    texts = {
        "txt": [(f"{name}.txt", caption)],
        "caption": [(f"{name}.caption", caption)],
        "json": [(f"{name}.json", f'{{"caption": "{caption}"}}')],
        "png.txt": [(f"{name}.png.txt", caption)],
        "both": [(f"{name}.json", '{"caption": "", "n": 1}'), (f"{name}.TXT", caption)],
        "none": [],
    }
    return [image, *texts[text]]


@pytest.mark.parametrize("text", ["txt", "caption", "json", "png.txt", "both", "none"])
@pytest.mark.parametrize("order", ["together", "texts first", "pictures first", "reversed"])
def test_every_picture_is_a_record_with_its_texts(tar: Path, text: str, order: str) -> None:
    names = [*DATES, "v1.5 a cat", "plain", "sub.folder/a.b", "café".encode().decode()]
    records = [files_of(name, number, text) for number, name in enumerate(names)]
    files = list(itertools.chain(*records))
    if order != "together":
        files.sort(key=lambda file: file[0].endswith(".png") == (order == "texts first"))
    if order == "reversed":
        files.reverse()
    found, bad = read(tar, files, require_captions=text != "none")
    assert bad == {}
    wanted = {
        (f"a/{name}", number, () if text == "none" else (f"text {number}",))
        for number, name in enumerate(names)
    }
    assert set(found) == wanted
    if order == "together":
        assert [key for key, *_ in found] == [f"a/{name}" for name in names]


def test_letters_with_accents_are_compared_composed(tar: Path) -> None:
    found, bad = read(tar, [("cafe\u0301.png", picture(1)), ("caf\u00e9.txt", "a café")])
    assert ([captions for *_, captions in found], bad) == ([("a café",)], {})


def test_a_second_picture_of_one_name_is_counted_and_named(
    tar: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files: Files = [("0.png", picture(1)), ("0.jpg", picture(2)), ("0.txt", "a")]
    files = [*files, ("1.png", picture(3)), ("1.txt", "b"), ("0.webp", picture(4))]
    found, bad = read(tar, files)
    assert [(key, captions) for key, _, captions in found] == [("a/0", ("a",)), ("a/1", ("b",))]
    assert found[0][1] == 2  # a jpg comes before a png
    assert bad == {"second image": 2}
    assert "skipped a/0.png: second image (0 has the texts of this name; set image_" in caplog.text


def test_of_several_pictures_with_one_text_the_first_has_it(tar: Path) -> None:
    files: Files = [
        *((f"{n}.{side}.png", picture(2 * n + s)) for n in (0,) for s, side in enumerate("lr")),
        ("0.txt", "zero"),
        ("1.json", '{"caption": "one"}'),
        ("1.l.png", picture(4)),
        ("1.r.png", picture(5)),
        ("2.png", picture(6)),
        ("2.txt", "two"),
    ]
    found, bad = read(tar, files)
    assert found == [("a/0.l", 0, ("zero",)), ("a/1.l", 4, ("one",)), ("a/2", 6, ("two",))]
    assert bad == {"second image": 2}
    found, bad = read(tar, image_column="r.png")
    assert (found, bad) == ([("a/0", 1, ("zero",)), ("a/1", 5, ("one",))], {"no image": 1})


@pytest.mark.parametrize("required", [True, False])
def test_files_too_far_apart_are_counted_with_a_hint(
    tar: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, required: bool
) -> None:
    monkeypatch.setattr(tar_window, "WINDOW", 400)
    files = [(f"{n}.png", picture(n)) for n in range(12)]
    found, bad = read(
        tar, [*files, *((f"{n}.txt", "a") for n in range(12))], require_captions=required
    )
    assert len(found) + sum(bad.values()) == 12
    assert sum(captions == ("a",) for *_, captions in found) < 8
    assert "write the tar sorted by name (tar --sort=name)" in caplog.text


def test_links_devices_and_folders_are_not_read(tar: Path) -> None:
    with tarfile.open(tar, "w") as file:
        for name, kind in (
            ("0.png", tarfile.SYMTYPE),
            ("1.png", tarfile.LNKTYPE),
            ("2.png", tarfile.CHRTYPE),
            ("3.png", tarfile.FIFOTYPE),
            ("4.png", tarfile.DIRTYPE),
        ):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = kind, "/etc/passwd"
            file.addfile(about)
            text = tarfile.TarInfo(f"{name[0]}.txt")
            text.size = 1
            file.addfile(text, io.BytesIO(b"a"))
    assert read(tar) == ([], {"no image": 5})


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_gigabytes_in_a_tar_are_not_read(tmp_path: Path, ending: str) -> None:
    first, second = (
        write_tar_files(tmp_path / name, [(f"{name}.png", picture(1)), (f"{name}.txt", "a")])
        for name in ("b", "c")
    )
    start = first.read_bytes()[:2048]
    about = tarfile.TarInfo("0.png")
    about.size = 2**32
    path = tmp_path / f"a.{ending}"
    if ending == "tar":
        with path.open("wb") as file:
            file.write(start + about.tobuf())
            file.seek(2**32, io.SEEK_CUR)
            file.write(second.read_bytes())
    else:
        data = start + about.tobuf() + bytes(2**20)
        path.write_bytes({"gz": gzip, "xz": lzma, "bz2": bz2}[ending[4:]].compress(data))
    tracemalloc.start()
    try:
        found, bad = read(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
    assert len(found) == (2 if ending == "tar" else 1)
    assert bad == ({"no image": 1} if ending == "tar" else {"broken shard": 1})


def test_headers_of_gigabytes_are_not_read(tmp_path: Path) -> None:
    about = tarfile.TarInfo("././@LongLink")
    about.type, about.size = tarfile.GNUTYPE_LONGNAME, 2**32
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(about.tobuf() + bytes(2**20)))
    assert read(tmp_path / "a.tar.gz") == ([], {"broken shard": 1})


def test_a_header_that_leads_back_ends_the_tar(tar: Path) -> None:
    write_tar_files(tar, [("0.png", picture(1)), ("0.txt", "a")])
    content = bytearray(tar.read_bytes())
    about = tarfile.TarInfo("1.png").tobuf(tarfile.GNU_FORMAT)
    header = bytearray(about[:512])
    header[124:136] = b"\xff" * 10 + (2**16 - 1024).to_bytes(2, "big")  # a size of -1024
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    tar.write_bytes(bytes(content[:2048]) + bytes(header) + bytes(10_240))
    found, bad = read(tar)
    assert (len(found), bad) == (1, {"no caption": 1, "broken shard": 1})


@pytest.mark.parametrize("trouble", ["damaged header", "joined"])
def test_what_follows_a_false_end_is_not_swallowed(tmp_path: Path, trouble: str) -> None:
    path = write_shards(tmp_path, shards=1, size=4)[0]
    content = bytearray(path.read_bytes())
    if trouble == "joined":
        path.write_bytes(content + content)
    else:
        content[2048:2060] = b"\xff" * 12
        path.write_bytes(content)
    found, bad = read(path)
    assert len(found) == (4 if trouble == "joined" else 1)
    assert bad == {"broken shard": 1}


def test_a_tar_packed_by_zstd_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert read(tmp_path / "a.tar.zst") == ([], {"broken shard": 1})
    assert "packed by zstd are not read; unpack it" in caplog.text


def test_a_stream_whose_first_bytes_were_read_is_whole() -> None:
    pushed = tar_members._Pushed(b"abcdef", io.BytesIO(b"ghij"))
    assert [pushed.read(size) for size in (2, 1, 5, 9, 1)] == [b"ab", b"c", b"defgh", b"ij", b""]
