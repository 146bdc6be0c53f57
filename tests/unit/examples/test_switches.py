"""The sweep over architecture switches: every one trains, and the table says by how much."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from dallemini import Pipeline, Transformer
from dallemini.training import TrainingConfig
from dataset import SIZE, Emojis
from switches import RELEASED, SWITCHES, Sweep, table


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder, lines = tmp_path_factory.mktemp("emojis"), []
    for number, name in enumerate(("pizza", "rocket")):
        Image.new("RGBA", (SIZE, SIZE), (60 * number, 120, 200, 255)).save(folder / f"{name}.png")
        row = {"file": f"{name}.png", "set": "noto", "style": "noto emoji", "hex": str(number)}
        row |= {"label": name, "caption": name, "group": "x", "split": "train", "license": "MIT"}
        lines.append(json.dumps(row | {"keywords": []}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    emojis = Emojis(folder, split="train")
    codes = torch.randint(2048, (2, 100), generator=torch.Generator().manual_seed(0)).short()
    settings = TrainingConfig(steps=1, batch_size=2, evaluate_every=1, device="cpu", progress=False)
    both = emojis, codes
    return Sweep(Pipeline.from_pretrained(), both, both, settings)


def test_every_switch_makes_another_model(sweep: Sweep) -> None:
    configs = [sweep.sibling(changes) for changes in SWITCHES.values()]
    assert len(set(configs)) == len(SWITCHES)
    released = sum(weight.numel() for weight in Transformer(configs[0]).parameters())
    for config in configs:
        size = sum(weight.numel() for weight in Transformer(config).parameters())
        assert 0.9 < size / released < 1.3


@pytest.mark.thorough
def test_a_run_gives_its_losses(sweep: Sweep, tmp_path: Path) -> None:
    changes = SWITCHES["ln_positions: swinv2"]
    losses = sweep.losses(changes, seed=1, folder=tmp_path)
    assert losses["train_loss"] == pytest.approx(math.log(2049), rel=0.05)
    assert losses["unseen_loss"] == losses["train_loss"]


def test_the_table_compares_seed_by_seed() -> None:
    runs = [
        {"switch": switch, "seed": seed, "train_loss": 1.0 + seed, "unseen_loss": loss}
        for switch, losses in {RELEASED: (2.0, 3.0), "use_bias": (2.5, 2.9)}.items()
        for seed, loss in enumerate(losses)
    ]
    rows = table(runs).splitlines()
    assert rows[2:] == [
        f"| {RELEASED} | 1.500 (1.000 to 2.000) | 2.500 (2.000 to 3.000) | +0.000 |",
        "| use_bias | 1.500 (1.000 to 2.000) | 2.700 (2.500 to 2.900) | -0.200 |",
    ]
