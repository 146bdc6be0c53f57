"""Train the CLIP scorer of the bundled model on the emoji pictures.

    python examples/emoji/train_clip.py DATA RUN --output MODEL/scorer

Interrupted, the same command goes on from the last checkpoint in RUN.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

from captions import Look, Speaker
from dallemini.models.clip import CLIP, CLIPConfig
from dallemini.scorer import CLIPScorer, CLIPTokenizer, preprocess
from dallemini.training import CLIPBatch, CLIPTask, TrainingConfig, run
from dataset import COLORS, Captioner, Drawing, Emojis, caption, color_table
from train_transformer import read_synonyms, vocabulary_texts

HERE = Path(__file__).parent
VOCABULARY = 4000
CONFIG = CLIPConfig(
    embed_dim=128,
    image_size=64,
    patch_size=8,
    vision_width=160,
    vision_layers=4,
    vision_heads=5,
    vision_mlp_dim=640,
    text_width=160,
    text_layers=2,
    text_heads=5,
    text_mlp_dim=640,
    context_length=32,
    vocab_size=VOCABULARY,
    activation="gelu",
    pooling="first_eos",
    eos_token_id=VOCABULARY - 1,
    pad_token_id=0,
)


class Pairs:
    """Makes batches of pictures and captions, everyday ones for single emoji."""

    def __init__(self, emojis: Emojis, tokenizer: CLIPTokenizer, *, batch_size: int) -> None:
        self.emojis, self.tokenizer, self.batch_size = emojis, tokenizer, batch_size
        self.table, self.captioner = color_table(), Captioner(emojis, white=0.6)
        self.speaker = Speaker(emojis.rows, extra=read_synonyms())
        concepts = {row.hex: number for number, row in enumerate(emojis.rows)}
        styles = {row.style: number for number, row in enumerate(emojis.rows)}
        self.concepts = torch.tensor([concepts[row.hex] for row in emojis.rows])
        self.styles = torch.tensor([styles[row.style] for row in emojis.rows])

    def __call__(self, step: int) -> CLIPBatch:
        """Return the batch of a step: pictures shifted a little, captions of every form."""
        drawing = self.captioner(self.batch_size, seed=step)
        pixels = self.emojis.show(drawing.indices, drawing.seconds, self.table[drawing.colors])
        generator = torch.Generator().manual_seed(step)
        rows, columns = torch.randint(-8, 9, (2,), generator=generator).tolist()
        pixels = torch.roll(pixels, (rows, columns), dims=(2, 3))
        ids = self.tokenizer(self._said(drawing, random.Random(step)))
        longest = int((ids == CONFIG.eos_token_id).int().argmax(dim=1).max()) + 1
        return CLIPBatch(preprocess(pixels, CONFIG), ids[:, :longest], self._same(drawing))

    def ranking(self, count: int, *, seed: int) -> CLIPBatch:
        """Return pictures of one style on white, captions that name it: whom does each find?"""
        generator = torch.Generator().manual_seed(seed)
        style = self.styles[int(torch.randint(len(self.emojis), (1,), generator=generator))]
        among = (self.styles == style).nonzero()[:, 0]
        indices = among[torch.randperm(len(among), generator=generator)[:count]]
        rows = [self.emojis.rows[index] for index in indices.tolist()]
        captions = [caption(row.label, row.style, "white") for row in rows]
        white = torch.full((len(rows), 3), 255, dtype=torch.uint8)
        pixels = preprocess(self.emojis.draw(indices, white), CONFIG)
        return CLIPBatch(pixels, self.tokenizer(captions), torch.eye(len(rows), dtype=torch.bool))

    def _said(self, drawing: Drawing, rng: random.Random) -> list[str]:
        """Ask for what is drawn: for single emoji as people do, for two by their names."""
        said = list(drawing.captions)
        for number, index in enumerate(drawing.indices.tolist()):
            if drawing.seconds[number] < 0:
                row, ground = self.emojis.rows[index], list(COLORS)[int(drawing.colors[number])]
                style = row.style if drawing.named_style[number] else None
                said[number] = self.speaker(row.hex, Look(style=style, ground=ground), rng)
        return said

    def _same(self, drawing: Drawing) -> Tensor:
        concepts, styles = self.concepts[drawing.indices], self.styles[drawing.indices]
        style_fits = (styles[:, None] == styles) | ~drawing.named_style[None, :]
        color_fits = drawing.colors[:, None] == drawing.colors
        seconds_fit = drawing.seconds[:, None] == drawing.seconds
        return (concepts[:, None] == concepts) & seconds_fit & style_fits & color_fits


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--output", required=True)
    parser.add_argument(
        "--config", default=HERE / "settings" / "cpu" / "clip.yaml", help="settings of the run"
    )
    arguments = parser.parse_args()
    config = TrainingConfig.from_file(arguments.config)
    train, unseen = (Emojis(arguments.data, split=name) for name in ("train", "test_style"))
    texts = vocabulary_texts(train, Speaker(train.rows, extra=read_synonyms()))
    tokenizer = CLIPTokenizer.train(texts, vocab_size=VOCABULARY, context_length=32)
    pairs = Pairs(train, tokenizer, batch_size=config.batch_size)
    held_out = Pairs(unseen, tokenizer, batch_size=config.batch_size)
    clip = CLIP.from_config(CONFIG)
    task = CLIPTask(
        clip,
        batches=pairs,
        evaluation={"train": pairs.ranking(100, seed=1), "unseen": held_out.ranking(100, seed=1)},
    )
    run(task, config, folder=arguments.run)
    with torch.no_grad():
        clip.logit_scale.clamp_(max=4.6052)
    CLIPScorer(clip.eval(), tokenizer).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
