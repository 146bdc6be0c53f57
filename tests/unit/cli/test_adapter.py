"""`--adapter` on the commands that generate, and `redraw` of what they drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from dallemini import GenerationOutput
from dallemini.cli.options import split_weight
from dallemini.models.lora import LoRAConfig, add_lora, save_lora
from dallemini.testing import tiny_transformer


@pytest.fixture(autouse=True)
def _adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own with two adapters."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("ink", "blips")):
        model = tiny_transformer()
        add_lora(model, LoRAConfig(rank=2), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in model.named_parameters():
            if key.endswith("lora_b"):
                nn.init.normal_(parameter, std=0.3, generator=generator)
        save_lora(model, name)


def pixels(path: str) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


@pytest.mark.parametrize("precision", [[], ["--dtype", "int8"]])
def test_adapters_draw_and_are_drawn_again(run: Any, tiny: Path, precision: list[str]) -> None:
    words = ["generate", "a cat", "--model", tiny, "--seed", 3, *precision]
    (plain,) = run(*words).lines
    (path,) = run(*words, "--adapter", "ink:0.8", "--adapter", "blips").lines
    assert pixels(plain) != pixels(path)
    told = GenerationOutput.read_metadata(path).adapters
    assert [(use.source, use.weight) for use in told] == [("ink", 0.8), ("blips", 1.0)]
    again = run("redraw", path, "-o", "again")
    assert (again.code, again.err) == (0, "")
    assert pixels(again.lines[0]) == pixels(path)
    other = run("redraw", path, "-o", "other", "--adapter", "ink:0.5")
    assert "drawn with other LoRA adapters (ink at 0.8, blips at 1; here ink at 0.5)" in other.err


def test_an_adapter_that_is_gone_is_told(run: Any, tiny: Path) -> None:
    (path,) = run("generate", "a cat", "--model", tiny, "--adapter", "ink").lines
    Path("ink").rename("moved")
    result = run("redraw", path)
    assert result.code == 1
    assert "ink" in result.err
    assert run("redraw", path, "--adapter", "moved", "-o", "again").code == 0


def test_an_adapter_that_is_none_is_told(run: Any, tiny: Path) -> None:
    result = run("generate", "a cat", "--model", tiny, "--adapter", tiny)
    assert result.code == 1
    assert "is no LoRA adapter: it lacks adapter_config.json" in result.err


def test_a_name_with_a_colon_is_a_name_where_there_is_such_a_folder(tmp_path: Path) -> None:
    Path("ink:0.5").mkdir()
    assert split_weight("ink:0.5") == ("ink:0.5", 1.0)
    assert split_weight("ink:-.25") == ("ink", -0.25)
    assert split_weight("ink:v2") == ("ink:v2", 1.0)
