"""Time a training step of every kind, beside how fast the same threads multiply matrices.

    python tests/benchmarks/training.py [--threads 1] [--steps 3] [--kinds adamw lora ...]

The networks are those of the bundled model, the pictures and codes noise, since time does not
depend on them. torch counts a step's operations; what they take at the rate of products of
1024x1024 matrices, measured between the steps, is the floor. A thread alone is timed in seconds of
the processor, several by the clock. Prints JSON; the median of the steps, and the best rate.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dallemini import CLIPScorer, Pipeline
from dallemini.models.lora import LoRAConfig, add_lora
from dallemini.training import Task, TrainingConfig
from dallemini.training.clip import CLIPBatch, CLIPTask
from dallemini.training.recipes.common import own_weights
from dallemini.training.transformer import TransformerBatch, TransformerTask
from dallemini.training.update import Updater
from dallemini.training.vqgan import VQGANTask
from dallemini.training.vqgan_config import VQGANLossConfig

WORDS = "a red apple on a table", "two snowmen", "the blue car of my friend", "a dog"


def noise(*shape: int) -> Tensor:
    """Return numbers from 0 to 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def transformer_task(batch: int, *, rank: int = 0) -> Task:
    """Return the bundled transformer with a batch of captions and codes."""
    pipe = Pipeline.from_pretrained()
    own_weights(pipe.transformer)
    if rank:
        add_lora(pipe.transformer, LoRAConfig(rank=rank, alpha=16))
    length = pipe.transformer.config.image_length
    codes = (noise(batch, length) * pipe.vqgan.codebook_size).long()
    taken = TransformerBatch(pipe.tokenizer([WORDS[n % len(WORDS)] for n in range(batch)]), codes)
    return TransformerTask(
        pipe.transformer,
        batches=lambda index: taken,
        evaluation={},
        blank=pipe.tokenizer.unconditional(),
        codebook_size=pipe.vqgan.codebook_size,
    )


def vqgan_task(batch: int) -> Task:
    """Return the bundled VQGAN with a batch of pictures, and all losses."""
    vqgan: Any = Pipeline.from_pretrained().vqgan
    own_weights(vqgan)
    side = vqgan.config.resolution * vqgan.config.enlargement
    images = noise(batch, 3, side, side)
    loss = VQGANLossConfig(adversarial_from=0).over(100, trained=True)
    return VQGANTask(vqgan, batches=lambda index: images, held_out=images[:0], config=loss)


def clip_task(batch: int) -> Task:
    """Return the bundled scorer with a batch of pictures and captions."""
    scorer = Pipeline.from_pretrained().scorer
    assert isinstance(scorer, CLIPScorer)
    own_weights(scorer.clip)
    height, width = scorer.clip.config.size
    ids = scorer.tokenizer([WORDS[n % len(WORDS)] for n in range(batch)])
    taken = CLIPBatch(noise(batch, 3, height, width), ids)
    return CLIPTask(scorer.clip, batches=lambda index: taken, evaluation={})


KINDS: dict[str, tuple[Callable[[int], Task], int, dict[str, Any]]] = {
    "transformer, AdamW": (transformer_task, 16, {"optimizer": "adamw"}),
    "transformer, LoRA of rank 8": (lambda batch: transformer_task(batch, rank=8), 16, {}),
    "transformer, Muon": (transformer_task, 16, {}),
    "VQGAN": (vqgan_task, 8, {}),
    "CLIP": (clip_task, 32, {}),
    "transformer, AdamW, bfloat16": (
        transformer_task,
        16,
        {"optimizer": "adamw", "precision": "bfloat16"},
    ),
    "CLIP, bfloat16": (clip_task, 32, {"precision": "bfloat16"}),
}


def time_kind(kind: str, steps: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Return what a step takes and what it computes."""
    make, batch, settings = KINDS[kind]
    task = make(batch)
    task.module.train()
    config = TrainingConfig(steps=100, batch_size=batch, device="cpu", **settings)
    updater, times, rates = Updater(task, config), [], [multiply(clock)]

    def step(number: int) -> None:
        updater.update(number, updater.measure(number)["gradient_norm"])

    step(0)
    with FlopCounterMode(display=False) as counter:
        step(1)
    for number in range(steps):
        begun = clock()
        step(2 + number)
        times.append(clock() - begun)
        rates.append(multiply(clock))
    taken, rate, count = statistics.median(times), max(rates), counter.get_total_flops()
    return {
        "images": batch,
        "operations": count,
        "seconds": round(taken, 3),
        "range": [round(min(times), 3), round(max(times), 3)],
        "sgemm": round(rate / 1e9, 1),
        "share": round(count / rate / taken, 3),
    }


def multiply(clock: Callable[[], float], side: int = 1024, times: int = 4) -> float:
    """Return how many operations a second products of large matrices reach."""
    first, second = noise(side, side), noise(side, side)
    first @ second
    begun = clock()
    for _ in range(times):
        first @ second
    return times * 2 * side**3 / (clock() - begun)


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clock = time.process_time if asked.threads == 1 else time.perf_counter
    found: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": asked.threads,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "steps": {kind: time_kind(kind, asked.steps, clock) for kind in asked.kinds},
    }
    text = json.dumps(found, indent=2)
    print(text)
    if asked.output:
        asked.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
