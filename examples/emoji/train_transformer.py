"""Train the transformer of the bundled model on the emoji pictures and everyday captions.

    python examples/emoji/train_transformer.py DATA RUN --vqgan MODEL/vqgan --scenes SCENES \
        --output MODEL [--start MODEL]

Interrupted, the same command goes on from the last checkpoint in RUN. Pictures on white are encoded
once, into RUN/codes_*.npy; SCENES are what `scenes.py` composed and encoded. `--start` goes on from
a trained tokenizer and transformer instead of from nothing.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
import torch
from torch import Tensor

import scenes
from captions import Look, Speaker, read_phrases
from control import Scene, describe, main_color
from dallemini import VQGAN, Pipeline, TextTokens, Tokenizer, Transformer
from dallemini.images import image_to_tensor
from dallemini.models import TransformerConfig
from dallemini.training import TrainingConfig, TransformerBatch, TransformerTask, run
from dataset import COLORS, Emojis, caption

HERE = Path(__file__).parent
SYNONYMS = HERE / "synonyms.json"
VOCABULARY = 6000
MAX_TEXT_LENGTH = 32
SCENES_SHARE = 0.35  # of a batch
NAMES_SHARE = 0.2  # of the captions of single pictures are the emoji's name, as in the evaluation
STYLE_SHARE = 0.35  # of the captions name the style
COLOR_SHARE = 0.15  # of the captions name the object's own colour, where it has one
PROMPTS = (  # looked at during training
    "a kitten",
    "draw me a slice of pizza",
    "a fire truck",
    "a pair of scissors",
    "a light bulb that is on",
    "a green apple",
    "a blue car",
    "a purple cat",
    "three strawberries",
    "two dogs",
    "a cat left of a dog",
    "a star above a house",
    "a tiny rocket",
    "a pencil sketch of a rocket",
    "a sunflower on a blue background",
    "pixel art of a fish",
)


def transformer_config(vqgan: VQGAN) -> TransformerConfig:
    """Return the sizes of the bundled transformer for the codes of a VQGAN."""
    return TransformerConfig(
        text_vocab_size=VOCABULARY,
        image_vocab_size=vqgan.codebook_size,
        image_length=vqgan.image_length,
        max_text_length=MAX_TEXT_LENGTH,
        d_model=256,
        encoder_layers=4,
        decoder_layers=6,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=512,
        decoder_ffn_dim=512,
        decoder_start_token_id=vqgan.codebook_size,
    )


class Reader:
    """Turns captions into tokens; None is the blank caption."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.blank = tokenizer, tokenizer.unconditional()

    def __call__(self, captions: Sequence[str | None]) -> TextTokens:
        """Return the tokens of N captions, no wider than the longest."""
        rows = [self.blank if text is None else self.tokenizer(text) for text in captions]
        return TextTokens(
            torch.cat([row.input_ids for row in rows]),
            torch.cat([row.attention_mask for row in rows]),
        ).trim()


class Mixture:
    """Makes batches: pictures on white and composed scenes, asked for in everyday words.

    Args:
        emojis: the pictures.
        codes: i16[M,L] of the pictures on white.
        composed: scenes and their codes i16[S,L].
        speaker: says what is shown.
        reader: tokens of the captions.
        batch_size: rows of a batch.
        dropout: share of captions replaced by the empty one, for guidance.
    """

    def __init__(
        self,
        emojis: Emojis,
        codes: Tensor,
        composed: tuple[list[Scene], Tensor],
        speaker: Speaker,
        reader: Reader,
        *,
        batch_size: int,
        dropout: float = 0.1,
    ) -> None:
        self.emojis, self.codes, (self.scenes, self.scene_codes) = emojis, codes, composed
        self.speaker, self.reader = speaker, reader
        self.batch_size, self.dropout = batch_size, dropout
        self.colors = own_colors(emojis)

    def __call__(self, step: int) -> TransformerBatch:
        """Return the batch of a step."""
        rng = random.Random(step)
        rows = [
            self._scene(rng) if rng.random() < SCENES_SHARE else self._single(rng)
            for _ in range(self.batch_size)
        ]
        captions = [None if rng.random() < self.dropout else text for text, _ in rows]
        return TransformerBatch(self.reader(captions), torch.stack([codes for _, codes in rows]))

    def _single(self, rng: random.Random) -> tuple[str, Tensor]:
        index = rng.randrange(len(self.emojis))
        row, color = self.emojis.rows[index], self.colors[index]
        if rng.random() < NAMES_SHARE:
            style = row.style if rng.random() < STYLE_SHARE else None
            return caption(row.label, style, "white"), self.codes[index].long()
        look = Look(
            style=row.style if rng.random() < STYLE_SHARE else None,
            color=color if rng.random() < COLOR_SHARE else None,
        )
        return self.speaker(row.hex, look, rng), self.codes[index].long()

    def _scene(self, rng: random.Random) -> tuple[str, Tensor]:
        number = rng.randrange(len(self.scenes))
        scene, rows = self.scenes[number], self.emojis.rows
        style = rows[scene.indices[0]].style if rng.random() < STYLE_SHARE else None
        return describe(scene, rows, self.speaker, rng, style=style), self.scene_codes[
            number
        ].long()


def own_colors(emojis: Emojis) -> list[str | None]:
    """Return the colour of each picture's object; people and hands have skins, not colours."""
    return [
        None if row.group == "people-body" else main_color(emojis.layers(torch.tensor([index]))[0])
        for index, row in enumerate(emojis.rows)
    ]


