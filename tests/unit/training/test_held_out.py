"""What an evaluation looks at, and what a vocabulary is learnt from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dallemini.data import CaptionedImages, DataConfig
from dallemini.training.recipes import common
from dallemini.training.recipes.common import all_captions, held_out_images, shuffled
from picture_files import picture

CONFIG = DataConfig(image_size=16)


def sorted_set(folder: Path, count: int) -> CaptionedImages:
    """Half of the pictures are cats, then come the dogs; every tenth file is missing."""
    for number, kind in enumerate(("cat", "dog")):
        (folder / f"{kind}.png").write_bytes(picture(number))
    lines = []
    for number in range(count):
        kind = "cat" if 2 * number < count else "dog"
        file = f"{kind}.png" if number % 10 else "missing.png"
        lines.append(json.dumps({"file_name": file, "text": f"{kind} {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return CaptionedImages.open(folder, config=CONFIG)


def test_held_out_pictures_are_from_all_over_a_sorted_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "HELD_OUT", 40)
    images = sorted_set(tmp_path, 400)
    pixels, captions = held_out_images(images)
    assert (len(pixels), len(captions)) == (40, 40)
    kinds = Counter(caption.split()[0] for caption in captions)
    assert min(kinds["cat"], kinds["dog"]) >= 12
    numbers = [int(caption.split()[1]) for caption in captions]
    assert numbers == sorted(numbers)
    assert len({number % 10 for number in numbers}) == 9  # no step that could fit the data's own
    assert held_out_images(images)[1] == captions  # in every run, whatever its seed
    assert images.bad["no image"] > 0


def test_a_small_held_out_set_is_taken_whole_and_in_its_order(tmp_path: Path) -> None:
    captions = held_out_images(sorted_set(tmp_path, 30))[1]
    assert [int(caption.split()[1]) for caption in captions] == [
        number for number in range(30) if number % 10
    ]
    assert sorted(shuffled(30)) == [*range(30)] != shuffled(30)


def test_a_vocabulary_is_learnt_without_opening_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted_set(tmp_path, 20)
    monkeypatch.setattr(CaptionedImages, "prepare", None)  # which would decode
    captions = all_captions(images, most=12, progress=False)
    assert captions == [f"{'cat' if number < 10 else 'dog'} {number}" for number in range(12)]
