"""Train the VQGAN of the bundled model on the emoji pictures.

    python examples/emoji/train_vqgan.py DATA RUN --output MODEL/vqgan
    python examples/emoji/train_vqgan.py DATA RUN2 --decoder-of MODEL/vqgan --output MODEL/vqgan

The second command keeps the codes, and so the transformer that was trained on them, and goes on
with the decoder.

Interrupted, the same command goes on from the last checkpoint in RUN.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

from dallemini.models.vqgan import VQGAN, VQGANConfig
from dallemini.training import TrainingConfig, VQGANTask, run
from dallemini.training.vqgan import VQGANLossConfig
from dataset import Emojis, color_table

CONFIG = VQGANConfig(
    ch=32,
    ch_mult=(1, 2, 4),
    num_res_blocks=1,
    attn_resolutions=(),
    resolution=64,
    z_channels=128,
    embed_dim=16,
    n_embed=2048,
    pixel_shuffle=2,
)


def batches(emojis: Emojis, *, batch_size: int) -> Callable[[int], Tensor]:
    """Return the function from a step to its pictures: shifted, mirrored, half of them on white."""
    colors = color_table()

    def batch(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        indices = torch.randint(len(emojis), (batch_size,), generator=generator)
        named = colors[torch.randint(len(colors), (batch_size,), generator=generator)]
        white = torch.rand(batch_size, 1, generator=generator) < 0.5
        ground = torch.where(white, torch.full_like(named, 255), named)
        images = emojis.draw(indices, ground)
        rows, columns = torch.randint(-3, 4, (2,), generator=generator).tolist()
        images = torch.roll(images, (rows, columns), dims=(2, 3))
        return images.flip(3) if rows % 2 else images

    return batch


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--decoder-of", help="a trained VQGAN: keep its codes, refine its decoder")
    arguments = parser.parse_args()
    emojis, held_out = (Emojis(arguments.data, split=name) for name in ("train", "test_style"))
    white = torch.full((len(held_out), 3), 255, dtype=torch.uint8)
    refined = arguments.decoder_of
    vqgan = VQGAN.from_pretrained(refined) if refined else VQGAN.from_config(CONFIG)
    vqgan.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = VQGANTask(
        vqgan,
        batches=batches(emojis, batch_size=arguments.batch_size),
        held_out=held_out.draw(torch.arange(len(held_out)), white),
        config=VQGANLossConfig(
            quantize_from=-1 if refined else arguments.steps // 3,
            adversarial_from=arguments.steps // 2,
            adversarial_weight=0.005 if refined else 0.03,
            decoder_only=bool(refined),
        ),
    )
    config = TrainingConfig(
        steps=arguments.steps,
        learning_rate=1.5e-3,
        matrix_learning_rate=0.01 if refined else 0.02,
        bfloat16=arguments.bfloat16,
        evaluate_every=250,
    )
    run(task, config, folder=arguments.run)
    vqgan.save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
