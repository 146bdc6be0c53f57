"""Teach a trained transformer's text encoder everyday words, at an eighth of the cost of training.

    python examples/emoji/train_language.py DATA RUN --start MODEL --codes CODES --scenes SCENES \
        --output OUT [--steps 3000]

MODEL, a folder with tokenizer/ and transformer/, draws well when it is asked by an emoji's name.
What the cross-attention of its decoder asks while it draws is recorded once into RUN; its encoder
then learns to answer an everyday caption as it answered the name, and a scene's caption as before.
No image token is predicted, so a caption costs little. The decoder stays as it is.

CODES is the `codes_train.npy` of `train_transformer.py`, SCENES what `scenes.py` wrote.
Interrupted, the same command goes on from RUN.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

import scenes
from captions import Look, Speaker, read_phrases
from control import Scene, describe
from dallemini import TextTokens, Tokenizer, Transformer
from dallemini.models.attention import attend
from dallemini.models.blocks import DecoderLayer
from dallemini.models.norms import normalize
from dataset import Emojis, caption
from train_transformer import STYLE_SHARE, Reader, keep_state, read_synonyms

POSITIONS = 8  # of the image, recorded of each picture
BATCH = 64
RATE = 1e-3
NOISE = 0.3  # highest share of random codes before a recorded position
NAMES_SHARE = 0.1  # of the pictures are asked for by the name itself


class Album:
    """Pictures on white, and composed scenes, with what is said of them.

    Args:
        emojis: the pictures.
        codes: i16[M,L] of the pictures on white.
        composed: scenes and their codes i16[S,L].
        speaker: says what is shown.
    """

    def __init__(
        self,
        emojis: Emojis,
        codes: Tensor,
        composed: tuple[list[Scene], Tensor],
        speaker: Speaker,
    ) -> None:
        self.emojis, self.codes, self.speaker = emojis, codes, speaker
        self.scenes, self.scene_codes = composed

    def choose(self, pictures: int, composed: int) -> list[int]:
        """Return numbers of items at random: from 0 on pictures, from -1 downwards scenes."""
        rng, items = random.Random(0), list[int]()
        while len(items) < pictures:
            some = list(range(len(self.emojis)))
            rng.shuffle(some)
            items += some[: pictures - len(items)]
        return items + [-1 - rng.randrange(len(self.scenes)) for _ in range(composed)]

    def seen(self, item: int) -> Tensor:
        """Return the codes i64[L] of an item."""
        return (self.codes[item] if item >= 0 else self.scene_codes[-1 - item]).long()

    def told(self, item: int, rng: random.Random) -> tuple[str, str | None]:
        """Return what the teacher is told of an item, and the style that it names, if any."""
        rows = self.emojis.rows
        row = rows[item if item >= 0 else self.scenes[-1 - item].indices[0]]
        style = row.style if rng.random() < STYLE_SHARE else None
        if item >= 0:
            return caption(row.label, style, "white"), style
        return describe(self.scenes[-1 - item], rows, self.speaker, rng, style=style), style

    def asked(self, item: int, told: str, style: str | None, rng: random.Random) -> str:
        """Return what the student is told: of a picture mostly something other than its name."""
        if item < 0 or rng.random() < NAMES_SHARE:
            return told
        return self.speaker(self.emojis.rows[item].hex, Look(style=style), rng)


class Record:
    """What the cross-attention of a transformer asks while it draws, and is answered.

    Attributes:
        items: number in an `Album`, what the teacher was told, and the style in it, of each.
        queries: f16[M,layers,POSITIONS,D].
        answers: f16[M,layers,POSITIONS,D].
    """

    def __init__(self, folder: Path) -> None:
        kept = json.loads((folder / "items.json").read_text(encoding="utf-8"))
        self.items: list[tuple[int, str, str | None]] = [(*row,) for row in kept]
        self.queries = np.load(folder / "queries.npy", mmap_mode="r")
        self.answers = np.load(folder / "answers.npy", mmap_mode="r")

    @classmethod
    def made(
        cls, folder: Path, teacher: Transformer, reader: Reader, album: Album, items: list[int]
    ) -> Record:
        """Read the record in a folder, or make it first."""
        if not (folder / "items.json").exists():
            rng = random.Random(1)
            told = [(item, *album.told(item, rng)) for item in items]
            parts = [
                _record(teacher, reader, album, told[start : start + 32], seed=start)
                for start in range(0, len(items), 32)
            ]
            for name, kept in zip(("queries", "answers"), zip(*parts, strict=True), strict=True):
                np.save(folder / f"{name}.npy", torch.cat(kept).half().numpy())
            (folder / "items.json").write_text(json.dumps(told), encoding="utf-8")
        return cls(folder)

    def take(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Return queries and answers f[N,layers,POSITIONS,D] of some items."""
        queries, answers = (
            torch.from_numpy(np.stack([kept[index] for index in indices])).float()
            for kept in (self.queries, self.answers)
        )
        return queries, answers


