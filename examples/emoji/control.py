"""Pictures whose truth is known because they are made: recoloured, counted, placed, filtered.

A `Scene` says what is shown; `Stage` composes it from the emoji pictures, `describe` says it in
words. A tenth of the pairs of concept and colour, of concept and number, of concept and rendering
style, and of two concepts beside each other, is never shown in training.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from captions import Look, Speaker, colored, plural, with_article
from dataset import COLORS, SIZE, Emoji, Emojis

HELD_OUT_SHARE = 0.1
RELATIONS = ("left of", "right of", "above", "below")
SIZES = {"tiny": 0.4, "huge": 1.0}
FILTERS = ("pixel art", "pencil sketch", "black and white", "neon outline", "watercolour")
HUES = {
    "red": 0.0,
    "orange": 0.083,
    "yellow": 0.145,
    "green": 0.36,
    "blue": 0.61,
    "purple": 0.77,
    "pink": 0.91,
}
COLOR_WORDS = re.compile(
    rf"\b({'|'.join(COLORS)}|grey|golden|gold|silver|violet|rainbow|colorful|light|dark)\b"
)
NUMBERS = {2: ("two", "2", "a pair of"), 3: ("three", "3"), 4: ("four", "4")}
FILTER_WORDS = {
    "pixel art": ("pixel art", "pixel art of", "in pixel art style", "8 bit", "pixelated"),
    "pencil sketch": ("pencil sketch", "a pencil sketch of", "drawn in pencil"),
    "black and white": (
        "black and white", "a black and white picture of", "in black and white", "in grayscale",
    ),
    "neon outline": ("neon outline", "a neon sign of", "a neon outline of", "in neon"),
    "watercolour": ("watercolour", "a watercolour of", "in watercolor", "a watercolor of"),
}  # fmt: skip
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "above", "over", "on top of"),
    "below": ("below", "under", "beneath", "underneath"),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a composed picture shows.

    Attributes:
        indices: rows of `Emojis`: one, or two with a relation.
        ground: name of the background's colour.
        color: what the object was recoloured to, or its own colour, or None.
        count: how many of the same.
        relation: of the first to the second: one of `RELATIONS`, "and" (left of), or None.
        size: a key of `SIZES`, or None.
        filter: one of `FILTERS`, or None.
        recolored: whether `color` was painted on.
    """

    indices: tuple[int, ...]
    ground: str = "white"
    color: str | None = None
    count: int = 1
    relation: str | None = None
    size: str | None = None
    filter: str | None = None
    recolored: bool = False


def is_kept_back(kind: str, *names: object) -> bool:
    """Tell by a hash whether a combination is never shown in training."""
    digest = hashlib.sha1("|".join(map(str, (kind, *names))).encode()).hexdigest()
    return int(digest[:8], 16) / 0xFFFFFFFF < HELD_OUT_SHARE


