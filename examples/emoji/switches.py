"""Train a small sibling of the bundled transformer with each architecture switch, at equal budget.

    python examples/emoji/switches.py DATA RUN

DATA is what `build_dataset.py` writes; its pictures on white are encoded by the bundled VQGAN once,
into RUN/codes_*.npy. Each run is a line of RUN/runs.jsonl; interrupted, the same command goes on
with those that are missing. At the end it prints the table of losses in Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dallemini import VQGAN, Pipeline, Transformer
from dallemini.models import TransformerConfig
from dallemini.training import TrainingConfig, TransformerBatch, TransformerTask, run
from dataset import Emojis, caption
from train_transformer import Reader, encode_on_white, plain

RELEASED = "released architecture"
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    RELEASED: {},
    "ln_positions: preln": {"ln_positions": "preln"},
    "ln_positions: postln": {"ln_positions": "postln"},
    "ln_positions: postln, use_deepnet_scaling": {
        "ln_positions": "postln",
        "use_deepnet_scaling": True,
    },
    "ln_positions: cogview": {"ln_positions": "cogview"},
    "ln_positions: swinv2": {"ln_positions": "swinv2"},
    "ln_positions: subln, use_subln_init": {"ln_positions": "subln", "use_subln_init": True},
    "ln_type: rmsnorm": {"ln_type": "rmsnorm"},
    "force_ln_scale": {"force_ln_scale": True},
    "use_final_ln_*: false": {"use_final_ln_encoder": False, "use_final_ln_decoder": False},
    "use_bias": {"use_bias": True},
    "use_glu: false": {"use_glu": False},
    "activation_function: relu": {"activation_function": "relu"},
    "activation_function: silu": {"activation_function": "silu"},
    "activation_function: smelu": {"activation_function": "smelu"},
    "use_cosine_attention": {"use_cosine_attention": True},
    "sinkhorn_iters: 3": {"sinkhorn_iters": 3},
    "use_head_scale": {"use_head_scale": True},
    "use_absolute_position_embeddings: false": {"use_absolute_position_embeddings": False},
    "use_swin_position_embeddings": {"use_swin_position_embeddings": True},
    "use_deepnet_scaling": {"use_deepnet_scaling": True},
    "scale_embedding": {"scale_embedding": True},
}


class Captioned:
    """Pictures on white with their names and styles, in an order that the seed alone decides.

    Args:
        emojis: the pictures.
        codes: i16[M,L] of them.
        reader: tokens of the captions.
        batch_size: rows of a batch.
        seed: of the order.
    """

    def __init__(
        self, emojis: Emojis, codes: Tensor, reader: Reader, *, batch_size: int, seed: int
    ) -> None:
        self.emojis, self.codes, self.reader = emojis, codes, reader
        self.batch_size, self.seed = batch_size, seed

    def __call__(self, number: int) -> TransformerBatch:
        """Return the batch of a number."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        chosen = torch.randint(len(self.emojis), (self.batch_size,), generator=generator)
        rows = [self.emojis.rows[index] for index in chosen.tolist()]
        texts = [caption(row.label, row.style, "white") for row in rows]
        return TransformerBatch(self.reader(texts), self.codes[chosen].long())


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What every run has in common.

    Attributes:
        pipe: whose tokenizer and VQGAN are used.
        train: pictures with their codes i16[M,L].
        unseen: held-out drawings, likewise.
        settings: steps, batch and rates.
    """

    pipe: Pipeline
    train: tuple[Emojis, Tensor]
    unseen: tuple[Emojis, Tensor]
    settings: TrainingConfig

    def sibling(self, changes: Mapping[str, Any]) -> TransformerConfig:
        """Return the bundled configuration at a quarter of its width, with switches."""
        config = self.pipe.transformer.config
        return dataclasses.replace(
            config,
            d_model=config.d_model // 4,
            encoder_layers=2,
            decoder_layers=3,
            encoder_ffn_dim=config.encoder_ffn_dim // 4,
            decoder_ffn_dim=config.decoder_ffn_dim // 4,
            **changes,
        )

    def losses(self, changes: Mapping[str, Any], *, seed: int, folder: Path) -> dict[str, float]:
        """Train one sibling; return its losses per token on seen and on held-out drawings."""
        transformer = Transformer.from_config(self.sibling(changes), seed=seed)
        reader = Reader(self.pipe.tokenizer)
        held_out = {
            "train": plain(*self.train, reader, 64),
            "unseen": plain(*self.unseen, reader, 64),
        }
        task = TransformerTask(
            transformer,
            batches=Captioned(*self.train, reader, batch_size=self.settings.batch_size, seed=seed),
            evaluation=held_out,
            blank=reader.blank,
            codebook_size=self.pipe.vqgan.codebook_size,
            corruption=0.0,
            seed=seed,
        )
        run(task, dataclasses.replace(self.settings, seed=seed), folder=folder)
        with torch.no_grad():
            return task.evaluate(self.settings.steps)


def encoded(pipe: Pipeline, data: str, folder: Path, split: str) -> tuple[Emojis, Tensor]:
    """Return the pictures of a split, and their codes i16[M,L], kept in the folder."""
    emojis = Emojis(data, split=split)
    assert isinstance(pipe.vqgan, VQGAN)
    return emojis, encode_on_white(pipe.vqgan, emojis, folder / f"codes_{split}.npy")


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs that are done."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def table(runs: list[dict[str, Any]]) -> str:
    """Lay out mean and range over the seeds, and the mean difference seed by seed, in Markdown."""
    lines = [
        "| switch | loss, seen drawings | loss, held-out drawings | better than released by |",
        "|---|---|---|---|",
    ]
    found = {(row["switch"], row["seed"]): row for row in runs}
    for switch in SWITCHES:
        rows = {seed: row for (name, seed), row in found.items() if name == switch}
        if not rows:
            continue
        cells = [
            f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            for key in ("train_loss", "unseen_loss")
            for values in [[row[key] for row in rows.values()]]
        ]
        gains = [
            found[RELEASED, seed]["unseen_loss"] - row["unseen_loss"]
            for seed, row in rows.items()
            if (RELEASED, seed) in found
        ]
        cells.append(f"{statistics.mean(gains):+.3f}" if gains else "")
        lines.append(f"| {switch} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the arguments, train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=SWITCHES, help="these switches alone")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    pipe = Pipeline.from_pretrained()
    train, unseen = (
        encoded(pipe, arguments.data, arguments.run, split) for split in ("train", "test_style")
    )
    settings = TrainingConfig(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=2e-3,
        matrix_learning_rate=0.01,
        ema_decay=0.0,
        evaluate_every=arguments.steps,
        save_minutes=60.0,
        progress=False,
    )
    sweep, log = Sweep(pipe, train, unseen, settings), arguments.run / "runs.jsonl"
    done = {(row["switch"], row["seed"]) for row in read_runs(log)}
    for seed in range(arguments.seeds):
        for switch in arguments.only or SWITCHES:
            if (switch, seed) in done:
                continue
            begun = time.monotonic()
            name = f"run-{list(SWITCHES).index(switch)}-{seed}"
            losses = sweep.losses(SWITCHES[switch], seed=seed, folder=arguments.run / name)
            row = {"switch": switch, "seed": seed, **losses}
            row["seconds"] = round(time.monotonic() - begun, 1)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(table(read_runs(log)), end="")


if __name__ == "__main__":
    main()
