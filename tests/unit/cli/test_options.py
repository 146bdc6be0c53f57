"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dallemini import Pipeline
from dallemini.cli.options import DrawingOptions, SourceOptions, attribute_help
from dallemini.errors import DalleMiniError, InputError
from dallemini.generation import GenerationConfig
from dallemini.hub import Where

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


@pytest.mark.parametrize(
    "options", [DrawingOptions(quantization="int8"), DrawingOptions(dtype="int8")]
)
def test_options_are_the_keywords_of_the_pipeline(options: DrawingOptions) -> None:
    options.check()
    pipe = Pipeline.from_pretrained(**options.keywords)
    assert pipe.transformer.quantization == "int8"


def test_a_source_is_opened_as_the_options_say(tmp_path: Path) -> None:
    options = SourceOptions(revision="v1", cache_dir=tmp_path, offline=True)
    source = options.elsewhere().open("dallemini/emoji", "vqgan")
    assert source.where == Where(cache_dir=tmp_path, local_files_only=True)
    assert source.subfolder == "vqgan"
    with pytest.raises(InputError, match="leave out revision='v1'"):
        options.open("dallemini/emoji")
