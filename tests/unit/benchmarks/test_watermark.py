"""The measures of the mark, with a tiny model and few codes."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import watermark, watermark_tokens
from dallemini import Pipeline
from dallemini.testing import tiny_pipeline


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def test_pictures_are_drawn_and_measured_once(
    pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = watermark.draw(pipe, 4, 6.0, None, tmp_path)
    assert told["plain"]["pictures"] == told["marked"]["pictures"] == 4
    assert told == watermark.draw(pipe, 4, 6.0, None, tmp_path)
    assert len((tmp_path / "costs.jsonl").read_text().splitlines()) == 2
    assert watermark.read_rgb(tmp_path / "sheet.png").size == (2 * 132 - 4, 2 * 132 - 4)
    fates = {name: watermark.FATES[name] for name in ("JPEG 75", "cropped by 5 %")}
    monkeypatch.setattr(watermark, "FATES", fates)
    monkeypatch.setattr(watermark, "enlarge", lambda picture, upscaler, factor: picture)
    found = watermark.measure(pipe, tmp_path, 4)
    assert set(found["found"]) == {*fates, watermark.UPSCALED}
    assert found == watermark.measure(pipe, tmp_path, 4)


def test_tokens_that_are_read_otherwise_are_counted(pipe: Pipeline) -> None:
    told = watermark.misread(pipe, 2)
    for fate in ("nothing", "JPEG 75"):
        assert 0 <= told[fate]["of another group"] <= told[fate]["another code"] <= 1


def test_false_alarms_are_noted_in_pieces(pipe: Pipeline, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 4), dtype=np.uint8)
    np.save(tmp_path / "some.npy", levels)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "one.png")
    pictures = watermark.Unmarked([tmp_path / "some.npy", tmp_path])
    given = argparse.Namespace(count=3, keys=2, searched=4, first=0, append=tmp_path / "seen.jsonl")
    for _ in range(2):
        told = watermark.false_alarms(pipe, pictures, given)
    assert told == {"pictures so far": 6}
    rates = watermark.rates(given.append)
    assert rates["pictures"] == 6
    assert rates["the whole search, one key a picture"]["below 0.1"]["of"] == 2


def test_more_bits_give_a_stronger_mark_and_errors_a_weaker_one() -> None:
    rows = list(watermark_tokens.measure(8, side=8, codes=256))
    by = {(row["bits"], row["errors"]): row["median p of 1"] for row in rows}
    assert by[4.0, 0.0] < by[0.5, 0.0]
    assert by[4.0, 0.0] < by[4.0, 0.5] < by[4.0, 0.7]
    assert next(row for row in rows if row["bits"] == 4.0)["found by 4"][0] == 1.0
