"""Train the tokenizer and the transformer of the bundled model on the emoji pictures.

    python examples/emoji/train_transformer.py DATA RUN --vqgan MODEL/vqgan --output MODEL

Interrupted, the same command goes on from the last checkpoint in RUN. Single emoji are encoded
once, on every background, into RUN/codes_train.npy; pairs when they are drawn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallemini import VQGAN, Pipeline, TextTokens, Tokenizer, Transformer
from dallemini.images import image_to_tensor
from dallemini.models import TransformerConfig
from dallemini.training import TrainingConfig, TransformerBatch, TransformerTask, run
from dataset import (
    COLORS,
    Captioner,
    Drawing,
    Emojis,
    caption,
    caption_texts,
    color_table,
    pair_label,
)

HERE = Path(__file__).parent
VOCABULARY = 2500
PROMPTS = (  # looked at during training
    "red apple, noto emoji",
    "cat face, flat emoji",
    "rocket, 3d emoji",
    "fox, blob emoji",
    "teddy bear, colour emoji",
    "a sunflower, noto emoji, on a blue background",
    "a cat and a red apple",
    "a rocket and a sunflower, noto emoji",
)
MAX_TEXT_LENGTH = 32


def transformer_config(vqgan: VQGAN) -> TransformerConfig:
    """Return the sizes of the bundled transformer for the codes of a VQGAN."""
    return TransformerConfig(
        text_vocab_size=VOCABULARY,
        image_vocab_size=vqgan.codebook_size,
        image_length=vqgan.image_length,
        max_text_length=MAX_TEXT_LENGTH,
        d_model=256,
        encoder_layers=3,
        decoder_layers=6,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        decoder_start_token_id=vqgan.codebook_size,
    )


class Captions:
    """Makes batches of captions and codes.

    Args:
        emojis: the pictures.
        vqgan: encodes pairs, which are too many to keep.
        codes: i64[M,C,L], every picture on every background.
        tokenizer: of the captions.
        batch_size: rows of a batch.
        dropout: share of captions replaced by the empty one, for guidance.
    """

    def __init__(
        self,
        emojis: Emojis,
        vqgan: VQGAN,
        codes: Tensor,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        dropout: float = 0.1,
    ) -> None:
        self.emojis, self.vqgan, self.codes, self.tokenizer = emojis, vqgan, codes, tokenizer
        self.batch_size, self.dropout = batch_size, dropout
        self.captioner, self.table = Captioner(emojis), color_table()
        self.blank = tokenizer.unconditional()
        self.known: dict[str, TextTokens] = {}

    def __call__(self, step: int) -> TransformerBatch:
        """Return the batch of a step."""
        drawing = self.captioner(self.batch_size, seed=step)
        generator = torch.Generator().manual_seed(step)
        dropped = torch.rand(self.batch_size, generator=generator) < self.dropout
        tokens = self._tokens(
            [None if drop else text for text, drop in zip(drawing.captions, dropped, strict=True)]
        )
        return TransformerBatch(tokens, self._codes(drawing))

    def plain(self, count: int, *, seed: int) -> TransformerBatch:
        """Return pictures on white with captions that name the style, none dropped."""
        generator = torch.Generator().manual_seed(seed)
        indices = torch.randperm(len(self.emojis), generator=generator)[:count]
        rows = [self.emojis.rows[index] for index in indices.tolist()]
        tokens = self._tokens([caption(row.label, row.style, "white") for row in rows])
        return TransformerBatch(tokens, self.codes[indices, 0].long())

    def pairs(self, count: int, *, seed: int) -> TransformerBatch:
        """Return two emoji of one style side by side on white, captions that name the style."""
        generator = torch.Generator().manual_seed(seed)
        style = self.emojis.rows[int(torch.randint(len(self.emojis), (1,), generator=generator))]
        among = self.captioner.of_style[style.style]
        chosen = among[torch.randint(len(among), (2, count), generator=generator)]
        white = torch.zeros(count, dtype=torch.long)
        captions = [
            caption(pair_label(*(self.emojis.rows[i].label for i in both)), style.style, "white")
            for both in chosen.T.tolist()
        ]
        drawing = Drawing(chosen[0], chosen[1], white, white.bool(), captions)
        return TransformerBatch(self._tokens(list(captions)), self._codes(drawing))

    def _codes(self, drawing: Drawing) -> Tensor:
        codes = self.codes[drawing.indices, drawing.colors].long()
        paired = drawing.seconds >= 0
        if paired.any():
            colors = self.table[drawing.colors[paired]]
            left, right = drawing.indices[paired], drawing.seconds[paired]
            with torch.autocast("cpu", enabled=False):
                codes[paired] = self.vqgan.encode(self.emojis.draw_pairs(left, right, colors))
        return codes

    def _tokens(self, captions: list[str | None]) -> TextTokens:
        rows = [self.blank if text is None else self._read(text) for text in captions]
        return TextTokens(
            torch.cat([row.input_ids for row in rows]),
            torch.cat([row.attention_mask for row in rows]),
        ).trim()

    def _read(self, text: str) -> TextTokens:
        if text not in self.known:
            self.known[text] = self.tokenizer(text)
        return self.known[text]


def encode_all(vqgan: VQGAN, emojis: Emojis, path: Path) -> Tensor:
    """Return the codes i16[M,C,L] of every picture on every background, kept in a file."""
    if not path.exists():
        table, parts = color_table(), []
        for indices in torch.arange(len(emojis)).split(128):
            on_each = [
                vqgan.encode(emojis.draw(indices, color.expand(len(indices), 3))) for color in table
            ]
            parts.append(torch.stack(on_each, dim=1))
        np.save(path, torch.cat(parts).short().numpy())
    codes = torch.from_numpy(np.load(path))
    assert codes.shape[:2] == (len(emojis), len(COLORS))
    return codes


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run")
    parser.add_argument("--vqgan", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--config", default=HERE / "transformer.yaml", help="settings of the run")
    parser.add_argument("--minutes", type=float, help="stop after this time, to go on later")
    arguments = parser.parse_args()
    config, folder = TrainingConfig.from_file(arguments.config), Path(arguments.run)
    folder.mkdir(parents=True, exist_ok=True)
    vqgan = VQGAN.from_pretrained(arguments.vqgan)
    train, unseen = (Emojis(arguments.data, split=name) for name in ("train", "test_style"))
    tokenizer = Tokenizer.train(
        caption_texts(train),
        vocab_size=VOCABULARY,
        max_length=MAX_TEXT_LENGTH,
        normalize_text=True,
    )
    batches, held_out = (
        Captions(
            emojis,
            vqgan,
            encode_all(vqgan, emojis, folder / f"codes_{name}.npy"),
            tokenizer,
            batch_size=config.batch_size,
        )
        for name, emojis in (("train", train), ("unseen", unseen))
    )
    transformer = Transformer.from_config(transformer_config(vqgan))
    pipe = Pipeline(tokenizer=tokenizer, transformer=transformer, vqgan=vqgan)
    task = TransformerTask(
        transformer,
        batches=batches,
        evaluation={
            "train": batches.plain(256, seed=1),
            "unseen": held_out.plain(128, seed=1),
            "pairs": batches.pairs(128, seed=1),
        },
        blank=batches.blank,
        codebook_size=vqgan.codebook_size,
        draw=lambda: samples(pipe),
    )
    seconds = None if arguments.minutes is None else 60 * arguments.minutes
    run(task, config, folder=folder, seconds=seconds)
    tokenizer.save_pretrained(Path(arguments.output) / "tokenizer")
    transformer.save_pretrained(Path(arguments.output) / "transformer")


def samples(pipe: Pipeline) -> Tensor:
    """Draw every prompt twice, seeds 0 and 1, without guidance."""
    drawn = pipe(
        PROMPTS,
        num_images_per_prompt=2,
        guidance_scale=1.0,
        temperature=0.5,
        top_k=None,
        seed=0,
        progress=False,
    )
    return torch.stack([image_to_tensor(image) for image in drawn.images])


if __name__ == "__main__":
    main()
