"""Draw with your own sampler: min-p instead of top-k.

    python examples/own_sampler.py [FOLDER]

A sampler is any callable from logits and a state to tokens. Min-p keeps every token that is
at least a given share as likely as the likeliest one: few where the model is sure, many where it
is not (Nguyen et al. 2024, https://arxiv.org/abs/2407.01082).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dallemini import Pipeline
from dallemini.generation import SamplerState


@dataclass(frozen=True)
class MinPSampler:
    """Draw among the tokens that are at least `share` times as likely as the likeliest.

    Args:
        share: above 0, at most 1; 1 always takes the likeliest.
        temperature: divides the logits.
    """

    share: float = 0.1
    temperature: float = 1.0

    def __call__(self, logits: Tensor, state: SamplerState) -> Tensor:
        """Choose i64[N] from f[N,V], drawing for each picture from its own stream."""
        probabilities = (logits.float() / self.temperature).softmax(dim=-1).cpu()
        least = self.share * probabilities.amax(dim=-1, keepdim=True)
        kept = probabilities.where(probabilities >= least, 0.0)
        drawn = [
            torch.multinomial(row, 1, generator=generator)
            for row, generator in zip(kept, state.generators, strict=True)
        ]
        return torch.cat(drawn).to(logits.device)


def main(folder: Path) -> None:
    """Draw the same seeds with three samplers and save a grid of each."""
    folder.mkdir(parents=True, exist_ok=True)
    pipe = Pipeline.from_pretrained()
    for share in (0.02, 0.2, 1.0):
        out = pipe(
            "a red apple",
            sampler=MinPSampler(share=share),
            num_images_per_prompt=4,
            guidance_scale=3.0,
            seed=0,
        )
        path = folder / f"min-p {share}.png"
        out.grid().save(path)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sampled"))
