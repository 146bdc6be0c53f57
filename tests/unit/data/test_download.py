"""Tables of addresses: pictures fetched once beside them, what failed said, what is there kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dallemini.data import BadRecordError, CaptionedImages, DataConfig
from dallemini.data.download import LOG, download_images
from picture_files import picture, served, write_parquet

CONFIG = DataConfig(image_size=8, min_side=4)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
    (folder / "page.png").write_bytes(b"<html>gone</html>")
    return folder


def table(path: Path, address: str) -> Path:
    names = ["0.png", "1.png", "page.png", "none.png", "2.png", "0.png"]
    rows = [
        {"URL": f"{address}/{name}", "TEXT": f"picture {number}", "width": number}
        for number, name in enumerate(names)
    ]
    return write_parquet(path, rows)


def test_pictures_are_fetched_beside_their_table_and_found_there(
    site: Path, tmp_path: Path
) -> None:
    with served(site) as address:
        path = table(tmp_path / "laion" / "part.parquet", address)
        data = CaptionedImages.open(path, config=CONFIG)
        with pytest.raises(
            BadRecordError, match=r"no image, it is an address; fetch all by `dalle"
        ):
            data[0]
        report = download_images(data, progress=False)
    assert (report.images, report.there) == (3, 0)
    assert sum(report.failed.values()) == 2
    assert {"no picture", "HTTP Error 404: File not found"} == set(report.failed)
    again = CaptionedImages.open(path, config=CONFIG)
    assert [again[number].captions for number in (0, 1, 4, 5)] == [
        *(("picture 0",), ("picture 1",), ("picture 4",), ("picture 5",))
    ]
    log = [json.loads(line) for line in (path.parent / "downloads" / LOG).read_text().splitlines()]
    assert {row["status"] for row in log} == {"success", "failed_to_download"}
    first = next(row for row in log if row["url"].endswith("/0.png"))
    assert (first["width"], first["height"], first["error_message"]) == (24, 24, None)
    assert set(first) == {*("url", "key", "status", "error_message", "width", "height", "sha256")}


def test_what_is_there_is_not_fetched_again(site: Path, tmp_path: Path) -> None:
    with served(site) as address:
        path = table(tmp_path / "part.parquet", address)
        config = DataConfig(image_size=8, min_side=4, where=("width < 2",))
        assert (
            download_images(CaptionedImages.open(path, config=config), progress=False).images == 2
        )
        shutil.rmtree(site)
        site.mkdir()
        report = download_images(CaptionedImages.open(path, config=CONFIG), progress=False)
    assert (report.images, report.there) == (0, 3)
    assert sum(report.failed.values()) == 3
