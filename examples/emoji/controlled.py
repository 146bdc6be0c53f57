"""Does a drawn picture have the colour, the number, the places, the rendering that was asked for?

The truth is read from the pixels: the main colour of what is not ground, connected parts, halves
compared with real pictures, and, for rendering styles, a linear classifier that was trained on
real renderings of other concepts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captions import Speaker
from control import FILTERS, RELATIONS, Scene, Stage, describe, main_color
from dallemini import Pipeline
from dallemini.images import image_to_tensor
from dataset import SIZE
from everyday import SIDE, Judge, draw
from scenes import Director

INK = 0.06  # distance from the ground at which a pixel belongs to the object
FEWEST_PIXELS = 60  # of a part; less is dirt


def cut_out(image: Tensor) -> Tensor:
    """Turn a picture f[3,S,S] on white into a layer f[4,S,S], opaque where it is not ground."""
    alpha = (1 - image.min(0, keepdim=True).values > INK).float()
    return torch.cat([image * alpha, alpha])


def parts(image: Tensor) -> int:
    """Count the connected parts of f[3,S,S] on white, small ones left out.

    Example:
        >>> picture = torch.ones(3, 160, 160)
        >>> picture[:, 20:60, 20:60] = picture[:, 90:140, 90:140] = 0.2
        >>> parts(picture)
        2
    """
    ink: NDArray[np.bool_] = (1 - image.min(0).values > 3 * INK).numpy()
    count = 0
    while ink.any():
        start = tuple(int(axis[0]) for axis in np.nonzero(ink))
        stack, size = [start], 0
        while stack:
            y, x = stack.pop()
            if 0 <= y < ink.shape[0] and 0 <= x < ink.shape[1] and ink[y, x]:
                ink[y, x], size = False, size + 1
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += size >= FEWEST_PIXELS
    return count


class Examiner:
    """Asks for scenes of one kind and looks at what comes.

    Args:
        judge: finds which concept a picture is nearest to.
        pipe: draws.
        count: scenes of a kind.
    """

    def __init__(self, judge: Judge, pipe: Pipeline, *, count: int) -> None:
        self.judge, self.pipe, self.count = judge, pipe, count
        self.rows = judge.emojis.rows
        self.speaker = Speaker(self.rows, phrases={})  # asked for by their names

    def ask(self, kind: str, *, held_out: bool) -> tuple[list[Scene], list[Image.Image]]:
        """Choose scenes of a kind, trained combinations or held-out ones, and draw them."""
        director, rng = Director(self.judge.emojis, kept_back=held_out), random.Random(4)
        scenes = [director(kind, rng) for _ in range(self.count)]
        texts = [describe(s, self.rows, self.speaker, rng, style=None) for s in scenes]
        return scenes, draw(self.pipe, texts, seed=30_000)

    def colors(self, *, held_out: bool) -> list[bool]:
        """Return whether the object's main colour is the one asked for."""
        scenes, images = self.ask("color", held_out=held_out)
        found = [main_color(cut_out(image_to_tensor(image))) for image in images]
        return [scene.color == color for scene, color in zip(scenes, found, strict=True)]

    def counts(self, *, held_out: bool) -> list[bool]:
        """Return whether as many parts are there as were asked for.

        Only of concepts whose real picture is one part.
        """
        scenes, images = self.ask("count", held_out=held_out)
        stage, right = Stage(self.judge.emojis), []
        for scene, image in zip(scenes, images, strict=True):
            if parts(stage(Scene(indices=scene.indices))) == 1:
                right.append(parts(image_to_tensor(image)) == scene.count)
        return right

    def relations(self, *, held_out: bool) -> tuple[list[bool], list[bool]]:
        """Return whether both objects are among five of 100, and whether they stand as asked."""
        scenes, images = self.ask("pair", held_out=held_out)
        both, placed = [], []
        for scene, image in zip(scenes, images, strict=True):
            first, second = (self.rows[index].hex for index in scene.indices)
            halves = _halves(image, upright=scene.relation in ("above", "below"))
            if scene.relation in ("right of", "below"):
                halves = halves[::-1]
            there = self.judge.ranks([*halves, *halves], [first, second, second, first])
            both.append(there[0] < 5 and there[1] < 5)
            if scene.relation in RELATIONS:
                placed.append(there[0] + there[1] < there[2] + there[3])
        return both, placed

    def filters(self, *, held_out: bool) -> list[bool]:
        """Return whether a classifier of real renderings sees the one asked for."""
        scenes, images = self.ask("filter", held_out=held_out)
        seen = self._classes([image_to_tensor(image) for image in images])
        wanted = [FILTERS.index(scene.filter or "") for scene in scenes]
        return [int(found) == right for found, right in zip(seen, wanted, strict=True)]

    def _classes(self, images: Sequence[Tensor]) -> Tensor:
        """Return which of `FILTERS`, or none (the last), each picture is nearest to."""
        director, rng = Director(self.judge.emojis), random.Random(5)
        stage = Stage(self.judge.emojis)
        known, labels = [], []
        for _ in range(60):
            scene = director("filter", rng)
            for number, name in enumerate((*FILTERS, None)):
                known.append(stage(Scene(indices=scene.indices, filter=name)))
                labels.append(number)
        features, target = self._features(known), F.one_hot(torch.tensor(labels)).double()
        ridge = features.T @ features + 0.1 * torch.eye(features.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(ridge, features.T @ target)
        guessed: Tensor = (self._features(images) @ weights).argmax(1)
        return guessed

    def _features(self, images: Sequence[Tensor]) -> Tensor:
        small = F.interpolate(torch.stack(list(images)), size=SIDE, mode="area")
        found = torch.cat([self.judge.look(part) for part in small.split(16)])
        return torch.cat([F.normalize(found, dim=1), torch.ones(len(found), 1)], 1).double()


def _halves(image: Image.Image, *, upright: bool) -> list[Image.Image]:
    """Cut the two half-sized squares out of a picture: left and right, or top and bottom."""
    half, quarter = SIZE // 2, SIZE // 4
    boxes = [(0, quarter, half, quarter + half), (half, quarter, SIZE, quarter + half)]
    if upright:
        boxes = [(quarter, 0, quarter + half, half), (quarter, half, quarter + half, SIZE)]
    return [image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for box in boxes]
