"""A checkpoint of DALL-E Mini's full size: converted, loaded and drawn with, random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dallemini import VQGAN, Pipeline
from dallemini.models import VQGANConfig
from random_checkpoints import config, write_transformer


@pytest.mark.slow
def test_full_size_mini_in_flax_format_converts_loads_and_draws(
    tmp_path: Path, fixtures: Path
) -> None:
    folder = tmp_path / "mini"
    write_transformer(folder, config("mini"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(fixtures / "tokenizer" / "hf" / name, folder)
    vqgan = VQGAN.from_config(VQGANConfig())
    pipe = Pipeline.from_pretrained(folder, vqgan=vqgan, cache_dir=tmp_path / "cache")
    assert sum(weight.numel() for weight in pipe.transformer.parameters()) == 437_833_712
    out = pipe("sunset over a lake in the mountains", seed=0)
    assert out.images[0].size == (256, 256)
    assert out.image_tokens.shape == (1, 256)
