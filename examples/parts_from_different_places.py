"""Compose a pipeline from parts that come from different places.

    python examples/parts_from_different_places.py [FOLDER]

Every part loads alone: from the package, a folder, a file, or the Hugging Face Hub, in any known
format. This script stays offline: the transformer and its tokenizer are the bundled ones, the VQGAN
comes from a folder, and the scorer is a function of our own. With a network, the released model
would be put together the same way:

    tokenizer = Tokenizer.from_pretrained("dalle-mini/dalle-mini")
    transformer = Transformer.from_pretrained("dalle-mini/dalle-mini")
    vqgan = VQGAN.from_pretrained("dalle-mini/vqgan_imagenet_f16_16384")
    scorer = CLIPScorer.from_pretrained("timm/vit_base_patch32_clip_224.openai")
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dallemini import VQGAN, Pipeline, Tokenizer, Transformer

BUNDLED = "dallemini/emoji"


class RedScorer:
    """Likes red pictures, whatever the prompt. Anything with this method is a scorer."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return f32[N] for images f[N,3,H,W] in [0, 1]."""
        red, green, blue = images.float().mean(dim=(2, 3)).unbind(dim=1)
        return red - (green + blue) / 2


def main(folder: Path) -> None:
    """Put the parts together, draw, and save the pictures and the pipeline in a folder."""
    tokenizer = Tokenizer.from_pretrained(BUNDLED, subfolder="tokenizer")
    transformer = Transformer.from_pretrained(BUNDLED, subfolder="transformer")

    # A part saved alone is a folder like any other; `push_to_hub` would publish it.
    VQGAN.from_pretrained(BUNDLED, subfolder="vqgan").save_pretrained(folder / "vqgan")
    vqgan = VQGAN.from_pretrained(folder / "vqgan", dtype=torch.bfloat16)

    # The sizes of the parts are checked against each other here.
    pipe = Pipeline(tokenizer=tokenizer, transformer=transformer, vqgan=vqgan, scorer=RedScorer())
    out = pipe("a heart", num_images_per_prompt=4, seed=0, rank=True, top_k=20)
    print("redness:", [f"{score:.2f}" for score in out.scores or ()])
    out.grid().save(folder / "reddest first.png")

    # The parts work without a pipeline too: pictures to codes and back.
    codes = vqgan.encode(torch.rand(1, 3, 64, 64))
    print("codes:", tuple(codes.shape), "pixels:", tuple(vqgan.decode(codes).shape))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "parts"))
