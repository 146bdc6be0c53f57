"""Does one unranked picture of an everyday sentence show what was asked for?

The sentences are those of `phrases.jsonl` that no training saw. A picture counts by its nearest
concept among 100, its own and 99 others, each by its nearest style, in the features of
EfficientNet-Lite0 centred by style, at 64x64 enlarged to 128.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from captions import read_phrases
from dallemini import Pipeline
from dallemini.evaluation.efficientnet import EfficientNetFeatures
from dallemini.generation import text_likelihood
from dallemini.images import image_to_tensor
from dataset import SIZE, Emojis

SIDE = 64
LOOKED_AT = 128
RIVALS = 99
FEWEST_STYLES = 3  # of a rival: a concept that is hardly drawn is no rival


class Judge:
    """Finds which concept a picture is nearest to.

    Args:
        data: what `build_dataset.py` wrote; the features of the pictures are kept there.
    """

    def __init__(self, data: Path) -> None:
        self.network = EfficientNetFeatures()
        self.emojis = Emojis(data, split="train")
        path = data / f"everyday_features_{SIDE}.npy"
        if not path.exists():
            white = torch.full((32, 3), 255, dtype=torch.uint8)
            parts = torch.arange(len(self.emojis)).split(32)
            drawn = (self.emojis.draw(part, white[: len(part)]) for part in parts)
            found = [self.look(F.interpolate(p, size=SIDE, mode="area")) for p in drawn]
            np.save(path, torch.cat(found).half().numpy())
        real = torch.from_numpy(np.load(path)).float()
        styles = sorted({row.style for row in self.emojis.rows})
        self.style_of = torch.tensor([styles.index(row.style) for row in self.emojis.rows])
        self.means = torch.stack([real[self.style_of == n].mean(0) for n in range(len(styles))])
        self.real = F.normalize(real - self.means[self.style_of], dim=1)
        self.rows_of: dict[str, list[int]] = {}
        for index, row in enumerate(self.emojis.rows):
            self.rows_of.setdefault(row.hex, []).append(index)
        self.rivals = [c for c, rows in sorted(self.rows_of.items()) if len(rows) >= FEWEST_STYLES]

    @torch.no_grad()
    def look(self, images: Tensor) -> Tensor:
        """Map f[N,3,64,64] in [0, 1] to f[N,1280]."""
        large = F.interpolate(images, size=LOOKED_AT, mode="bicubic").clamp(0, 1)
        return self.network.pooled(large)

    def ranks(self, images: Sequence[Image.Image], codes: Sequence[str]) -> list[int]:
        """Return how many of 99 other concepts are nearer to each picture than its own."""
        small = [
            np.asarray(i.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            for i in images
        ]
        pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
        found = torch.cat([self.look(part) for part in pixels.split(16)])
        ranks = []
        for number, (feature, code) in enumerate(zip(found, codes, strict=True)):
            near = (F.normalize(feature - self.means, dim=1)[self.style_of] * self.real).sum(1)
            best = float(near[self.rows_of[code]].max())
            others = random.Random(number).sample([c for c in self.rivals if c != code], RIVALS)
            ranks.append(sum(float(near[self.rows_of[c]].max()) > best for c in others))
        return ranks

    def sentences(self, split: str, count: int) -> list[tuple[str, str]]:
        """Choose sentences of a split with their code points, one a concept, at random."""
        phrases = read_phrases(split)
        rng = random.Random(0)
        codes = [code for code in self.rivals if phrases.get(code)]
        return [(rng.choice(phrases[code]), code) for code in rng.sample(codes, count)]

    def names(self, count: int) -> list[tuple[str, str]]:
        """Choose concepts at random, with their names."""
        codes = random.Random(1).sample(self.rivals, count)
        return [(self.emojis.rows[self.rows_of[code][0]].label, code) for code in codes]


def draw(
    pipe: Pipeline, prompts: Sequence[str], *, seed: int, **settings: object
) -> list[Image.Image]:
    """Draw a picture for each prompt by the default settings, as large as those of the data."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), 32):
        part = list(prompts[start : start + 32])
        drawn = pipe(part, seed=seed + start, progress=False, **settings).images  # type: ignore[arg-type]
        images += [image.resize((SIZE, SIZE), Image.Resampling.BOX) for image in drawn]
    return images


@dataclass(frozen=True, eq=False)
class Candidates:
    """K pictures of each of N sentences: how right they are, and what they could be chosen by.

    Attributes:
        ranks: i64[N,K], as `Judge.ranks`.
        scores: f32[N,K] of each way to choose.
    """

    ranks: Tensor
    scores: dict[str, Tensor]

    def right(self, way: str, size: int, *, below: int) -> Tensor:
        """Return how often the choice among so many candidates is right, f64[N] of each sentence.

        It is the mean over all sets of so many of the K candidates, which is far less noisy than
        one set.

        Args:
            way: a name of `scores`; "any" for a choice that is right wherever one can be, "none"
                for no choice.
            size: candidates of a choice.
            below: ranks below this one are right.
        """
        right = (self.ranks < below).double()
        if way == "none":
            return right.mean(1)
        sets = [list(one) for one in itertools.combinations(range(right.shape[1]), size)]
        if way == "any":
            return torch.stack([right[:, one].amax(1) for one in sets]).mean(0)
        scores, found = self.scores[way], []
        for one in sets:
            best = scores[:, one].argmax(1, keepdim=True)
            found.append(right[:, one].gather(1, best)[:, 0])
        return torch.stack(found).mean(0)


def draw_candidates(
    pipe: Pipeline, judge: Judge, asked: Sequence[tuple[str, str]], *, count: int
) -> Candidates:
    """Draw so many candidates of each sentence, and score them in each way.

    Args:
        pipe: with a scorer.
        judge: says how right they are.
        asked: sentences with their code points.
        count: of candidates of each.
    """
    images: list[Image.Image] = []
    seen, likely = [], []
    for start in range(0, len(asked), 8):
        texts = [text for text, _ in asked[start : start + 8]]
        out = pipe(texts, num_images_per_prompt=count, candidates=1, seed=start, progress=False)
        rows = [text for text in texts for _ in range(count)]
        images += [image.resize((SIZE, SIZE), Image.Resampling.BOX) for image in out.images]
        assert pipe.scorer is not None
        pixels = torch.stack([image_to_tensor(image) for image in out.images])
        seen.append(pipe.scorer.score(pixels, rows))
        tokens, blank = pipe.tokenizer(rows), pipe.tokenizer.unconditional()
        codes = pipe.vqgan.codebook_size
        likely.append(
            text_likelihood(pipe.transformer, tokens, blank, out.image_tokens, num_codes=codes)
        )
    kinds = [code for _, code in asked]
    ranks = [judge.ranks(images[place::count], kinds) for place in range(count)]
    found = {"scorer": torch.cat(seen).cpu(), "likelihood": torch.cat(likely)}
    return Candidates(torch.tensor(ranks).T, {k: v.view(-1, count) for k, v in found.items()})
