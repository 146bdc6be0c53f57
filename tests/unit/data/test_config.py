"""The configuration of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dallemini.data import DataConfig
from dallemini.errors import ConfigError


def test_configurations_survive_a_file(tmp_path: Path) -> None:
    config = DataConfig(image_size=64, where=("width >= 256", "lang == en"), min_clip_score=0.28)
    config.save(tmp_path / "data.json")
    assert DataConfig.from_file(tmp_path / "data.json") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 0}, "image_size must be from 1"),
        ({"crop": "left"}, "crop must be one of 'center', 'random', 'pad'"),
        ({"caption_dropout": 1.5}, "a share from 0 to 1"),
        ({"caption_dropout": float("nan")}, "a share from 0 to 1"),
        ({"shuffle_buffer": 0}, "shuffle_buffer must be from 1"),
        ({"max_pixels": 10**9}, "max_pixels must be at most"),
        ({"min_side": 100, "max_side": 50}, "min_side 100 is above max_side 50"),
        ({"min_clip_score": float("inf")}, "a finite number"),
        ({"where": ("width = 3",)}, "is not a filter"),
        ({"where": "width >= 3"}, "where must be tuple"),
        ({"caption_choice": "last"}, "caption_choice must be one of"),
        ({"croop": "center"}, "Did you mean 'crop'"),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig.from_dict(values)
