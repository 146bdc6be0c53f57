"""Options that several commands share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dallemini import VQGAN
from dallemini.cli.options import DrawingOptions, SourceOptions, attribute_help
from dallemini.cli.words import own_words
from dallemini.errors import DalleMiniError, InputError
from dallemini.generation import GenerationConfig
from dallemini.hub import Where
from dallemini.models.lora import LoRAConfig, add_lora, save_lora
from dallemini.testing import tiny_pipeline, tiny_transformer

_HALF = DrawingOptions(quantization="int8", dtype="bfloat16")


def test_every_setting_has_help() -> None:
    help_of = attribute_help(GenerationConfig)
    assert set(help_of) == set(GenerationConfig().to_dict())
    assert help_of["num_images_per_prompt"] == "pictures for each prompt."


def test_help_of_several_lines_is_joined() -> None:
    assert "\n" not in attribute_help(GenerationConfig)["guidance_scale"]
    assert "guidance off" in attribute_help(GenerationConfig)["guidance_scale"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "prompts[12] ('it \"x\" (y)') has no word in it.",
            "prompt 'it \"x\" (y)' has no word in it.",
        ),
        ('negative_prompt[1] ("it\'s") has 9 tokens', '--negative-prompt "it\'s" has 9 tokens'),
        ("prompts[3] is not valid Unicode: 'x'", "prompt is not valid Unicode: 'x'"),
        ("2 prompts need 2 seeds", "2 prompts need 2 seeds"),
        ("give it as mask_image= (edit)", "give it as --mask (edit)"),
        ("max_images must be at most 9.", "--max-images must be at most 9."),
        ("give it as watermark=Watermark(key).", "give the key by --watermark-key-file FILE."),
    ],
)
def test_messages_name_options_and_not_python(message: str, told: str) -> None:
    assert own_words(message) == told


@pytest.mark.parametrize("options", [DrawingOptions(device="nowhere"), _HALF])
def test_options_are_tried_before_anything_is_loaded(options: DrawingOptions) -> None:
    with pytest.raises(DalleMiniError, match=r"device 'nowhere' cannot be used|cannot be moved to"):
        options.check()


@pytest.mark.parametrize("adapted", [True, False])
@pytest.mark.parametrize(
    "options", [DrawingOptions(quantization="int8"), DrawingOptions(dtype="int8")]
)
def test_int8_is_what_it_is_for_the_pipeline(
    options: DrawingOptions, adapted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dallemini.models.precision.has_native_bfloat16", lambda: True)
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    if adapted:
        model = tiny_transformer()
        add_lora(model, LoRAConfig(rank=2), seed=0)
        save_lora(model, tmp_path / "ink")
        options = dataclasses.replace(options, adapter=(str(tmp_path / "ink"),))
    options.check()
    pipe = options.load(SourceOptions().open(str(tmp_path / "tiny")), SourceOptions())
    assert isinstance(pipe.vqgan, VQGAN)
    assert (pipe.transformer.quantization, pipe.vqgan.dtype) == ("int8", torch.bfloat16)


def test_a_source_is_opened_as_the_options_say(tmp_path: Path) -> None:
    options = SourceOptions(revision="v1", cache_dir=tmp_path, offline=True)
    source = options.elsewhere().open("dallemini/emoji", "vqgan")
    assert source.where == Where(cache_dir=tmp_path, local_files_only=True)
    assert source.subfolder == "vqgan"
    with pytest.raises(InputError, match="leave out revision='v1'"):
        options.open("dallemini/emoji")
