"""Teach a trained scorer's text encoder everyday words; its picture encoder stays as it is.

    python examples/emoji/train_scorer.py DATA RUN --scenes SCENES --output OUT [--model MODEL]

The features of every picture and of the composed scenes are computed once, into RUN/features.npy.
A new vocabulary and text encoder then learn which of all these pictures a caption means: those of
its concept, of its style where it names one, or its scene. A step costs no picture, so minutes are
enough. Interrupted, the same command goes on from RUN.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import scenes
from captions import Look, Speaker, read_phrases
from control import Scene, Stage, describe
from dallemini import Pipeline
from dallemini.models.clip import CLIP
from dallemini.scorer import CLIPScorer, CLIPTokenizer, preprocess
from dataset import Emojis, caption
from train_transformer import (
    inherit_words,
    keep_state,
    own_colors,
    read_synonyms,
    vocabulary_texts,
)

VOCABULARY = 6000
BATCH = 256
RATE = 1e-3
SCENES_SHARE = 0.35
NAMES_SHARE = 0.2
STYLE_SHARE = 0.35
COLOR_SHARE = 0.1
EMBEDDING = "text.token_embedding.weight"
SCALE = 25.0  # of the cosines; what chooses among pictures of one prompt does not depend on it


@torch.no_grad()
def features_of(clip: CLIP, emojis: Emojis, composed: list[Scene], path: Path) -> Tensor:
    """Return f[M+S,E] of every picture on white and every scene, kept in a file."""
    if not path.exists():
        stage, found = Stage(emojis), list[Tensor]()
        for part in torch.arange(len(emojis)).split(64):
            white = torch.full((len(part), 3), 255, dtype=torch.uint8)
            found.append(clip.encode_image(preprocess(emojis.draw(part, white), clip.config)))
        for start in range(0, len(composed), 64):
            images = torch.stack([stage(scene) for scene in composed[start : start + 64]])
            found.append(clip.encode_image(preprocess(images, clip.config)))
        np.save(path, F.normalize(torch.cat(found), dim=1).numpy())
    return torch.from_numpy(np.load(path))


@torch.no_grad()
def student_of(teacher: CLIPScorer, tokenizer: CLIPTokenizer) -> CLIP:
    """Return a CLIP with a new vocabulary that starts as the old one.

    A token is embedded as the mean of the old tokens that spell it.
    """
    size = len(tokenizer.backend.get_vocab())
    config = dataclasses.replace(teacher.clip.config, vocab_size=size, eos_token_id=size - 1)
    student, state = CLIP.from_config(config), teacher.clip.state_dict()
    words = state.pop(EMBEDDING)
    student.load_state_dict(state, strict=False)
    inherit_words(
        student.get_parameter(EMBEDDING),
        words,
        now=tokenizer.backend,
        before=teacher.tokenizer.backend,
        spelled=lambda piece: piece.removesuffix("</w>"),
    )
    return student


class Lesson:
    """Captions, and which of all pictures each of them means."""

    def __init__(self, emojis: Emojis, composed: list[Scene], speaker: Speaker) -> None:
        self.emojis, self.composed, self.speaker = emojis, composed, speaker
        self.colors = own_colors(emojis)
        self.concepts = np.array([row.hex for row in emojis.rows])
        self.styles = np.array([row.style for row in emojis.rows])

    def __call__(self, rng: random.Random, count: int) -> tuple[list[str], Tensor]:
        """Return N captions and bool[N,M+S], true where a picture fits."""
        fits = torch.zeros(count, len(self.emojis) + len(self.composed), dtype=torch.bool)
        return [self._say(rng, fits[number]) for number in range(count)], fits

    def _say(self, rng: random.Random, fits: Tensor) -> str:
        rows = self.emojis.rows
        if self.composed and rng.random() < SCENES_SHARE:
            number = rng.randrange(len(self.composed))
            fits[len(rows) + number] = True
            return describe(self.composed[number], rows, self.speaker, rng, style=None)
        index = rng.randrange(len(rows))
        row = rows[index]
        styled = rng.random() < STYLE_SHARE
        same = self.concepts == row.hex
        if styled:
            same &= self.styles == row.style
        fits[: len(rows)] = torch.from_numpy(same)
        style = row.style if styled else None
        if rng.random() < NAMES_SHARE:
            return caption(row.label, style, "white")
        color = self.colors[index] if styled and rng.random() < COLOR_SHARE else None
        return self.speaker(row.hex, Look(style=style, color=color), rng)


def loss_of(clip: CLIP, ids: Tensor, fits: Tensor, features: Tensor) -> Tensor:
    """Return how unlikely the fitting pictures are among all, the mean over N captions."""
    longest = int((ids == clip.config.eos_token_id).int().argmax(dim=1).max()) + 1
    texts = F.normalize(clip.encode_text(ids[:, :longest]), dim=1)
    logits = SCALE * texts @ features.T
    return (logits.logsumexp(1) - logits.masked_fill(~fits, -torch.inf).logsumexp(1)).mean()


def teach(
    clip: CLIP, tokenizer: CLIPTokenizer, lesson: Lesson, features: Tensor, *, run: Path, steps: int
) -> None:
    """Train the text encoder, from the checkpoint in a folder if there is one."""
    clip.requires_grad_(False)
    trained = [
        parameter.requires_grad_(True)
        for name, parameter in clip.named_parameters()
        if not name.startswith("vision") and name != "logit_scale"
    ]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    kept, step, losses = run / "scorer.pt", 0, list[float]()
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        clip.load_state_dict(state["clip"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 50, 1, 3 * (1 - step / steps) + 0.02)
        texts, fits = lesson(random.Random(step), BATCH)
        loss = loss_of(clip, tokenizer(texts), fits, features)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            found = unseen(clip, tokenizer, lesson, features)
            mean = sum(losses[-100:]) / len(losses[-100:])
            print(f"step {step}: loss {mean:.3f}, unseen sentences found {found:.3f}", flush=True)
            state = {"clip": clip.state_dict(), "optimizer": optimizer.state_dict()}
            keep_state(kept, **state, step=step)


@torch.no_grad()
def unseen(clip: CLIP, tokenizer: CLIPTokenizer, lesson: Lesson, features: Tensor) -> float:
    """Return how many sentences of the split "dev" are nearest to a picture of their concept."""
    pairs = [(text, code) for code, texts in read_phrases("dev").items() for text in texts[:1]]
    pairs = [(text, code) for text, code in pairs if code in lesson.speaker.labels][:400]
    if not pairs:
        return float("nan")
    texts = F.normalize(clip.encode_text(tokenizer([text for text, _ in pairs])), dim=1)
    nearest = (texts @ features[: len(lesson.emojis)].T).argmax(1)
    hits = [lesson.concepts[n] == code for n, (_, code) in zip(nearest, pairs, strict=True)]
    return sum(map(bool, hits)) / len(hits)


def main() -> None:
    """Read the arguments, teach, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--model", help="a pipeline's folder; the bundled model if not given")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    run, emojis = arguments.run, Emojis(arguments.data, split="train")
    run.mkdir(parents=True, exist_ok=True)
    composed, _ = scenes.read(arguments.scenes)
    speaker = Speaker(emojis.rows, extra=read_synonyms())
    pipe = Pipeline.from_pretrained(*([arguments.model] if arguments.model else []))
    teacher = pipe.scorer
    if not isinstance(teacher, CLIPScorer):
        raise SystemExit("The model's scorer is not a CLIP.")
    teacher.clip.float()
    features = features_of(teacher.clip, emojis, composed, run / "features.npy")
    tokenizer = CLIPTokenizer.train(
        vocabulary_texts(emojis, speaker), vocab_size=VOCABULARY, context_length=32
    )
    clip = student_of(teacher, tokenizer)
    lesson = Lesson(emojis, composed, speaker)
    teach(clip, tokenizer, lesson, features, run=run, steps=arguments.steps)
    CLIPScorer(clip.eval(), tokenizer).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
