"""The measure of upscalers: what it reads, what it compares, and how it says it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from upscaling import cell, main, measure, middle, photographs, resized


class Means:
    """Looks at the mean colour."""

    def pooled(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    picture = Image.radial_gradient("L").resize((353, 342)).convert("RGB")
    picture.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_photographs_are_shrunk_and_compared_at_their_own_size(photograph: Path) -> None:
    (real,) = photographs([photograph])
    assert (real.size, middle(real).size) == ((352, 340), (320, 320))
    eye: Any = Means()
    found = [
        measure(resized(filter_), [real.reduce(4)], [real], eye)
        for filter_ in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    ]
    (coarse, _, _), (smooth, seconds, made) = found
    assert smooth[0, 0] > coarse[0, 0] > 20  # PSNR, of a gradient
    assert (made[0].size, seconds >= 0) == (real.size, True)


def test_a_mean_is_told_with_its_interval() -> None:
    assert cell(torch.tensor([1.0, 1.0]), 1) == "1.0 (1.0 to 1.0)"


def test_either_drawings_or_photographs_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "one of the arguments --packages --photographs is required" in capsys.readouterr().err
