"""Teach a trained scorer to choose among pictures that the model drew, both of its encoders.

    python examples/emoji/train_choice.py DATA RUN --scenes SCENES --output OUT [--model MODEL]

A scorer that has only seen good pictures is blind to bad ones. So the model draws four pictures for
each of many captions of the training split, and the judge of `everyday.py`, whose network is larger
than the whole model, says which show what was asked for. The scorer learns to find those: among the
four, among all that were drawn, and, so that it forgets nothing, among real pictures and composed
scenes. Interrupted, the same command goes on from RUN.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import scenes
from captions import Look, Speaker, read_phrases
from control import Scene, Stage, describe
from dallemini import Pipeline
from dallemini.images import image_to_tensor
from dallemini.models.clip import CLIP
from dallemini.scorer import CLIPScorer, CLIPTokenizer, preprocess
from dataset import Emojis, caption
from everyday import Judge
from train_scorer import NAMES_SHARE, SCALE
from train_transformer import keep_state, read_synonyms

EACH = 4  # pictures of a caption
PART = 16  # captions drawn at once
DRAWN, REAL, COMPOSED = 24, 80, 48  # captions of a batch; DRAWN have four pictures each
RATE = 3e-4


@dataclass(frozen=True)
class Drawn:
    """Pictures that the model drew, as the scorer sees them.

    Attributes:
        texts: N captions.
        codes: N concepts.
        pixels: f16[N,EACH,3,S,S], preprocessed.
        right: bool[N,EACH], whether the judge finds the concept nearest of a hundred.
    """

    texts: list[str]
    codes: list[str]
    pixels: Tensor
    right: Tensor


def ask(judge: Judge, speaker: Speaker, split: str, count: int) -> list[tuple[str, str]]:
    """Choose captions of a split with their concepts, at random."""
    rng, phrases = random.Random(3), read_phrases(split)
    if split != "train":
        codes = rng.sample([code for code in judge.rivals if phrases.get(code)], count)
        return [(rng.choice(phrases[code]), code) for code in codes]
    codes = [rng.choice(judge.rivals) for _ in range(count)]
    labels = speaker.labels
    return [
        (labels[code] if rng.random() < NAMES_SHARE else speaker(code, Look(), rng), code)
        for code in codes
    ]


def draw(pipe: Pipeline, judge: Judge, pairs: list[tuple[str, str]], folder: Path) -> Drawn:
    """Draw and judge four pictures a caption, part by part, each kept in a file."""
    folder.mkdir(parents=True, exist_ok=True)
    scorer, pixels, right = pipe.scorer, list[Tensor](), list[Tensor]()
    assert isinstance(scorer, CLIPScorer)
    for start in range(0, len(pairs), PART):
        path, part = folder / f"{start:06}.pt", pairs[start : start + PART]
        if not path.exists():
            images = pipe(
                [text for text, _ in part],
                num_images_per_prompt=EACH,
                candidates=1,
                seed=EACH * start,
                progress=False,
            ).images
            ranks = judge.ranks(images, [code for _, code in part for _ in range(EACH)])
            seen = torch.stack([image_to_tensor(image) for image in images])
            seen = preprocess(seen, scorer.clip.config).half().unflatten(0, (-1, EACH))
            keep_state(path, pixels=seen, right=torch.tensor(ranks).view(-1, EACH) == 0)
        state = torch.load(path, weights_only=True)
        pixels.append(state["pixels"])
        right.append(state["right"])
    texts, codes = zip(*pairs, strict=True)
    return Drawn(list(texts), list(codes), torch.cat(pixels), torch.cat(right))


class Lesson:
    """Makes batches: captions, pictures, and which of the pictures each caption means."""

    def __init__(
        self,
        emojis: Emojis,
        composed: list[Scene],
        speaker: Speaker,
        drawn: Drawn,
        tokenizer: CLIPTokenizer,
    ) -> None:
        self.emojis, self.composed, self.speaker = emojis, composed, speaker
        self.drawn, self.tokenizer, self.stage = drawn, tokenizer, Stage(emojis)

    def __call__(self, step: int, clip: CLIP) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids i64[N,L], pixels f[M,3,S,S] and bool[N,M], true where a picture fits."""
        rng = random.Random(step)
        drawn = rng.sample(range(len(self.drawn.texts)), min(DRAWN, len(self.drawn.texts)))
        real = [rng.randrange(len(self.emojis)) for _ in range(REAL)]
        told = rng.sample(range(len(self.composed)), min(COMPOSED, len(self.composed)))
        rows = self.emojis.rows
        styled = [rng.random() < 0.35 for _ in real]
        texts = [self.drawn.texts[n] for n in drawn]
        texts += [self._say(index, named, rng) for index, named in zip(real, styled, strict=True)]
        texts += [describe(self.composed[n], rows, self.speaker, rng, style=None) for n in told]
        white = torch.full((len(real), 3), 255, dtype=torch.uint8)
        shown = [self.emojis.draw(torch.tensor(real), white)]
        shown += [torch.stack([self.stage(self.composed[n]) for n in told])] if told else []
        pixels = preprocess(shifted(torch.cat(shown), rng), clip.config)
        ours = self.drawn.pixels[drawn].float().flatten(0, 1)
        concepts = [self.drawn.codes[n] for n in drawn]
        fits = torch.zeros(len(texts), len(ours) + len(pixels), dtype=torch.bool)
        self._mark(fits, drawn, concepts, [rows[n].hex for n in real])
        for number, (index, named) in enumerate(zip(real, styled, strict=True)):
            if named:  # only its own style fits
                row, others = len(drawn) + number, [rows[n].style for n in real]
                same = torch.tensor([style == rows[index].style for style in others])
                fits[row, : len(ours)] = False
                fits[row, len(ours) : len(ours) + len(real)] &= same
        for number in range(len(told)):
            fits[len(drawn) + len(real) + number, len(ours) + len(real) + number] = True
        ids = self.tokenizer(texts)
        longest = int((ids == clip.config.eos_token_id).int().argmax(dim=1).max()) + 1
        return ids[:, :longest], torch.cat([ours, pixels]), fits

    def _mark(self, fits: Tensor, drawn: list[int], asked: list[str], real: list[str]) -> None:
        """Mark the pictures of the same concept, of the drawn ones those that are right."""
        for row, code in enumerate([*asked, *real]):
            for number, other in enumerate(asked):
                if other == code:
                    fits[row, EACH * number : EACH * (number + 1)] = self.drawn.right[drawn[number]]
            same = torch.tensor([other == code for other in real])
            fits[row, EACH * len(asked) : EACH * len(asked) + len(real)] = same

    def _say(self, index: int, styled: bool, rng: random.Random) -> str:
        row = self.emojis.rows[index]
        style = row.style if styled else None
        if rng.random() < NAMES_SHARE:
            return caption(row.label, style, "white")
        return self.speaker(row.hex, Look(style=style), rng)


