"""Measure the bundled model: does it draw what was asked for, on the ground that was asked for?

    python examples/emoji/evaluate.py DATA [--model MODEL] [--captions 200] [--output FILE]

A drawn picture counts as right when, among 100 real pictures of its style, the one of its caption
is the nearest (first) or among the five nearest, in the centred features of EfficientNet-Lite0.
Eight pictures are drawn for each caption and the best by CLIP is taken. Nothing is picked by hand;
the seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dallemini import Pipeline
from dallemini.outputs import image_to_tensor
from dallemini.training.perceptual import EfficientNetFeatures
from dataset import COLORS, Emojis, caption, color_table

GALLERY_SIZE = 100
EYE_SIZE = 224


@dataclass(frozen=True)
class Gallery:
    """Real pictures with their features f[M,1280]."""

    emojis: Emojis
    features: Tensor

    @classmethod
    def load(cls, data: str, eye: EfficientNetFeatures, *, split: str) -> Gallery:
        """Read a split; its features are computed once and kept beside the data."""
        emojis = Emojis(data, split=split)
        return cls(emojis, real_features(eye, emojis, Path(data) / f"{split}_features.npy"))


def features(eye: EfficientNetFeatures, images: Tensor) -> Tensor:
    """Map f[N,3,H,W] in [0, 1] to f[N,1280]."""
    with torch.no_grad():
        parts = [
            eye.pooled(F.interpolate(part, size=EYE_SIZE, mode="bilinear", antialias=True))
            for part in images.split(16)
        ]
    return torch.cat(parts)


def real_features(eye: EfficientNetFeatures, emojis: Emojis, path: Path) -> Tensor:
    """Return the features f[M,1280] of every real picture on white, kept in a file."""
    if not path.exists():
        np.save(path, features(eye, _on_white(emojis, range(len(emojis)))).numpy())
    return torch.from_numpy(np.load(path))


def rank_of(drawn: Tensor, gallery: Tensor, right: int) -> int:
    """Return how many of the gallery f[M,E] are nearer to f[E] than the right one."""
    center = gallery.mean(0)
    likeness = F.cosine_similarity(gallery - center, (drawn - center)[None])
    return int((likeness > likeness[right]).sum())


def share(hits: Sequence[bool]) -> dict[str, float]:
    """Return the share of hits with its 95 % interval (Wilson)."""
    count, rate, z = len(hits), sum(hits) / len(hits), 1.96
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * (rate * (1 - rate) / count + z * z / (4 * count**2)) ** 0.5 / (1 + z * z / count)
    return {
        "share": round(rate, 3),
        "low": round(middle - half, 3),
        "high": round(middle + half, 3),
        "captions": count,
    }


def draw_best(pipe: Pipeline, captions: Sequence[str], *, seed: int) -> Tensor:
    """Draw eight pictures a caption and return the best of each, f[N,3,H,W]."""
    best = []
    for number, text in enumerate(captions):
        out = pipe(text, num_images_per_prompt=8, rank=True, seed=seed + 8 * number, progress=False)
        best.append(image_to_tensor(out.images[0]))
    return torch.stack(best)


def concepts(
    pipe: Pipeline, asked: Gallery, rivals: Gallery, eye: EfficientNetFeatures, *, count: int
) -> dict[str, object]:
    """Measure captions of concept and style: are the drawn pictures nearest to the real ones?"""
    generator = torch.Generator().manual_seed(0)
    emojis = asked.emojis
    chosen = torch.randperm(len(emojis), generator=generator)[:count].tolist()
    rows = [emojis.rows[index] for index in chosen]
    drawn = features(
        eye, draw_best(pipe, [caption(r.label, r.style, "white") for r in rows], seed=0)
    )
    ranks = []
    for number, row in enumerate(rows):
        others = [
            index
            for index, rival in enumerate(rivals.emojis.rows)
            if rival.set == row.set and rival.hex != row.hex
        ]
        order = torch.randperm(len(others), generator=generator)[: GALLERY_SIZE - 1].tolist()
        gallery = [asked.features[chosen[number]], *(rivals.features[others[i]] for i in order)]
        ranks.append(rank_of(drawn[number], torch.stack(gallery), 0))
    return {"first": share([r < 1 for r in ranks]), "among_five": share([r < 5 for r in ranks])}


def colors(pipe: Pipeline, emojis: Emojis, *, count: int) -> dict[str, object]:
    """Measure captions that ask for a background: is the border of the picture of that colour?"""
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randint(len(emojis), (count,), generator=generator).tolist()
    asked = torch.randint(1, len(COLORS), (count,), generator=generator).tolist()
    names = list(COLORS)
    rows = [emojis.rows[index] for index in chosen]
    texts = [caption(r.label, r.style, names[c]) for r, c in zip(rows, asked, strict=True)]
    table = color_table().float() / 255
    hits = []
    for picture, color in zip(draw_best(pipe, texts, seed=10_000), asked, strict=True):
        edge = torch.cat([picture[:, :3].flatten(1), picture[:, -3:].flatten(1)], dim=1)
        nearest = (table - edge.median(dim=1).values).square().sum(1).argmin()
        hits.append(int(nearest) == color)
    return {"right": share(hits)}


def _on_white(emojis: Emojis, indices: Sequence[int]) -> Tensor:
    white = torch.full((len(indices), 3), 255, dtype=torch.uint8)
    return emojis.draw(torch.tensor(indices), white)


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--model")
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(*([arguments.model] if arguments.model else []))
    eye = EfficientNetFeatures()
    train, unseen = (
        Gallery.load(arguments.data, eye, split=name) for name in ("train", "test_style")
    )
    report = {
        "model": pipe.name,
        "settings": pipe.config.to_dict(),
        "known_concept_and_style": concepts(pipe, train, train, eye, count=arguments.captions),
        "known_concept_in_unseen_style": concepts(
            pipe, unseen, train, eye, count=min(arguments.captions, len(unseen.emojis))
        ),
        "background_color": colors(pipe, train.emojis, count=arguments.captions),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
