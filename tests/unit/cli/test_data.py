"""`dallemini data`: what it tells of a set before a run costs hours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini.testing import tiny_pipeline
from picture_files import picture, served, write_parquet

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline().tokenizer.save_pretrained(folder)
    return folder


def test_counts_sizes_troubles_doubles_and_captions_are_told(
    run: Run, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number, size in enumerate([(24, 24), (48, 24), (30, 30), (24, 24)]):
        Image.new("RGB", size, (10 * (number % 3), 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}" + " word" * 80 * (number == 2))
    Image.new("RGB", (24, 24)).save(folder / "blank.png")
    (folder / "page.png").write_bytes(b"<html>")
    (folder / "page.txt").write_text("a page")
    (folder / "drawing.svg").write_text("<svg/>")
    done = run("data", folder, "--model", model, "--sheet", tmp_path / "sheet.png")
    assert done.code == 0, done.err
    told = dict(line.strip().split(maxsplit=1) for line in done.lines[1:])
    assert told["records"] == "7, of which 4 can be used"
    assert told["left"].startswith("out")
    assert "2 not an image (drawing.svg, page.png)" in told["left"]
    assert "1 no caption (blank.png)" in told["left"]
    assert told["sizes"] == "24x24 to 48x24, median 30x30; 1 are not square"
    assert told["doubles"] == "1 (0.png = 3.png)"
    assert told["captions"].startswith("4, of 2 to 82 words, median 2; 4 different; 1 longer than")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 256 + 3 * 4, 256 + 18)


def test_a_table_of_addresses_is_fetched(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.png").write_bytes(picture(1))
    with served(tmp_path / "site") as address:
        rows = [{"url": f"{address}/{name}.png", "caption": "x"} for name in "ab"]
        path = write_parquet(tmp_path / "list.parquet", rows)
        done = run("data", path, "--download", "--model", model, "--no-progress")
    assert (
        done.lines[0]
        == "1 pictures fetched, 0 were there; failed: 1 HTTP Error 404: File not found"
    )
    assert "2, of which 1 can be used" in done.out


def test_nothing_to_look_at_is_told(run: Run, tmp_path: Path) -> None:
    done = run("data", tmp_path / "none")
    assert done.code == 1
    assert "There is no file or folder" in done.err
