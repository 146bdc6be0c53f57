"""Options that several commands share."""

from __future__ import annotations

import pytest
import torch

from dallemini.cli.options import (
    DrawingOptions,
    Location,
    SourceOptions,
    attribute_help,
    to_dtype,
)
from dallemini.errors import DalleMiniError
from dallemini.generation import GenerationConfig

_HALF = DrawingOptions(quantization="int8", dtype="bfloat16")


def test_every_setting_has_help() -> None:
    help_of = attribute_help(GenerationConfig)
    assert set(help_of) == set(GenerationConfig().to_dict())
    assert help_of["num_images_per_prompt"] == "pictures for each prompt."


def test_help_of_several_lines_is_joined() -> None:
    assert "\n" not in attribute_help(GenerationConfig)["guidance_scale"]
    assert "guidance off" in attribute_help(GenerationConfig)["guidance_scale"]


@pytest.mark.parametrize("options", [DrawingOptions(device="nowhere"), _HALF])
def test_options_are_tried_before_anything_is_loaded(options: DrawingOptions) -> None:
    with pytest.raises(DalleMiniError, match=r"device 'nowhere' cannot be used|cannot be moved to"):
        options.check()


def test_options_are_the_keywords_of_the_pipeline() -> None:
    options = DrawingOptions(quantization="int8")
    options.check()
    assert options.keywords == {"device": "cpu", "dtype": torch.float32, "quantization": "int8"}


def test_place_inside_a_place_is_joined() -> None:
    place = Location("model", SourceOptions()).inside("tiny").inside("vqgan")
    assert place.subfolder == "tiny/vqgan"


def test_dtype_is_found_by_name() -> None:
    assert to_dtype("bfloat16") is torch.bfloat16
    assert to_dtype(None) is None
