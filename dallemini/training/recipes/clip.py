"""Train or fine-tune CLIP, the scorer, on captioned pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...data import Batches
from ...models.clip import CLIP
from ...scorer import CLIPScorer, CLIPTokenizer, preprocess
from ..callbacks import Callback
from ..checkpoint import load_averages
from ..clip import MAX_LOGIT_SCALE, CLIPBatch, CLIPTask
from ..loop import run
from .checks import data_for
from .common import (
    MOST_CAPTIONS,
    all_captions,
    held_out_images,
    learnt_once,
    load_part,
    open_images,
    opened,
    own_weights,
    read_batches,
    save_result,
)
from .config import CLIPTrainingConfig


def train_clip(
    config: CLIPTrainingConfig,
    *,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> CLIPScorer:
    """Train CLIP and save it with its tokenizer; started again, go on from the last checkpoint.

    Args:
        config: the whole run.
        seconds: stop after this time with a checkpoint, to go on later.
        callbacks: what follows the run besides its log.

    Returns:
        The trained scorer, with averaged weights.

    Raises:
        DalleMiniError: the data, the model to start from or a folder cannot be used; and as `run`.

    Example:
        >>> CLIPTrainingConfig(steps=10, train_data=("pictures",), output="clip").tokenizer
    """
    with opened(config, callbacks) as begun:
        scorer = _start(config)
        own_weights(scorer.clip)
        data = data_for(config, scorer.clip.config.size, multiple=1)
        images = open_images(config.train_data, data)
        batches = read_batches(config, images)
        evaluation = {}
        if config.eval_data:
            unseen = held_out_images(open_images(config.eval_data, data))
            evaluation["held_out"] = _read(scorer, *unseen)
        task = CLIPTask(scorer.clip, batches=_Reader(scorer, batches), evaluation=evaluation)
        task.epoch_images = None if images.is_stream else len(images)
        folder, callbacks = config.run_folder, begun.callbacks
        run(task, config, folder=folder, seconds=seconds, callbacks=callbacks)
        save_result(config, lambda: _save(config, scorer))
    return scorer


def write_clip(config: CLIPTrainingConfig, checkpoint: Path) -> None:
    """Save the scorer that a checkpoint of a run makes."""
    scorer = _start(config)
    own_weights(scorer.clip)
    load_averages(checkpoint, scorer.clip)
    _save(config, scorer)


@torch.no_grad()
def _save(config: CLIPTrainingConfig, scorer: CLIPScorer) -> None:
    scorer.clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    scorer.save_pretrained(config.output)


def _start(config: CLIPTrainingConfig) -> CLIPScorer:
    if config.init_from is not None:
        return load_part(CLIPScorer, config.init_from, "scorer")
    tokenizer = _tokenizer(config)
    end, padding = tokenizer.end_token_id, tokenizer.config.pad_token_id
    model = replace(
        config.model,
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.config.context_length,
        eos_token_id=end,
        pad_token_id=end if padding is None else padding,
    )
    return CLIPScorer(CLIP.from_config(model, seed=config.seed), tokenizer)


def _tokenizer(config: CLIPTrainingConfig) -> CLIPTokenizer:
    if config.tokenizer is not None:
        return load_part(CLIPTokenizer, config.tokenizer, "scorer")

    def learn(folder: Path) -> None:
        images = open_images(config.train_data, config.data)
        CLIPTokenizer.train(
            all_captions(images, most=MOST_CAPTIONS, progress=config.progress),
            vocab_size=config.model.vocab_size,
            context_length=config.model.context_length,
        ).save_pretrained(folder)

    return CLIPTokenizer.from_pretrained(learnt_once(config, learn))


@dataclass(frozen=True)
class _Reader:
    """Turns batches of pictures and captions into what CLIP takes."""

    scorer: CLIPScorer
    batches: Batches

    def __call__(self, index: int) -> CLIPBatch:
        batch = self.batches(index)
        return _read(self.scorer, list(batch.images), batch.captions)


def _read(scorer: CLIPScorer, images: Sequence[Tensor], captions: Sequence[str]) -> CLIPBatch:
    pixels = preprocess(torch.stack(list(images)), scorer.clip.config)
    return CLIPBatch(pixels, scorer.tokenizer(list(captions)))
