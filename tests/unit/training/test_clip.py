"""Training CLIP: the shared targets, and a toy set that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dallemini.models.clip import CLIP
from dallemini.scorer import preprocess
from dallemini.testing import TINY_CLIP, tiny_clip_scorer
from dallemini.training import CLIPBatch, CLIPTask, TrainingConfig, run
from dallemini.training.log import read_log

COLOURS = {
    "a red apple": (0.9, 0.1, 0.1),
    "a green bird": (0.1, 0.8, 0.1),
    "a blue rocket": (0.1, 0.1, 0.9),
    "a yellow apple": (0.9, 0.9, 0.1),
    "a black bird": (0.05, 0.05, 0.05),
    "a white rocket": (0.95, 0.95, 0.95),
}


TOKENIZER = tiny_clip_scorer().tokenizer


def toy_batch(step: int = 0) -> CLIPBatch:
    """One noisy picture of one colour for each caption."""
    colours = torch.tensor(list(COLOURS.values()))[:, :, None, None]
    noise = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(step)) - 0.5
    images = (colours + 0.1 * noise).clamp(0, 1)
    input_ids = TOKENIZER(list(COLOURS))
    return CLIPBatch(preprocess(images, TINY_CLIP), input_ids, torch.eye(6, dtype=torch.bool))


@pytest.fixture(scope="module")
def batch() -> CLIPBatch:
    return toy_batch()


def make_task(batch: CLIPBatch) -> CLIPTask:
    clip = CLIP.from_config(TINY_CLIP)
    return CLIPTask(clip, batches=lambda step: batch, evaluation={"toy": batch})


def test_loss_is_symmetric_in_pictures_and_captions(batch: CLIPBatch) -> None:
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = dataclasses.replace(
        batch, pixel_values=batch.pixel_values[order], input_ids=batch.input_ids[order]
    )
    losses = [float(make_task(b).losses(0)["loss"].detach()) for b in (batch, shuffled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_pictures_that_fit_several_captions_share_the_target(batch: CLIPBatch) -> None:
    all_fit = dataclasses.replace(batch, same=torch.ones(6, 6, dtype=torch.bool))
    task = make_task(batch)
    with torch.no_grad():
        task.clip.logit_scale.fill_(-20.0)  # so small that every logit is 0
        alone, shared = (float(make.losses(0)["loss"]) for make in (task, make_task(all_fit)))
    uniform = float(torch.tensor(6.0).log())
    assert alone == pytest.approx(uniform)
    assert shared >= uniform - 1e-4  # the least that a uniform target allows


def test_a_caption_that_fits_too_counts_as_no_rival(batch: CLIPBatch) -> None:
    all_fit = dataclasses.replace(batch, same=torch.ones(6, 6, dtype=torch.bool))
    task = CLIPTask(
        CLIP.from_config(TINY_CLIP), batches=lambda step: batch, evaluation={"all": all_fit}
    )
    with torch.no_grad():
        assert task.evaluate(0) == {"all_top1": 1.0, "all_top5": 1.0}


@pytest.mark.thorough
def test_a_toy_set_is_learned(batch: CLIPBatch, tmp_path: Path) -> None:
    clip = CLIP.from_config(TINY_CLIP)
    task = CLIPTask(clip, batches=toy_batch, evaluation={"toy": toy_batch(10**6)})
    config = TrainingConfig(
        steps=40, warmup_steps=5, learning_rate=0.01, ema_decay=0.9, log_every=10
    )
    run(task, config, folder=tmp_path)
    rows = list(read_log(tmp_path))
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert rows[-1]["toy_top1"] == 1.0
    assert rows[-1]["toy_top5"] == 1.0