def shifted(images: Tensor, rng: random.Random) -> Tensor:
    """Roll pictures f[N,3,S,S] by a few pixels: where a thing stands is not what it is."""
    return torch.roll(images, (rng.randint(-8, 8), rng.randint(-8, 8)), dims=(2, 3))


def loss_of(clip: CLIP, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return how unlikely the fitting pictures are: among all, and among the four of a caption."""
    ids, pixels, fits = batch
    texts = F.normalize(clip.encode_text(ids), dim=1)
    logits = SCALE * texts @ F.normalize(clip.encode_image(pixels), dim=1).T
    known = fits.any(1)
    among_all = surprise(logits[known], fits[known])
    own = range(min(DRAWN, len(ids)))
    four = torch.stack([logits[n, EACH * n : EACH * (n + 1)] for n in own])
    right = torch.stack([fits[n, EACH * n : EACH * (n + 1)] for n in own])
    mixed = right.any(1) & ~right.all(1)
    return among_all + surprise(four[mixed], right[mixed]) if mixed.any() else among_all


def surprise(logits: Tensor, fits: Tensor) -> Tensor:
    """Return -log of the share of what fits, the mean over rows of f[N,M]."""
    return (logits.logsumexp(1) - logits.masked_fill(~fits, -torch.inf).logsumexp(1)).mean()


@torch.no_grad()
def chosen(clip: CLIP, tokenizer: CLIPTokenizer, drawn: Drawn) -> float:
    """Return how often the best of four by the scorer is right."""
    texts = F.normalize(clip.encode_text(tokenizer(drawn.texts)), dim=1)
    parts = [clip.encode_image(part.float()) for part in drawn.pixels.flatten(0, 1).split(64)]
    seen = F.normalize(torch.cat(parts), dim=1).unflatten(0, (-1, EACH))
    best = (seen * texts[:, None]).sum(2).argmax(1)
    return float(drawn.right[torch.arange(len(best)), best].float().mean())


def teach(clip: CLIP, lesson: Lesson, unseen: Drawn, *, run: Path, steps: int) -> None:
    """Train both encoders, from the checkpoint in a folder if there is one."""
    clip.requires_grad_(True)
    clip.logit_scale.requires_grad_(False)
    trained = [parameter for parameter in clip.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    kept, step, losses = run / "choice.pt", 0, list[float]()
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        clip.load_state_dict(state["clip"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    print(
        f"right: any of four {float(unseen.right.any(1).float().mean()):.3f}, "
        f"one {float(unseen.right.float().mean()):.3f}, "
        f"chosen {chosen(clip, lesson.tokenizer, unseen):.3f}",
        flush=True,
    )
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / 20, 1, 2 * (1 - step / steps) + 0.02)
        loss = loss_of(clip, lesson(step, clip))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            mean, found = sum(losses[-50:]) / len(losses[-50:]), None
            found = chosen(clip, lesson.tokenizer, unseen)
            print(f"step {step}: loss {mean:.3f}, chosen right {found:.3f}", flush=True)
            state = {"clip": clip.state_dict(), "optimizer": optimizer.state_dict()}
            keep_state(kept, **state, step=step)


def main() -> None:
    """Read the arguments, draw, teach, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--model", help="a pipeline's folder; the bundled model if not given")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    run = arguments.run
    run.mkdir(parents=True, exist_ok=True)
    pipe = Pipeline.from_pretrained(*([arguments.model] if arguments.model else []))
    scorer = pipe.scorer
    if not isinstance(scorer, CLIPScorer):
        raise SystemExit("The model's scorer is not a CLIP.")
    clip = scorer.clip.float()
    judge, (composed, _) = Judge(arguments.data), scenes.read(arguments.scenes)
    speaker = Speaker(judge.emojis.rows, extra=read_synonyms())
    count = min(200, arguments.captions)
    unseen = draw(pipe, judge, ask(judge, speaker, "dev", count), run / "dev")
    asked = ask(judge, speaker, "train", arguments.captions)
    drawn = draw(pipe, judge, asked, run / "train")
    lesson = Lesson(judge.emojis, composed, speaker, drawn, scorer.tokenizer)
    teach(clip, lesson, unseen, run=run, steps=arguments.steps)
    CLIPScorer(clip.eval(), scorer.tokenizer).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
