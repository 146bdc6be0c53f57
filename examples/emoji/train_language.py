"""Teach a trained transformer's text encoder everyday words, at an eighth of the cost of training.

    python examples/emoji/train_language.py DATA RUN --model MODEL --output OUT [--minutes 60]

MODEL draws well when it is asked by an emoji's name. Its decoder stays as it is: what its
cross-attention asks while it draws is recorded once into RUN. A new encoder, with a new vocabulary,
then learns to answer an everyday caption as the old encoder answers the name. No image token is
predicted, so a caption costs little.

Interrupted, the same command goes on from RUN.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from captions import Look, Speaker, read_phrases, with_article
from control import short_name
from dallemini import Pipeline, TextTokens, Tokenizer, Transformer
from dallemini.models import TransformerConfig
from dallemini.models.attention import attend
from dallemini.models.blocks import DecoderLayer, EncoderLayer
from dallemini.models.norms import normalize
from dataset import COLORS, Emojis, caption, color_table, is_held_out, pair_label
from train_transformer import (
    MAX_TEXT_LENGTH,
    VOCABULARY,
    Reader,
    inherit_words,
    keep_state,
    read_synonyms,
    vocabulary_texts,
)

ENCODER_LAYERS = 4
POSITIONS = 8  # of the image, recorded of each picture
BATCH = 64
RATE = 1e-3
NOISE = 0.3  # highest share of random codes before a recorded position
Item = tuple[int, int, int, int]
LEFT = ("left of", "to the left of", "on the left of")
RIGHT = ("right of", "to the right of", "on the right of")


class Record:
    """What the cross-attention of a transformer is asked while it draws.

    Attributes:
        items: i64[M,4]: picture, the one to its right or -1, whether the caption named the style,
            number of the ground.
        queries: f16[M,layers,POSITIONS,D].
    """

    def __init__(self, folder: Path) -> None:
        self.items = np.load(folder / "items.npy")
        self.queries = np.load(folder / "queries.npy", mmap_mode="r")

    @classmethod
    def made(cls, folder: Path, pipe: Pipeline, emojis: Emojis, *, count: int) -> Record:
        """Read the record in a folder, or make it first."""
        if not (folder / "queries.npy").exists():
            items = _choose(emojis, count)
            parts = [_record(pipe, emojis, items[n : n + 32], seed=n) for n in range(0, count, 32)]
            np.save(folder / "items.npy", np.array(items[:count]))
            np.save(folder / "queries.npy", torch.cat(parts).half().numpy())
        return cls(folder)

    def take(self, indices: list[int]) -> Tensor:
        """Return the queries f[N,layers,POSITIONS,D] of some items."""
        return torch.from_numpy(np.stack([self.queries[index] for index in indices])).float()


def _choose(emojis: Emojis, count: int) -> list[Item]:
    rng, names, items = random.Random(0), list(COLORS), list[Item]()
    of_style: dict[str, list[int]] = {}
    for index, row in enumerate(emojis.rows):
        of_style.setdefault(row.style, []).append(index)
    while len(items) < count:
        index, second, color, chance = rng.randrange(len(emojis)), -1, 0, rng.random()
        if chance < 0.2:
            second = rng.choice(of_style[emojis.rows[index].style])
        elif chance < 0.35:
            color = rng.randrange(1, len(names))
        if not is_held_out(emojis.rows[index], names[color]):
            items.append((index, second, rng.randrange(2), color))
    return items


@torch.no_grad()
def _record(pipe: Pipeline, emojis: Emojis, items: list[Item], *, seed: int) -> Tensor:
    """Return the queries f[N,layers,POSITIONS,D] at some positions of some items."""
    taken = list[Tensor]()
    hooks = [
        layer.cross_attn.q_proj.register_forward_hook(lambda _, __, found: taken.append(found))
        for layer in decoder_layers(pipe.transformer)
    ]
    generator, table = torch.Generator().manual_seed(seed), color_table()
    firsts, seconds, _, colors = torch.tensor(items).T
    codes = pipe.vqgan.encode(emojis.show(firsts, seconds, table[colors]))
    share = NOISE * torch.rand(len(items), 1, generator=generator)
    random_codes = torch.randint(pipe.vqgan.codebook_size, codes.shape, generator=generator)
    codes = torch.where(torch.rand(codes.shape, generator=generator) < share, random_codes, codes)
    texts = [named(emojis, item) for item in items]
    pipe.transformer(pipe.tokenizer(texts).trim(), codes)
    for hook in hooks:
        hook.remove()
    order = torch.rand(codes.shape, generator=generator).argsort(1)[:, :POSITIONS, None]
    return torch.stack([found.take_along_dim(order, 1) for found in taken], 1)


def named(emojis: Emojis, item: Sequence[int]) -> str:
    """Return the caption of an item that the teacher was trained with."""
    index, second, styled, color = item
    row = emojis.rows[index]
    label = row.label if second < 0 else pair_label(row.label, emojis.rows[second].label)
    return caption(label, row.style if styled else None, list(COLORS)[color])


@torch.no_grad()
def student_of(teacher: Pipeline, tokenizer: Tokenizer) -> Transformer:
    """Return a transformer with a new vocabulary and a deeper encoder that starts as the old one.

    A token is embedded as the mean of the old tokens that spell it; layers that are new start as
    almost nothing.
    """
    old = teacher.transformer
    sizes = old.config.to_dict() | {
        "text_vocab_size": tokenizer.vocab_size,
        "encoder_layers": max(ENCODER_LAYERS, old.config.encoder_layers),
    }
    student = Transformer.from_config(TransformerConfig(**sizes))
    state = old.state_dict()
    words = state.pop("encoder.embed_tokens.weight")
    student.load_state_dict(state, strict=False)
    for layer in student.encoder.layers[old.config.encoder_layers :]:
        assert isinstance(layer, EncoderLayer)
        assert isinstance(layer.self_attn_post_norm, nn.LayerNorm)
        assert layer.glu is not None
        layer.self_attn_post_norm.weight.mul_(0.05)
        layer.glu.out_proj.weight.mul_(0.05)
    now = tokenizer.backend
    inherit_words(
        student.encoder.embed_tokens.weight,
        words,
        now=now,
        before=teacher.tokenizer.backend,
        spelled=lambda piece: now.decoder.decode([piece]),
    )
    return student


class Lesson:
    """The loss of a student's encoder on captions of recorded pictures."""

    def __init__(
        self, teacher: Pipeline, tokenizer: Tokenizer, record: Record, emojis: Emojis
    ) -> None:
        self.teacher, self.record, self.emojis = teacher, record, emojis
        self.student, self.reader = student_of(teacher, tokenizer), Reader(tokenizer)
        self.told = Reader(teacher.tokenizer)
        some = list(range(min(256, len(record.items))))
        answers = self._wanted(some, record.take(some))
        self.spread = [float((one - one.mean((0, 1))).square().mean()) for one in answers]

    def __call__(self, texts: list[str], indices: list[int]) -> Tensor:
        """Return the mean squared error of the answers, 1 for one that is always the mean."""
        queries = self.record.take(indices)
        found = answers(self.student, self.reader(texts), queries)
        pairs = zip(found, self._wanted(indices, queries), self.spread, strict=True)
        losses = [(one - wanted).square().mean() / spread for one, wanted, spread in pairs]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def _wanted(self, indices: list[int], queries: Tensor) -> list[Tensor]:
        names = [named(self.emojis, self.record.items[index].tolist()) for index in indices]
        return answers(self.teacher.transformer, self.told(names), queries)