def plain(emojis: Emojis, codes: Tensor, reader: Reader, count: int) -> TransformerBatch:
    """Return pictures on white with the captions of the evaluation: name and style."""
    indices = torch.randperm(len(emojis), generator=torch.Generator().manual_seed(1))[:count]
    rows = [emojis.rows[index] for index in indices.tolist()]
    texts = [caption(row.label, row.style, "white") for row in rows]
    return TransformerBatch(reader(texts), codes[indices].long())


def sentences(emojis: Emojis, codes: Tensor, reader: Reader, count: int) -> TransformerBatch:
    """Return pictures on white with sentences of the split "dev"."""
    rng, phrases = random.Random(1), read_phrases("dev")
    able = [n for n, row in enumerate(emojis.rows) if phrases.get(row.hex)]
    chosen = rng.sample(able, min(count, len(able)))
    texts = [rng.choice(phrases[emojis.rows[index].hex]) for index in chosen]
    return TransformerBatch(reader(texts), codes[chosen].long())


def encode_on_white(vqgan: VQGAN, emojis: Emojis, path: Path) -> Tensor:
    """Return the codes i16[M,L] of every picture on white, kept in a file."""
    if not path.exists():
        white = torch.full((64, 3), 255, dtype=torch.uint8)
        parts = torch.arange(len(emojis)).split(64)
        codes = [vqgan.encode(emojis.draw(part, white[: len(part)])) for part in parts]
        np.save(path, torch.cat(codes).short().numpy())
    return torch.from_numpy(np.load(path))


def vocabulary_texts(emojis: Emojis, speaker: Speaker) -> list[str]:
    """Return captions to train the vocabulary on: what will be said, and every word once."""
    rng, names, texts = random.Random(0), list(COLORS), list[str]()
    for number, row in enumerate(emojis.rows):
        style = row.style if number % 3 == 0 else None
        texts.append(speaker(row.hex, Look(style=style, ground=names[number % len(names)]), rng))
    for code, label in speaker.labels.items():
        texts += [*speaker.phrases.get(code, []) * 2, *[label] * 3, *speaker.words[code]]
    return texts + sorted({word for row in emojis.rows for word in row.keywords})


@torch.no_grad()
def inherit_words(
    embedding: Tensor,
    words: Tensor,
    *,
    now: tokenizers.Tokenizer,
    before: tokenizers.Tokenizer,
    spelled: Callable[[str], str],
) -> None:
    """Embed each token of a new vocabulary as the mean of the old tokens that spell it.

    Args:
        embedding: f[V,D] of the new vocabulary, written in place.
        words: f[W,D] of the old one.
        now: the new vocabulary.
        before: the old one.
        spelled: the text of a token that the old one lacks.
    """
    for piece, number in now.get_vocab().items():
        known = before.token_to_id(piece)
        if known is None:
            ids = before.encode(spelled(piece), add_special_tokens=False).ids
        else:
            ids = [known]
        if ids:
            embedding[number] = words[ids].mean(0)


def keep_state(path: Path, **state: object) -> None:
    """Write a checkpoint beside its name, and rename it."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


def read_synonyms() -> dict[str, list[str]]:
    """Return WordNet's words for concepts, by code points."""
    found: dict[str, list[str]] = json.loads(SYNONYMS.read_text(encoding="utf-8"))
    return found


def samples(pipe: Pipeline) -> Tensor:
    """Draw every prompt, seeds 0.., without guidance."""
    drawn = pipe(PROMPTS, guidance_scale=1.0, temperature=0.5, top_k=None, seed=0, progress=False)
    return torch.stack([image_to_tensor(image) for image in drawn.images])


def main() -> None:
    """Read the arguments, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--vqgan", required=True)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a folder with tokenizer/ and transformer/")
    parser.add_argument(
        "--config",
        default=HERE / "settings" / "cpu" / "transformer.yaml",
        help="settings of the run",
    )
    parser.add_argument("--minutes", type=float, help="stop after this time, to go on later")
    arguments = parser.parse_args()
    config, folder = TrainingConfig.from_file(arguments.config), arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    vqgan = VQGAN.from_pretrained(arguments.vqgan).float()
    train, unseen = (Emojis(arguments.data, split=name) for name in ("train", "test_style"))
    speaker = Speaker(train.rows, extra=read_synonyms())
    if arguments.start:
        tokenizer = Tokenizer.from_pretrained(arguments.start / "tokenizer")
        transformer = Transformer.from_pretrained(arguments.start / "transformer").float()
        transformer.requires_grad_(True)
    else:
        texts = vocabulary_texts(train, speaker)
        tokenizer = Tokenizer.train(
            texts, vocab_size=VOCABULARY, max_length=MAX_TEXT_LENGTH, normalize_text=True
        )
        transformer = Transformer.from_config(transformer_config(vqgan))
    reader = Reader(tokenizer)
    codes = encode_on_white(vqgan, train, folder / "codes_train.npy")
    unseen_codes = encode_on_white(vqgan, unseen, folder / "codes_unseen.npy")
    pipe = Pipeline(tokenizer=tokenizer, transformer=transformer, vqgan=vqgan)
    task = TransformerTask(
        transformer,
        batches=Mixture(
            train,
            codes,
            scenes.read(arguments.scenes),
            speaker,
            reader,
            batch_size=config.batch_size,
        ),
        evaluation={
            "train": plain(train, codes, reader, 256),
            "dev": sentences(train, codes, reader, 256),
            "unseen": plain(unseen, unseen_codes, reader, 128),
        },
        blank=reader.blank,
        codebook_size=vqgan.codebook_size,
        draw=lambda: samples(pipe),
    )
    seconds = None if arguments.minutes is None else 60 * arguments.minutes
    run(task, config, folder=folder, seconds=seconds)
    tokenizer.save_pretrained(arguments.output / "tokenizer")
    transformer.save_pretrained(arguments.output / "transformer")


if __name__ == "__main__":
    main()
