"""Put the trained parts together into one pipeline folder, in half precision.

    python examples/emoji/assemble.py DATA MODEL OUTPUT --card CARD

MODEL holds tokenizer/, transformer/, vqgan/ and scorer/ as the training scripts left them. Once it
was measured, `dallemini release OUTPUT --evaluation evaluation.json` puts figures into its card.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from captions import Speaker
from dallemini import VQGAN, CLIPScorer, GenerationConfig, Pipeline, Tokenizer, Transformer
from dallemini.pipeline.release import release
from dataset import Emojis
from knowledge import knowledge_of
from train_transformer import read_synonyms

# Chosen on captions that the evaluation does not use; guidance blurs what is known by heart.
SETTINGS = GenerationConfig(guidance_scale=1.0, temperature=0.5, top_k=None, candidates=4)
LIMIT = 60_000_000


def main() -> None:
    """Read the arguments, load, save, check the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--card", required=True)
    arguments = parser.parse_args()
    model, output = arguments.model, arguments.output
    emojis = Emojis(arguments.data, split="train")
    tokenizer = Tokenizer.from_pretrained(model / "tokenizer")
    tokenizer.knowledge = knowledge_of(emojis, Speaker(emojis.rows, extra=read_synonyms()))
    pipe = Pipeline(
        tokenizer=tokenizer,
        transformer=Transformer.from_pretrained(model / "transformer"),
        vqgan=VQGAN.from_pretrained(model / "vqgan"),
        scorer=CLIPScorer.from_pretrained(model / "scorer"),
        config=SETTINGS,
        name="dallemini/emoji",
    )
    pipe.to(dtype=torch.float16).save_pretrained(output)
    shutil.copyfile(arguments.card, output / "README.md")
    shutil.copyfile(arguments.data / "NOTICE", output / "NOTICE")
    release(output, with_contents=False)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    print(f"{output}: {size / 1e6:.2f} MB")
    if size > LIMIT:
        raise SystemExit(f"That is over the limit of {LIMIT / 1e6:.0f} MB.")


if __name__ == "__main__":
    main()