def decoder_layers(transformer: Transformer) -> list[DecoderLayer]:
    """Return the layers of a decoder."""
    return cast(list[DecoderLayer], [*transformer.decoder.layers])


def answers(transformer: Transformer, tokens: TextTokens, queries: Tensor) -> list[Tensor]:
    """Return what each layer's cross-attention is told, f[N,P,D], for f[N,layers,P,D]."""
    read, told = transformer.encode(tokens), list[Tensor]()
    mask = read.attention_mask[:, None, None, :]
    for number, layer in enumerate(decoder_layers(transformer)):
        cross = layer.cross_attn
        key, value = cross.project_states(read.hidden_states)
        query = queries[:, number].unflatten(2, (cross.heads, -1)).transpose(1, 2)
        seen = attend(query, key, value, mask=mask).transpose(1, 2).flatten(2)
        told.append(normalize(layer.cross_attn_post_norm, cross.out_proj(seen)))
    return told


def ask(
    record: Record, emojis: Emojis, speaker: Speaker, rng: random.Random, count: int
) -> tuple[list[str], list[int]]:
    """Choose recorded pictures, and say in everyday words what they show."""
    chosen, names = [rng.randrange(len(record.items)) for _ in range(count)], list(COLORS)
    texts = []
    for index in chosen:
        picture, second, styled, color = record.items[index].tolist()
        row = emojis.rows[picture]
        look = Look(style=row.style if styled else None, ground=names[color])
        if second < 0:
            texts.append(speaker(row.hex, look, rng))
        else:
            texts.append(_pair((row.hex, emojis.rows[second].hex), look, speaker, rng))
    return texts, chosen


