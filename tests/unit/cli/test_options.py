"""Options that several commands share."""

from __future__ import annotations

import torch

from dallemini.cli.options import attribute_help, to_dtype
from dallemini.generation import GenerationConfig


def test_every_setting_has_help() -> None:
    help_of = attribute_help(GenerationConfig)
    assert set(help_of) == set(GenerationConfig().to_dict())
    assert help_of["num_images_per_prompt"] == "pictures for each prompt."


def test_help_of_several_lines_is_joined() -> None:
    assert "\n" not in attribute_help(GenerationConfig)["guidance_scale"]
    assert "guidance off" in attribute_help(GenerationConfig)["guidance_scale"]


def test_dtype_is_found_by_name() -> None:
    assert to_dtype("bfloat16") is torch.bfloat16
    assert to_dtype(None) is None
