"""Train or fine-tune a VQGAN on pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...models.vqgan import VQGAN
from ..callbacks import Callback
from ..checkpoint import load_averages
from ..loop import run
from ..vqgan import VQGANTask
from ..vqgan_config import VQGANLossConfig
from .checks import data_for
from .common import (
    held_out_images,
    load_part,
    open_images,
    opened,
    own_weights,
    read_batches,
    save_result,
)
from .config import VQGANTrainingConfig


def train_vqgan(
    config: VQGANTrainingConfig,
    *,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
) -> VQGAN:
    """Train a VQGAN and save it; started again, go on from the last checkpoint.

    Args:
        config: the whole run.
        seconds: stop after this time with a checkpoint, to go on later.
        callbacks: what follows the run besides its log.

    Returns:
        The trained network, with averaged weights.

    Raises:
        DalleMiniError: the data, the model to start from or a folder cannot be used; and as `run`.

    Example:
        >>> VQGANTrainingConfig(steps=10, train_data=("pictures",), output="vqgan").loss.seed
        0
    """
    with opened(config, callbacks) as begun:
        vqgan = _start(config)
        own_weights(vqgan)
        config = replace(config, loss=_loss(config, begun.before))
        side = vqgan.config.resolution * vqgan.config.enlargement
        data = data_for(config, side, multiple=vqgan.token_size)
        images = open_images(config.train_data, data)
        batches = read_batches(config, images)
        size = 0, 3, *data.size
        task = VQGANTask(
            vqgan,
            batches=lambda index: batches(index).images,
            held_out=torch.empty(size, dtype=torch.float32, device="cpu"),
            config=config.loss,
        )
        task.epoch_images = None if images.is_stream else len(images)
        if config.eval_data:
            pixels, _ = held_out_images(open_images(config.eval_data, data))
            task.held_out = torch.stack(pixels)
        folder, callbacks = config.run_folder, begun.callbacks
        run(task, config, folder=folder, seconds=seconds, callbacks=callbacks)
        save_result(config, lambda: vqgan.save_pretrained(config.output))
    return vqgan


def write_vqgan(config: VQGANTrainingConfig, checkpoint: Path) -> None:
    """Save the VQGAN that a checkpoint of a run makes."""
    vqgan = _start(config)
    own_weights(vqgan)
    load_averages(checkpoint, nn.ModuleDict({"vqgan": vqgan}))
    vqgan.eval().save_pretrained(config.output)


def _start(config: VQGANTrainingConfig) -> VQGAN:
    if config.init_from is None:
        return VQGAN.from_config(config.model, seed=config.seed)
    return load_part(VQGAN, config.init_from, "vqgan")


def _loss(config: VQGANTrainingConfig, before: Mapping[str, Any]) -> VQGANLossConfig:
    """Return when each loss begins: where it did before, or shares of the steps at the start.

    More steps than before thus start neither the codes nor the discriminator again.
    """
    stored = {k: v for k, v in before.get("loss", {}).items() if k.endswith("_from")}
    given = {k: v for k, v in stored.items() if v is not None and getattr(config.loss, k) is None}
    steps = before.get("steps", config.steps)  # of the run before, which may not say the starts
    return replace(config.loss, **given).over(
        steps * config.accumulation, trained=config.init_from is not None
    )
