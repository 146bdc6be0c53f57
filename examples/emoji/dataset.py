"""The emoji pictures in memory, on any background, with captions.

`build_dataset.py` writes what is read here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIZE = 64
COLORS = {
    "white": (255, 255, 255),
    "red": (222, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 220, 50),
    "green": (50, 165, 70),
    "blue": (45, 95, 215),
    "purple": (135, 60, 175),
    "pink": (250, 155, 195),
    "brown": (125, 80, 45),
    "gray": (140, 140, 140),
    "black": (20, 20, 20),
}


@dataclass(frozen=True)
class Emoji:
    """One row of `metadata.jsonl`."""

    file: str
    set: str
    style: str
    hex: str
    label: str
    keywords: list[str]
    group: str
    split: str
    license: str


class Emojis:
    """Every picture of the data set, premultiplied by its alpha, at 64x64.

    Args:
        folder: what `build_dataset.py` wrote.
        split: "train", "test_style" or "test_concept".
    """

    def __init__(self, folder: str | Path, *, split: str) -> None:
        root = Path(folder)
        lines = (root / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [Emoji(**json.loads(line)) for line in lines]
        self.rows = [row for row in rows if row.split == split]
        cache = root / f"{split}_{SIZE}.npy"
        if not cache.exists():
            np.save(cache, np.stack([_read(root / row.file) for row in self.rows]))
        self.pixels: NDArray[np.uint8] = np.load(cache)

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, indices: Tensor, colors: Tensor) -> Tensor:
        """Put pictures i64[N] on backgrounds u8[N,3], giving f[N,3,64,64] in [0, 1]."""
        rgba = torch.from_numpy(self.pixels[indices.numpy()]).float()
        ground = colors.float()[:, None, None, :]
        drawn = rgba[..., :3] + ground * (1 - rgba[..., 3:] / 255)
        return drawn.permute(0, 3, 1, 2).div(255).clamp(0, 1)


def color_table() -> Tensor:
    """Return the background colours u8[11,3] in the order of `COLORS`."""
    return torch.tensor(list(COLORS.values()), dtype=torch.uint8)


def caption(label: str, style: str | None, color: str) -> str:
    """Write the caption of a picture; white grounds are not mentioned.

    Example:
        >>> caption("red apple", "noto emoji", "blue")
        'red apple, noto emoji, on a blue background'
    """
    parts = [label]
    if style:
        parts.append(style)
    if color != "white":
        parts.append(f"on {_article(color)} {color} background")
    return ", ".join(parts)


@dataclass(frozen=True)
class Drawing:
    """What a batch shows: N pictures with their captions.

    Attributes:
        indices: i64[N], rows of `Emojis`.
        colors: i64[N], rows of `COLORS`.
        named_style: bool[N], whether the caption names the style.
        captions: N captions.
    """

    indices: Tensor
    colors: Tensor
    named_style: Tensor
    captions: list[str]


def draw_captions(emojis: Emojis, count: int, *, seed: int, white: float = 0.7) -> Drawing:
    """Choose pictures, backgrounds and captions at random.

    Args:
        emojis: where the pictures come from.
        count: N.
        seed: of the choice.
        white: share of white backgrounds.
    """
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(len(emojis), (count,), generator=generator)
    colors = torch.randint(1, len(COLORS), (count,), generator=generator)
    colors[torch.rand(count, generator=generator) < white] = 0
    named_style = torch.rand(count, generator=generator) < 0.6
    article = torch.rand(count, generator=generator) < 0.3
    names = list(COLORS)
    captions = []
    for index, color, style, with_article in zip(
        indices.tolist(), colors.tolist(), named_style.tolist(), article.tolist(), strict=True
    ):
        row = emojis.rows[index]
        label = f"{_article(row.label)} {row.label}" if with_article else row.label
        captions.append(caption(label, row.style if style else None, names[color]))
    return Drawing(indices, colors, named_style, captions)


def caption_texts(emojis: Emojis) -> list[str]:
    """Return every caption form once a picture, for training the vocabularies."""
    names = list(COLORS)
    return [
        caption(f"{_article(row.label)} {row.label}", row.style, names[index % len(names)])
        for index, row in enumerate(emojis.rows)
    ]


def _article(label: str) -> str:
    return "an" if label[:1].lower() in "aeiou" else "a"


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    small = [
        np.asarray(Image.fromarray(rgba[..., c]).resize((SIZE, SIZE), Image.Resampling.BOX))
        for c in range(4)
    ]
    return np.stack(small, axis=-1).round().clip(0, 255).astype(np.uint8)