def to_hsv(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split f[3,H,W] in [0, 1] into hue, saturation and value f[H,W] in [0, 1]."""
    red, green, blue = rgb
    value, least = rgb.max(0).values, rgb.min(0).values
    chroma = (value - least).clamp(min=1e-6)
    hue = torch.where(
        value == red,
        (green - blue) / chroma % 6,
        torch.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )
    return hue / 6 % 1, (value - least) / value.clamp(min=1e-6), value


def to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Join what `to_hsv` splits."""
    offsets = torch.tensor([5.0, 3.0, 1.0])[:, None, None]
    place = (offsets + hue * 6) % 6
    ramp = torch.minimum(place, 4 - place).clamp(0, 1)
    return value - value * saturation * ramp


def straight(layer: Tensor) -> Tensor:
    """Undo the premultiplication of f[4,H,W], giving f[3,H,W]."""
    return (layer[:3] / layer[3:].clamp(min=1e-3)).clamp(0, 1)


def main_color(layer: Tensor) -> str | None:
    """Return the colour that covers more than 55 % of a layer f[4,H,W], if one does."""
    rgb, alpha = straight(layer), layer[3] > 0.6
    names = color_names(rgb)[alpha]
    if not len(names):
        return None
    counts = np.bincount(names.numpy(), minlength=len(COLORS))
    best = int(counts.argmax())
    return list(COLORS)[best] if counts[best] > 0.55 * counts.sum() else None


def color_names(rgb: Tensor) -> Tensor:
    """Return the nearest of `COLORS` for each pixel of f[3,H,W], as i64[H,W], by hue first."""
    hue, saturation, value = to_hsv(rgb)
    names = list(COLORS)
    centres = torch.tensor([*HUES.values(), 1.0])
    nearest = (hue[None] - centres[:, None, None]).abs().argmin(0)
    index = torch.tensor([names.index(name) for name in (*HUES, "red")])[nearest]
    brown = (hue < 0.12) & (value < 0.62) & (value >= 0.2)
    pink = ((hue > 0.88) | (hue < 0.03)) & (saturation < 0.55) & (value > 0.75)
    index[brown], index[pink] = names.index("brown"), names.index("pink")
    gray = saturation < 0.2
    index[gray & (value > 0.82)] = names.index("white")
    index[gray & (value <= 0.82)] = names.index("gray")
    index[value < 0.22] = names.index("black")
    return index


def recolor(layer: Tensor, color: str) -> Tensor:
    """Paint the main hue family of a layer f[4,H,W] in another colour; shading stays."""
    rgb, alpha = straight(layer), layer[3:]
    hue, saturation, value = to_hsv(rgb)
    weight = saturation * value * alpha[0] * (saturation > 0.25)
    if weight.sum() < 0.1 * alpha.sum():  # a gray thing: all that is not dark is its family
        family = (value > 0.3).float()
        saturation = torch.full_like(saturation, 0.75)
    else:
        bins = torch.zeros(24).index_add_(
            0, (hue * 24).long().clamp(0, 23).flatten(), weight.flatten()
        )
        smooth = bins + bins.roll(1) + bins.roll(-1) + bins.roll(2) + bins.roll(-2)
        centre = (float(smooth.argmax()) + 0.5) / 24
        distance = ((hue - centre + 0.5) % 1 - 0.5).abs()
        family = ((0.14 - distance) / 0.04).clamp(0, 1) * ((saturation - 0.12) / 0.1).clamp(0, 1)
    painted = _painted(color, saturation, value)
    mixed = painted * family + rgb * (1 - family)
    return torch.cat([mixed.clamp(0, 1) * alpha, alpha])


def _painted(color: str, saturation: Tensor, value: Tensor) -> Tensor:
    if color in HUES:
        hue = torch.full_like(value, HUES[color])
        if color == "pink":
            return to_rgb(hue, saturation * 0.5, (0.5 + 0.5 * value).clamp(0, 1))
        return to_rgb(hue, (saturation * 1.1).clamp(0.3, 1), (0.25 + 0.75 * value).clamp(0, 1))
    hue = torch.full_like(value, 0.07)
    if color == "brown":
        return to_rgb(hue, torch.full_like(value, 0.65), 0.15 + 0.4 * value)
    scale = {"white": (0.78, 0.22), "gray": (0.3, 0.4), "black": (0.05, 0.18)}[color]
    return (scale[0] + scale[1] * value).expand(3, -1, -1)


def scaled(layer: Tensor, scale: float, *, right: float = 0.0, down: float = 0.0) -> Tensor:
    """Shrink f[4,S,S] and put its middle at a distance, in sides, from the middle."""
    whole = layer.shape[2]
    side = max(8, round(whole * scale))
    small = F.interpolate(layer[None], size=(side, side), mode="area")[0]
    out = torch.zeros(4, whole, whole)
    top = round(whole * (0.5 + down) - side / 2)
    start = round(whole * (0.5 + right) - side / 2)
    top, start = (min(max(place, 0), whole - side) for place in (top, start))
    out[:, top : top + side, start : start + side] = small
    return out


def repeated(layer: Tensor, count: int) -> Tensor:
    """Show f[4,S,S] two to four times: side by side, as a triangle, as a square."""
    q = 0.25
    places = {
        2: ((-q, 0), (q, 0)),
        3: ((0, -q), (-q, q), (q, q)),
        4: ((-q, -q), (q, -q), (-q, q), (q, q)),
    }[count]
    return sum((scaled(layer, 0.46, right=x, down=y) for x, y in places), torch.zeros_like(layer))


def beside(first: Tensor, second: Tensor, relation: str) -> Tensor:
    """Put two f[4,S,S] beside or above each other, each at half its size."""
    x, y = {
        "left of": (-0.25, 0.0), "and": (-0.25, 0.0), "right of": (0.25, 0.0),
        "above": (0.0, -0.25), "below": (0.0, 0.25),
    }[relation]  # fmt: skip
    return scaled(first, 0.5, right=x, down=y) + scaled(second, 0.5, right=-x, down=-y)


def _blur(image: Tensor, size: int) -> Tensor:
    """Average f[C,S,S] over squares of so many pixels of a picture of `SIZE`."""
    size = _odd(image, size)
    return F.avg_pool2d(F.pad(image[None], (size // 2,) * 4, mode="replicate"), size, stride=1)[0]


def _odd(image: Tensor, size: int) -> int:
    """Return how many pixels of f[C,S,S] there are to an odd number of a picture of `SIZE`."""
    return size * image.shape[2] // SIZE | 1


def filtered(image: Tensor, name: str) -> Tensor:
    """Render f[3,S,S] on white in the style of a filter."""
    gray = (image * torch.tensor([0.3, 0.59, 0.11])[:, None, None]).sum(0, keepdim=True)
    if name == "pixel art":
        small = F.interpolate(image[None], size=(20, 20), mode="area")
        small = (small * 5).round() / 5
        return F.interpolate(small, size=image.shape[1:], mode="nearest")[0]
    if name == "black and white":
        return gray.expand(3, -1, -1)
    if name == "watercolour":
        soft = _blur(_blur(image, 9), 9)
        generator = torch.Generator().manual_seed(int(image.sum()) % 1000)
        wash = torch.rand(1, 1, 12, 12, generator=generator)
        wash = F.interpolate(wash, size=image.shape[1:], mode="bicubic")[0]
        edge = (_blur(gray, 3) - _blur(gray, 9)).clamp(-1, 0) * 1.5
        return (1 - (1 - soft) * (0.45 + 0.5 * wash) + edge).clamp(0, 1)
    edges = _edges(image)
    if name == "pencil sketch":
        shade = 1 - 0.25 * (1 - _blur(gray, 5))
        return (shade - 0.9 * edges).clamp(0, 1).expand(3, -1, -1)
    hue, saturation, value = to_hsv(_blur(image, 5))
    glow = to_rgb(hue, torch.where(saturation < 0.15, 0.7, 1.0), torch.ones_like(value))
    hue_free = saturation < 0.15
    glow = torch.where(hue_free, torch.tensor([0.2, 0.9, 1.0])[:, None, None], glow)
    line = (edges + 0.6 * _blur(edges, 7)).clamp(0, 1)
    return (0.05 + glow * line).clamp(0, 1)


def _edges(image: Tensor) -> Tensor:
    soft = _blur(image, 3)
    dx = (soft[:, :, 2:] - soft[:, :, :-2]).abs().sum(0)
    dy = (soft[:, 2:] - soft[:, :-2]).abs().sum(0)
    strength = F.pad(dx, (1, 1)) + F.pad(dy, (0, 0, 1, 1))
    wide = _odd(image, 3)
    lines = F.max_pool2d(strength[None], wide, 1, wide // 2)
    return (lines * 1.3 * image.shape[2] / SIZE).clamp(0, 1)


class Stage:
    """Composes scenes from the emoji pictures."""

    def __init__(self, emojis: Emojis) -> None:
        self.emojis = emojis

    def __call__(self, scene: Scene) -> Tensor:
        """Return the picture f[3,S,S] in [0, 1] of a scene."""
        layers = self.emojis.layers(torch.tensor(scene.indices))
        layer = layers[0]
        if scene.recolored:
            assert scene.color is not None
            layer = recolor(layer, scene.color)
        if scene.size:
            layer = scaled(layer, SIZES[scene.size])
        if scene.count > 1:
            layer = repeated(layer, scene.count)
        if scene.relation:
            layer = beside(layer, layers[1], scene.relation)
        ground = torch.tensor(COLORS[scene.ground]).float()[:, None, None] / 255
        image = (layer[:3] + ground * (1 - layer[3:])).clamp(0, 1)
        return filtered(image, scene.filter) if scene.filter else image


def describe(
    scene: Scene, rows: Sequence[Emoji], speaker: Speaker, rng: random.Random, *, style: str | None
) -> str:
    """Ask for a scene in everyday words."""
    codes = [rows[index].hex for index in scene.indices]
    if len(codes) == 2:
        text = _pair(scene.relation or "and", codes, speaker, rng)
    elif scene.count > 1:
        number = rng.choice(NUMBERS[scene.count])
        text = f"{number} {plural(short_name(codes[0], speaker, rng))}"
    elif scene.color:
        text = colored(short_name(codes[0], speaker, rng, plain=True), scene.color)
        text = text if rng.random() < 0.3 or text.startswith(("a ", "an ")) else with_article(text)
    else:
        text = short_name(codes[0], speaker, rng)
        text = text if rng.random() < 0.3 else with_article(text)
    if scene.size:
        word = rng.choice(("tiny", "very small") if scene.size == "tiny" else ("huge", "giant"))
        text = colored(text, word)
    if scene.filter:
        word = rng.choice(FILTER_WORDS[scene.filter])
        text = f"{word} {text}" if word.endswith(" of") or rng.random() < 0.1 else f"{text}, {word}"
        style = None
    return speaker.finish(text, Look(style=style, ground=scene.ground), rng)


def _pair(relation: str, codes: list[str], speaker: Speaker, rng: random.Random) -> str:
    first, second = (with_article(short_name(code, speaker, rng)) for code in codes)
    if relation == "and":
        return f"{first} and {second}"
    word = rng.choice(RELATION_WORDS[relation])
    return f"{first} {word} {second}"


def short_name(code: str, speaker: Speaker, rng: random.Random, *, plain: bool = False) -> str:
    """Name a concept in up to three words without an article; `plain`: without a colour."""
    names = [speaker.labels[code]] * 3 + [
        re.sub(r"^(an?|the) ", "", text)
        for text in speaker.phrases.get(code, [])
        if re.match(r"^(an?|the) ", text) and len(text.split()) <= 3
    ]
    text = rng.choice(names).rstrip(".?!").lower()
    if plain:
        text = " ".join(COLOR_WORDS.sub("", text).split()) or speaker.labels[code]
    return text
