r"""Train the VQGAN of the bundled model on the emoji pictures.

    python examples/emoji/train_vqgan.py DATA RUN --output MODEL/vqgan
    python examples/emoji/train_vqgan.py DATA RUN2 --decoder-of MODEL/vqgan --size 320 \
        --output MODEL/vqgan --config examples/emoji/settings/cpu/decoder.yaml

The second command keeps the codes, and so the transformer that was trained on them, and trains a
refiner behind the decoder, which makes its pictures twice as large; without `--size`, the decoder.

Interrupted, the same command goes on from the last checkpoint in RUN.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from control import Stage
from dallemini.models.vqgan import VQGAN, VQGANConfig
from dallemini.training import TrainingConfig, VQGANTask, run
from dallemini.training.vqgan import VQGANLossConfig
from dataset import SIZE, Emojis, color_table, on_ground, side_by_side
from scenes import SHARES, Director

HERE = Path(__file__).parent
CONFIG = VQGANConfig(
    ch=32,
    ch_mult=(2, 2, 4),
    num_res_blocks=1,
    attn_resolutions=(),
    resolution=SIZE,
    z_channels=128,
    embed_dim=16,
    n_embed=2048,
    pixel_shuffle=4,
)


def batches(emojis: Emojis, *, batch_size: int) -> Callable[[int], Tensor]:
    """Return the function from a step to its pictures, on grounds of every colour.

    A quarter show two emoji; half of the others are scaled and moved a little.
    """
    table, pairs = color_table(), batch_size // 4

    def batch(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        indices = torch.randint(len(emojis), (batch_size + pairs,), generator=generator)
        first = emojis.layers(indices[:batch_size])
        layers = torch.cat(
            [
                side_by_side(first[:pairs], emojis.layers(indices[batch_size:])),
                _moved(first[pairs : 2 * pairs + pairs // 2], generator),
                first[2 * pairs + pairs // 2 :],
            ]
        )
        mirrored = torch.rand(batch_size, 1, 1, 1, generator=generator) < 0.5
        layers = torch.where(mirrored, layers.flip(3), layers)
        return on_ground(layers, _grounds(table, batch_size, generator))

    return batch


def with_scenes(plain: Callable[[int], Tensor], emojis: Emojis) -> Callable[[int], Tensor]:
    """Show composed scenes in a quarter of each batch: other colours, filters, several things."""
    director, stage = Director(emojis), Stage(emojis)

    def batch(step: int) -> Tensor:
        images, rng = plain(step), random.Random(step)
        for index in range(len(images) - len(images) // 4, len(images)):
            (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
            images[index] = stage(director(kind, rng))
        return images

    return batch


def in_parts(whole: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """Show a quarter of each picture instead, or every other time a quarter of the pictures.

    A refiner sees a few pixels around each, so that parts teach it as much, at a quarter's cost.
    """

    def batch(step: int) -> Tensor:
        images, rng = whole(step), random.Random(step)
        if step % 2:
            return images[: max(1, len(images) // 4)]
        side = images.shape[3] // 2
        corners = [(rng.randrange(side + 1), rng.randrange(side + 1)) for _ in images]
        parts = zip(images, corners, strict=True)
        return torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in parts])

    return batch


def enlarged(trained: VQGAN) -> VQGAN:
    """Return a trained VQGAN with a refiner that makes its pictures twice as large, to learn on."""
    vqgan = VQGAN.from_config(replace(trained.config, refiner_scale=2))
    vqgan.load_state_dict(vqgan.state_dict() | trained.state_dict())
    return vqgan


def _moved(layers: Tensor, generator: torch.Generator) -> Tensor:
    """Scale f[N,4,H,W] to 0.75-1.1 and move by up to a tenth of the side."""
    count = layers.shape[0]
    scale = 1 / (0.75 + 0.35 * torch.rand(count, generator=generator))
    matrices = torch.zeros(count, 2, 3)
    matrices[:, 0, 0] = matrices[:, 1, 1] = scale
    matrices[:, :, 2] = 0.2 * (2 * torch.rand(count, 2, generator=generator) - 1)
    grid = F.affine_grid(matrices, list(layers.shape), align_corners=False)
    return F.grid_sample(layers, grid, align_corners=False)


def _grounds(table: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Half white, the others of the named colours u8[C,3] or, one in five, of any colour."""
    named = table[torch.randint(len(table), (count,), generator=generator)]
    free = torch.randint(256, (count, 3), generator=generator).to(torch.uint8)
    draw = torch.rand(count, 1, generator=generator)
    colored = torch.where(draw < 0.9, named, free)
    return torch.where(draw < 0.5, torch.full_like(named, 255), colored)


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--output", required=True)
    parser.add_argument(
        "--config", default=HERE / "settings" / "cpu" / "vqgan.yaml", help="settings of the run"
    )
    parser.add_argument("--decoder-of", help="a trained VQGAN: keep its codes, refine its decoder")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the pictures that it makes")
    arguments = parser.parse_args()
    config, size = TrainingConfig.from_file(arguments.config), arguments.size
    emojis = Emojis(arguments.data, split="train", size=size)
    held_out = Emojis(arguments.data, split="test_style", size=size)
    white = torch.full((len(held_out), 3), 255, dtype=torch.uint8)
    refined, shown = arguments.decoder_of, batches(emojis, batch_size=config.batch_size)
    vqgan = VQGAN.from_pretrained(refined).float() if refined else VQGAN.from_config(CONFIG)
    if size > vqgan.config.resolution and vqgan.config.refiner_scale == 1:
        vqgan = enlarged(vqgan)
    vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = VQGANLossConfig(adversarial_weight=0.005, perceptual_size=80)
    if refined:
        loss = replace(loss, decoder_only=True, adversarial_from=config.steps // 5)
        shown = with_scenes(shown, emojis)
    if size > SIZE:  # what is gained lies in the edges, which shrinking hides
        loss = replace(loss, perceptual_weight=0.5, perceptual_size=192, detail_share=0.5)
        shown = in_parts(shown)
    task = VQGANTask(
        vqgan,
        batches=shown,
        held_out=held_out.draw(torch.arange(len(held_out)), white),
        config=loss.over(config.steps),
    )
    if size > SIZE:
        for part in (vqgan.quantize, vqgan.post_quant_conv, vqgan.decoder):
            part.requires_grad_(False)
    run(task, config, folder=arguments.run)
    vqgan.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
