"""Training the transformer: the loss, corrupted inputs, and a toy set that it learns by heart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dallemini import Tokenizer, Transformer
from dallemini.generation import TopSampler, generate_tokens, make_generators
from dallemini.testing import TINY_TRANSFORMER, tiny_tokenizer
from dallemini.training import TrainingConfig, TransformerBatch, TransformerTask, run
from dallemini.training.log import read_log
from dallemini.training.transformer import corrupt, token_loss

CAPTIONS = ["a red apple", "a green bird", "a blue rocket", "a yellow apple"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def batch(tokenizer: Tokenizer) -> TransformerBatch:
    codes = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(0))
    return TransformerBatch(tokenizer(CAPTIONS).trim(), codes)


def make_task(
    batch: TransformerBatch, tokenizer: Tokenizer, *, corruption: float = 0.8
) -> TransformerTask:
    return TransformerTask(
        Transformer.from_config(TINY_TRANSFORMER),
        batches=lambda step: batch,
        evaluation={"train": batch, "again": batch},
        blank=tokenizer.unconditional(),
        codebook_size=64,
        corruption=corruption,
    )


def test_loss_of_no_knowledge_is_the_logarithm_of_the_vocabulary() -> None:
    loss = token_loss(torch.zeros(2, 16, 65), torch.zeros(2, 16, dtype=torch.int64))
    assert float(loss) == pytest.approx(math.log(65))


def test_an_untrained_transformer_knows_nothing(
    batch: TransformerBatch, tokenizer: Tokenizer
) -> None:
    loss = make_task(batch, tokenizer).losses(0)["loss"]
    assert float(loss.detach()) == pytest.approx(math.log(65), rel=0.02)


def test_losses_follow_from_the_step(batch: TransformerBatch, tokenizer: Tokenizer) -> None:
    task = make_task(batch, tokenizer)
    state = torch.get_rng_state()
    first, again, other = (float(task.losses(step)["loss"].detach()) for step in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("highest", [0.0, 0.5, 1.0])
def test_corruption_has_its_share_in_every_row(highest: float) -> None:
    codes = torch.full((2000, 64), 1000)
    changed = corrupt(codes, 64, highest=highest, generator=torch.Generator().manual_seed(0))
    share = (changed != codes).float().mean(1)
    assert float(share.mean()) == pytest.approx(highest / 2, abs=0.02)
    assert float(share.max()) <= min(1.0, highest + 0.25)
    assert int(changed[changed != codes].amax() if highest else 0) < 64


def test_targets_are_never_corrupted(batch: TransformerBatch, tokenizer: Tokenizer) -> None:
    before = batch.image_tokens.clone()
    make_task(batch, tokenizer, corruption=1.0).losses(0)
    assert torch.equal(batch.image_tokens, before)


def test_a_toy_set_is_learned_and_drawn_from_its_captions(
    batch: TransformerBatch, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = make_task(batch, tokenizer)
    config = TrainingConfig(
        steps=80, warmup_steps=10, learning_rate=0.02, ema_decay=0.9, evaluate_every=40
    )
    run(task, config, folder=tmp_path)
    measured = [row for row in read_log(tmp_path) if "text_gap" in row]
    assert measured[-1]["train_loss"] < 0.3
    assert measured[-1]["train_loss"] == measured[-1]["again_loss"]
    assert measured[-1]["text_gap"] > 0.5
    drawn = draw(task.transformer.eval(), tokenizer)
    assert float((drawn == batch.image_tokens).float().mean()) > 0.9


def draw(transformer: Transformer, tokenizer: Tokenizer) -> Tensor:
    steps = generate_tokens(
        transformer,
        tokenizer(CAPTIONS),
        unconditional=tokenizer.unconditional(),
        prompt_of_image=torch.arange(4),
        guidance_scale=1.0,
        sampler=TopSampler(top_k=1),
        generators=make_generators(range(4)),
        num_codes=64,
    )
    return torch.stack(list(steps), dim=1)
