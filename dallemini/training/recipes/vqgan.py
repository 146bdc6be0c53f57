"""Train or fine-tune a VQGAN on pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models.vqgan import VQGAN, VQGANConfig
from ..distributed import connected, pick_device
from ..loop import run
from ..vqgan import VQGANLossConfig, VQGANTask
from .common import (
    HELD_OUT,
    RunConfig,
    first_images,
    first_process_saves,
    load_part,
    open_images,
    own_weights,
)


@dataclass(frozen=True, kw_only=True)
class VQGANTrainingConfig(RunConfig):
    """A training run of the image tokenizer.

    Attributes:
        model: sizes of a network that starts from random weights.
        loss: when each loss begins; from a trained model, codes are used from the start.
    """

    model: VQGANConfig = field(default_factory=VQGANConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)


def train_vqgan(config: VQGANTrainingConfig, *, seconds: float | None = None) -> VQGAN:
    """Train a VQGAN and save it; started again, go on from the last checkpoint.

    Args:
        config: the whole run.
        seconds: stop after this time with a checkpoint, to go on later.

    Returns:
        The trained network, with averaged weights.

    Raises:
        DalleMiniError: the data, the model to start from or a folder cannot be used; and as `run`.

    Example:
        >>> VQGANTrainingConfig(steps=10, train_data=("pictures",), output="vqgan").loss.seed
        0
    """
    config.check()
    with connected(pick_device(config.device)):
        config.prepare()
        vqgan, loss = _start(config)
        own_weights(vqgan)
        data = config.data_for(vqgan.config.resolution, multiple=vqgan.config.downsample_factor)
        batches = config.batches(open_images(config.train_data, data))
        held_out = torch.empty(
            0, 3, data.image_size, data.image_size, dtype=torch.float32, device="cpu"
        )
        if config.eval_data:
            pixels, _ = first_images(open_images(config.eval_data, data), HELD_OUT)
            held_out = torch.stack(pixels)

        def images(index: int) -> Tensor:
            return batches(index).images

        run(
            VQGANTask(vqgan, batches=images, held_out=held_out, config=loss),
            config,
            folder=config.run_folder,
            seconds=seconds,
        )
        first_process_saves(lambda: vqgan.save_pretrained(config.output))
    return vqgan


def _start(config: VQGANTrainingConfig) -> tuple[VQGAN, VQGANLossConfig]:
    batches, source = config.steps * config.accumulation, config.init_from
    if source is None:
        vqgan = VQGAN.from_config(config.model, seed=config.seed)
    else:
        vqgan = load_part(VQGAN, source, "vqgan")
    return vqgan, config.loss.over(batches, trained=source is not None)
