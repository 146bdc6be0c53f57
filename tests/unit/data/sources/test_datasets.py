"""Data sets of the package `datasets`: what `save_to_disk` wrote, splits, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dallemini.data import BadRecordError, CaptionedImages, DataConfig
from dallemini.errors import InputError, MissingDependencyError
from picture_files import number_of, picture

CONFIG = DataConfig(image_size=8, min_side=4)


def make(count: int = 3) -> Any:
    rows: dict[str, list[Any]] = {
        "image": [{"bytes": picture(n), "path": f"{n}.png"} for n in range(count)],
        "text": [f"picture {n}" for n in range(count)],
        "width": [100 * n for n in range(count)],
    }
    rows["image"][1] = {"bytes": b"<html>", "path": "1.png"}
    import datasets  # now, not for whom these tests do not concern: it takes a second

    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def test_a_saved_set_is_read_and_broken_pictures_are_counted(tmp_path: Path) -> None:
    make().save_to_disk(tmp_path / "saved")
    data = CaptionedImages.open(tmp_path / "saved", config=CONFIG)
    assert len(data) == 3
    assert data[2].captions == ("picture 2",)
    assert number_of(data[2].image[:, 0, 0].tolist()) == 2
    assert data[2].columns == {"width": 200}
    with pytest.raises(BadRecordError, match=r"The record 1.png is bad: not an image"):
        data[1]
    config = DataConfig(image_size=8, min_side=4, where=("width >= 100",))
    assert len(CaptionedImages.open(tmp_path / "saved", config=config)) == 2


def test_of_several_splits_train_is_read_or_one_is_named(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": make(3), "test": make(2)}).save_to_disk(tmp_path / "two")
    assert len(CaptionedImages.open(tmp_path / "two", config=CONFIG)) == 3
    assert len(CaptionedImages.open(tmp_path / "two" / "test", config=CONFIG)) == 2
    datasets.DatasetDict({"dev": make(2), "test": make(2)}).save_to_disk(tmp_path / "none")
    with pytest.raises(
        InputError, match=r"several splits \('dev', 'test'\); name one, such as .*/dev"
    ):
        CaptionedImages.open(tmp_path / "none", config=CONFIG)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    make().save_to_disk(tmp_path / "saved")
    next((tmp_path / "saved").glob("*.arrow")).write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"saved cannot be read: "):
        CaptionedImages.open(tmp_path / "saved", config=CONFIG)
    with pytest.raises(
        InputError, match=r"there is no option 'part', only split, config, revision"
    ):
        CaptionedImages.open("hf://owner/name?part=1", config=CONFIG)


def test_the_package_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[datasets\]"'):
        CaptionedImages.open(tmp_path / "saved", config=CONFIG)
