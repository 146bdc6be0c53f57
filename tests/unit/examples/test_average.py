"""The mean of several transformers, and what cannot be averaged."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch

from dallemini import Transformer
from dallemini.testing import TINY_TRANSFORMER, tiny_pipeline

SCRIPT = Path(__file__).parents[3] / "examples" / "emoji" / "average.py"


def run(monkeypatch: pytest.MonkeyPatch, *words: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["average.py", *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_every_weight_is_the_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in "abc"]
    for seed, folder in enumerate(folders):
        Transformer.from_config(TINY_TRANSFORMER, seed=seed).save_pretrained(folder / "transformer")
        tiny_pipeline().tokenizer.save_pretrained(folder / "tokenizer")
    run(monkeypatch, tmp_path / "mean", *folders)
    found = Transformer.from_pretrained(tmp_path / "mean" / "transformer").state_dict()
    states = [Transformer.from_pretrained(f / "transformer").state_dict() for f in folders]
    for name, weight in found.items():
        mean = torch.stack([state[name].float() for state in states]).mean(0)
        torch.testing.assert_close(weight.float(), mean)
    assert (tmp_path / "mean" / "tokenizer" / "tokenizer.json").is_file()
    (folders[1] / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "other", *folders)
