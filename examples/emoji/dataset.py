"""The emoji pictures in memory, alone or in pairs, on any background, with captions.

`build_dataset.py` writes what is read here.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SIZE = 160
HELD_OUT_SHARE = 0.1  # of the pairs of concept and colour
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
    caption: str
    keywords: list[str]
    group: str
    split: str
    license: str


class Emojis:
    """Every picture of the data set, premultiplied by its alpha.

    Args:
        folder: what `build_dataset.py` wrote.
        split: "train", "test_style" or "test_concept".
        size: side of the pictures in pixels; the files may be larger.
    """

    def __init__(self, folder: str | Path, *, split: str, size: int = SIZE) -> None:
        root = Path(folder)
        lines = (root / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [Emoji(**json.loads(line)) for line in lines]
        self.rows = [row for row in rows if row.split == split]
        cache = root / f"{split}_{size}.npy"
        if not cache.exists():
            np.save(cache, np.stack([_read(root / row.file, size) for row in self.rows]))
        self.pixels: NDArray[np.uint8] = np.load(cache, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, indices: Tensor, colors: Tensor) -> Tensor:
        """Put pictures i64[N] on backgrounds u8[N,3], giving f[N,3,S,S] in [0, 1]."""
        return on_ground(self.layers(indices), colors)

    def draw_pairs(self, left: Tensor, right: Tensor, colors: Tensor) -> Tensor:
        """Put pictures i64[N] and i64[N] side by side, each at half its size, as `draw` does."""
        return on_ground(side_by_side(self.layers(left), self.layers(right)), colors)

    def show(self, indices: Tensor, seconds: Tensor, colors: Tensor) -> Tensor:
        """Draw one picture i64[N] or, where `seconds` is not negative, two on each background."""
        images = self.draw(indices, colors)
        paired = seconds >= 0
        if paired.any():
            images[paired] = self.draw_pairs(indices[paired], seconds[paired], colors[paired])
        return images

    def layers(self, indices: Tensor) -> Tensor:
        """Return pictures i64[N] as f[N,4,S,S] in [0, 1], premultiplied RGB and alpha."""
        rgba = torch.from_numpy(self.pixels[indices.numpy()])
        return rgba.permute(0, 3, 1, 2).float().div(255)


def on_ground(layers: Tensor, colors: Tensor) -> Tensor:
    """Put layers f[N,4,H,W] on backgrounds u8[N,3], giving f[N,3,H,W]."""
    ground = colors.float()[:, :, None, None] / 255
    return (layers[:, :3] + ground * (1 - layers[:, 3:])).clamp(0, 1)


def side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Put two layers f[N,4,S,S] at half their size into one f[N,4,S,S], at half its height."""
    halves = torch.cat([F.avg_pool2d(left, 2), F.avg_pool2d(right, 2)], dim=3)
    quarter = halves.shape[2] // 2
    return F.pad(halves, (0, 0, quarter, quarter))


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


def is_held_out(row: Emoji, color: str) -> bool:
    """Tell whether a concept is never shown on a color in training, by a hash of both."""
    digest = hashlib.sha1(f"p{row.hex}{color}".encode()).hexdigest()
    return color != "white" and int(digest[:8], 16) / 0xFFFFFFFF < HELD_OUT_SHARE


@dataclass(frozen=True)
class Drawing:
    """What a batch shows: N pictures with their captions.

    Attributes:
        indices: i64[N], rows of `Emojis`.
        seconds: i64[N], rows of the emoji to the right of the first, or -1 where there is none.
        colors: i64[N], rows of `COLORS`.
        named_style: bool[N], whether the caption names the style.
        captions: N captions.
    """

    indices: Tensor
    seconds: Tensor
    colors: Tensor
    named_style: Tensor
    captions: list[str]


class Captioner:
    """Chooses pictures, backgrounds and captions at random.

    Args:
        emojis: where the pictures come from.
        white: share of white backgrounds.
        pairs: share of pictures with two emoji of one style.
        keywords: share of pictures that are called by a keyword instead of their name.
    """

    def __init__(
        self, emojis: Emojis, *, white: float = 0.7, pairs: float = 0.25, keywords: float = 0.15
    ) -> None:
        self.emojis, self.white, self.pairs, self.keywords = emojis, white, pairs, keywords
        concepts = {row.hex: row for row in emojis.rows}
        uses = Counter(word for row in concepts.values() for word in set(row.keywords))
        self.words = [[w for w in row.keywords if uses[w] <= 2] for row in emojis.rows]
        styles = sorted({row.style for row in emojis.rows})
        self.of_style = {
            style: torch.tensor([i for i, row in enumerate(emojis.rows) if row.style == style])
            for style in styles
        }

    def __call__(self, count: int, *, seed: int) -> Drawing:
        """Choose N pictures."""
        generator = torch.Generator().manual_seed(seed)
        indices = torch.randint(len(self.emojis), (count,), generator=generator)
        colors = torch.randint(1, len(COLORS), (count,), generator=generator)
        chance = torch.rand(count, 6, generator=generator)
        seconds = torch.full_like(indices, -1)
        captions, names = [], list(COLORS)
        for n, index in enumerate(indices.tolist()):
            row, shown = self.emojis.rows[index], [index]
            if chance[n, 0] < self.pairs:
                same = self.of_style[row.style]
                seconds[n] = same[int(chance[n, 1] * len(same))]
                shown.append(int(seconds[n]))
            color = names[int(colors[n])]
            if chance[n, 2] < self.white or any(
                is_held_out(self.emojis.rows[i], color) for i in shown
            ):
                colors[n], color = 0, "white"
            label = self._label(shown, chance[n, 3:5].tolist())
            captions.append(caption(label, row.style if chance[n, 5] < 0.6 else None, color))
        return Drawing(indices, seconds, colors, chance[:, 5] < 0.6, captions)

    def _label(self, shown: list[int], chance: list[float]) -> str:
        """Name what is shown; a first number under 0.3 puts articles, pairs mostly have them."""
        first = shown[0]
        if len(shown) == 2:
            labels = [self.emojis.rows[index].label for index in shown]
            return pair_label(*labels, articles=chance[0] < 0.7)
        words, row = self.words[first], self.emojis.rows[first]
        label = row.label
        if words and chance[1] < self.keywords:
            label = words[int(chance[1] / self.keywords * len(words))]
        return f"{_article(label)} {label}" if chance[0] < 0.3 else label


def pair_label(left: str, right: str, *, articles: bool = True) -> str:
    """Name two emoji in one picture.

    Example:
        >>> pair_label("cat", "red apple")
        'a cat and a red apple'
    """
    if articles:
        left, right = f"{_article(left)} {left}", f"{_article(right)} {right}"
    return f"{left} and {right}"


def caption_texts(emojis: Emojis) -> list[str]:
    """Return captions with every name, style, color and keyword, for training the vocabularies."""
    names = list(COLORS)
    texts = [
        caption(f"{_article(row.label)} {row.label}", row.style, names[index % len(names)])
        for index, row in enumerate(emojis.rows)
    ]
    texts += [pair_label(row.label, row.label) for row in emojis.rows]
    return texts + sorted({word for row in emojis.rows for word in row.keywords})


def _article(label: str) -> str:
    return "an" if label[:1].lower() in "aeiou" else "a"


def _read(path: Path, size: int) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32)
    rgba[..., :3] *= rgba[..., 3:] / 255
    small = [
        np.asarray(Image.fromarray(rgba[..., c]).resize((size, size), Image.Resampling.BOX))
        for c in range(4)
    ]
    return np.stack(small, axis=-1).round().clip(0, 255).astype(np.uint8)