def _pair(codes: tuple[str, str], look: Look, speaker: Speaker, rng: random.Random) -> str:
    """Ask for two things side by side; the teacher drew the first on the left."""
    first, second = (short_name(code, speaker, rng) for code in codes)
    if rng.random() < 0.8:
        first, second = with_article(first), with_article(second)
    kind = rng.choices(("and", "beside", "left", "right"), (60, 14, 13, 13))[0]
    word = {"and": ("and",), "beside": ("next to", "beside"), "left": LEFT, "right": RIGHT}[kind]
    if kind == "right":
        first, second = second, first
    return speaker.finish(f"{first} {rng.choice(word)} {second}", look, rng)


def unseen_sentences(record: Record, emojis: Emojis, count: int) -> tuple[list[str], list[int]]:
    """Choose recorded pictures on white, with sentences of the split "dev"."""
    phrases, rng = read_phrases("dev"), random.Random(5)
    texts, chosen = list[str](), list[int]()
    for index, (picture, second, styled, color) in enumerate(record.items.tolist()):
        own = phrases.get(emojis.rows[picture].hex)
        if own and second < 0 and not styled and not color and len(texts) < count:
            texts.append(rng.choice(own))
            chosen.append(index)
    return texts, chosen


def main() -> None:
    """Read the arguments, record, teach, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", help="a pipeline's folder; the bundled model if not given")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--record", type=int, default=4480, help="pictures to record")
    arguments = parser.parse_args()
    folder = arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    teacher = Pipeline.from_pretrained(*([arguments.model] if arguments.model else []))
    teacher.to(dtype=torch.float32)
    emojis = Emojis(arguments.data, split="train")
    speaker = Speaker(emojis.rows, extra=read_synonyms())
    tokenizer = Tokenizer.train(
        vocabulary_texts(emojis, speaker),
        vocab_size=VOCABULARY,
        max_length=MAX_TEXT_LENGTH,
        normalize_text=True,
    )
    record = Record.made(folder, teacher, emojis, count=arguments.record)
    lesson = Lesson(teacher, tokenizer, record, emojis)
    teach(lesson, speaker, folder=folder, steps=arguments.steps)
    tokenizer.save_pretrained(arguments.output / "tokenizer")
    lesson.student.save_pretrained(arguments.output / "transformer")


def teach(lesson: Lesson, speaker: Speaker, *, folder: Path, steps: int) -> None:
    """Train the student's encoder, from the checkpoint in a folder if there is one."""
    student, emojis, kept = lesson.student, lesson.emojis, folder / "language.pt"
    student.requires_grad_(False)
    trained = list(student.encoder.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    step = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    held_out = unseen_sentences(lesson.record, emojis, 256)
    saved = time.monotonic()
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 60, 1, 4 * (1 - step / steps) + 0.02)
        texts, chosen = ask(lesson.record, emojis, speaker, random.Random(step), BATCH)
        loss = lesson(texts, chosen)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0 or step == steps:
            with torch.no_grad():
                unseen = lesson(*held_out).item() if held_out[1] else float("nan")
            print(f"step {step}: loss {loss.item():.4f}, unseen sentences {unseen:.4f}", flush=True)
        if step == steps or time.monotonic() - saved > 300:
            state = {"student": student.state_dict(), "optimizer": optimizer.state_dict()}
            keep_state(kept, **state, step=step)
            saved = time.monotonic()


if __name__ == "__main__":
    main()
