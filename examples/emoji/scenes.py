"""Choose scenes at random, compose them, and keep their codes: the control that the model learns.

    python examples/emoji/scenes.py DATA OUT --vqgan MODEL/vqgan [--count 36000] [--seed 0]

Writes OUT/scenes.jsonl, and OUT/codes.npy i16[M,L] part by part; interrupted, the same command goes
on. Combinations that are kept back for the evaluation are never among them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import torch

from control import FILTERS, RELATIONS, SIZES, Scene, Stage, is_kept_back
from dallemini import VQGAN
from dataset import COLORS, Emojis, is_held_out

PART = 64
SHARES = {"color": 26, "count": 14, "pair": 28, "size": 5, "filter": 20, "ground": 7}
COLORED = tuple(color for color in COLORS if color != "white")  # white on white shows nothing


class Director:
    """Chooses scenes at random.

    Args:
        emojis: the pictures.
        kept_back: whether to choose the combinations that training never sees, and only those.
    """

    def __init__(self, emojis: Emojis, *, kept_back: bool = False) -> None:
        self.emojis, self.kept_back = emojis, kept_back
        self.of_style: dict[str, list[int]] = {}
        for index, row in enumerate(emojis.rows):
            self.of_style.setdefault(row.style, []).append(index)
        # hands and people are left as they are: their colours are skins
        self.things = [n for n, row in enumerate(emojis.rows) if row.group != "people-body"]

    def __call__(self, kind: str, rng: random.Random) -> Scene:
        """Choose a scene of a kind, one of `SHARES`."""
        while True:
            scene, key = self._choose(kind, rng)
            if is_kept_back(kind, *key) == self.kept_back:
                return scene

    def _choose(self, kind: str, rng: random.Random) -> tuple[Scene, tuple[object, ...]]:
        rows = self.emojis.rows
        if kind == "color":
            index, color = rng.choice(self.things), rng.choice(COLORED)
            scene = Scene(indices=(index,), color=color, recolored=True)
            return scene, (rows[index].hex, color)
        index = rng.randrange(len(rows))
        code = rows[index].hex
        if kind == "count":
            count = rng.choice((2, 3, 4))
            return Scene(indices=(index,), count=count), (code, count)
        if kind == "size":
            size = rng.choice(list(SIZES))
            return Scene(indices=(index,), size=size), (code, size)
        if kind == "filter":
            name = rng.choice(FILTERS)
            return Scene(indices=(index,), filter=name), (code, name)
        if kind == "ground":
            ground = rng.choice([c for c in COLORED if not is_held_out(rows[index], c)])
            return Scene(indices=(index,), ground=ground), ()
        other = rng.choice(self.of_style[rows[index].style])
        relation = rng.choice((*RELATIONS, "and"))
        return Scene(indices=(index, other), relation=relation), (code, rows[other].hex)


def choose(emojis: Emojis, count: int, *, seed: int) -> list[Scene]:
    """Choose scenes by the shares of their kinds."""
    director, rng = Director(emojis), random.Random(seed)
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    return [director(kind, rng) for kind in kinds]


def read(folder: Path) -> tuple[list[Scene], torch.Tensor]:
    """Return the scenes and their codes i16[M,L], as far as they have come."""
    lines = (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    scenes = [Scene(**{**row, "indices": tuple(row["indices"])}) for row in rows]
    parts = [np.load(path) for path in sorted(folder.glob("codes_*.npy"))]
    codes = torch.from_numpy(np.concatenate(parts))
    return scenes[: len(codes)], codes


def main() -> None:
    """Read the arguments, choose, compose and encode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--vqgan", required=True)
    parser.add_argument("--count", type=int, default=36_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    emojis, out = Emojis(arguments.data, split="train"), arguments.output
    out.mkdir(parents=True, exist_ok=True)
    scenes = choose(emojis, arguments.count, seed=arguments.seed)
    lines = (json.dumps(dataclasses.asdict(scene)) + "\n" for scene in scenes)
    (out / "scenes.jsonl").write_text("".join(lines), encoding="utf-8")
    vqgan, stage = VQGAN.from_pretrained(arguments.vqgan).float(), Stage(emojis)
    for start in range(0, len(scenes), PART):
        path = out / f"codes_{start:07}.npy"
        if path.exists():
            continue
        with torch.no_grad():
            images = torch.stack([stage(scene) for scene in scenes[start : start + PART]])
            codes = vqgan.encode(images).short().numpy()
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, codes)
        temporary.rename(path)


if __name__ == "__main__":
    main()