@torch.no_grad()
def _record(
    teacher: Transformer,
    reader: Reader,
    album: Album,
    items: list[tuple[int, str, str | None]],
    *,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return queries and answers f[N,layers,POSITIONS,D] at some positions of some items."""
    taken = list[Tensor]()
    hooks = [
        layer.cross_attn.q_proj.register_forward_hook(lambda _, __, found: taken.append(found))
        for layer in decoder_layers(teacher)
    ]
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([album.seen(item) for item, _, _ in items])
    share = NOISE * torch.rand(len(items), 1, generator=generator)
    high = teacher.config.image_vocab_size
    random_codes = torch.randint(high, codes.shape, generator=generator)
    codes = torch.where(torch.rand(codes.shape, generator=generator) < share, random_codes, codes)
    tokens = reader([told for _, told, _ in items])
    teacher(tokens, codes)
    for hook in hooks:
        hook.remove()
    order = torch.rand(codes.shape, generator=generator).argsort(1)[:, :POSITIONS, None]
    queries = torch.stack([found.take_along_dim(order, 1) for found in taken], 1)
    return queries, answers(teacher, tokens, queries)


class Lesson:
    """The loss of a student's encoder on captions of recorded pictures."""

    def __init__(self, student: Transformer, reader: Reader, record: Record, album: Album) -> None:
        self.student, self.reader, self.record, self.album = student, reader, record, album
        some = record.take(list(range(min(256, len(record.items)))))[1]
        self.spread = (some - some.mean((0, 2), keepdim=True)).square().mean((0, 2, 3))

    def __call__(self, asked: list[str], indices: list[int]) -> Tensor:
        """Return the mean squared error of the answers, 1 for one that is always the mean."""
        queries, wanted = self.record.take(indices)
        found = answers(self.student, self.reader(asked), queries)
        return ((found - wanted).square().mean((0, 2, 3)) / self.spread).mean()

    def ask(self, rng: random.Random, count: int) -> tuple[list[str], list[int]]:
        """Choose recorded items, with what the student is told of each."""
        chosen = [rng.randrange(len(self.record.items)) for _ in range(count)]
        return [self.album.asked(*self.record.items[index], rng) for index in chosen], chosen

    def unseen(self, count: int) -> tuple[list[str], list[int]]:
        """Choose recorded pictures with sentences of the split "dev"."""
        phrases, rng = read_phrases("dev"), random.Random(5)
        asked, chosen = list[str](), list[int]()
        for index, (item, _, style) in enumerate(self.record.items):
            own = phrases.get(self.album.emojis.rows[item].hex) if item >= 0 else None
            if own and not style and len(asked) < count:
                asked.append(rng.choice(own))
                chosen.append(index)
        return asked, chosen


def decoder_layers(transformer: Transformer) -> list[DecoderLayer]:
    """Return the layers of a decoder."""
    return cast(list[DecoderLayer], [*transformer.decoder.layers])


def answers(transformer: Transformer, tokens: TextTokens, queries: Tensor) -> Tensor:
    """Return what each layer's cross-attention is told, f[N,layers,P,D], for such queries."""
    read, told = transformer.encode(tokens), list[Tensor]()
    mask = read.attention_mask[:, None, None, :]
    for number, layer in enumerate(decoder_layers(transformer)):
        cross = layer.cross_attn
        key, value = cross.project_states(read.hidden_states)
        query = queries[:, number].unflatten(2, (cross.heads, -1)).transpose(1, 2)
        seen = attend(query, key, value, mask=mask).transpose(1, 2).flatten(2)
        told.append(normalize(layer.cross_attn_post_norm, cross.out_proj(seen)))
    return torch.stack(told, 1)


def teach(lesson: Lesson, *, folder: Path, steps: int) -> None:
    """Train the student's encoder, from the checkpoint in a folder if there is one."""
    student, kept = lesson.student, folder / "language.pt"
    student.requires_grad_(False)
    trained = list(student.encoder.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    step = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    held_out = lesson.unseen(256)
    saved = time.monotonic()
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 60, 1, 2 * (1 - step / steps) + 0.02)
        loss = lesson(*lesson.ask(random.Random(step), BATCH))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        if step % 200 == 0 or step == steps:
            with torch.no_grad():
                unseen = lesson(*held_out).item() if held_out[0] else float("nan")
            print(f"step {step}: loss {loss.item():.4f}, unseen sentences {unseen:.4f}", flush=True)
        if step == steps or time.monotonic() - saved > 300:
            state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            keep_state(kept, **state, step=step)
            saved = time.monotonic()


def main() -> None:
    """Read the arguments, record, teach, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", type=Path, required=True, help="tokenizer/ and transformer/")
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--record", type=int, nargs=2, default=(4800, 800))
    arguments = parser.parse_args()
    folder = arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_pretrained(arguments.start / "tokenizer")
    transformer = Transformer.from_pretrained(arguments.start / "transformer").float()
    reader, emojis = Reader(tokenizer), Emojis(arguments.data, split="train")
    speaker = Speaker(emojis.rows, extra=read_synonyms())
    codes = torch.from_numpy(np.load(arguments.codes))
    album = Album(emojis, codes, scenes.read(arguments.scenes), speaker)
    items = album.choose(*arguments.record)
    record = Record.made(folder, transformer, reader, album, items)
    lesson = Lesson(transformer, reader, record, album)  # what it knew is in the record
    teach(lesson, folder=folder, steps=arguments.steps)
    tokenizer.save_pretrained(arguments.output / "tokenizer")
    lesson.student.save_pretrained(arguments.output / "transformer")


if __name__ == "__main__":
    main()
