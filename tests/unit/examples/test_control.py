"""Composed scenes show what they say: colours, numbers, places, sizes, rendering styles."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from captions import Speaker
from control import (
    FILTERS,
    RELATIONS,
    SIZES,
    Scene,
    Stage,
    color_names,
    describe,
    is_kept_back,
    main_color,
    recolor,
)
from dallemini import VQGAN
from dataset import COLORS, SIZE, Emojis
from scenes import SHARES, Director, choose, read
from scenes import main as make_scenes

COLORED = [name for name in COLORS if name != "white"]
PAINT = {"cherry": (220, 30, 40), "leaf": (40, 160, 60), "stone": (150, 150, 150)}


@pytest.fixture
def emojis(tmp_path: Path) -> Emojis:
    """Three discs with a dark rim, in two styles."""
    lines = []
    for style in ("noto", "flat"):
        for number, (name, paint) in enumerate(PAINT.items()):
            file = f"{style}-{number}.png"
            picture = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
            pen = ImageDraw.Draw(picture)
            pen.ellipse((20, 20, 140, 140), fill=(*paint, 255), outline=(30, 20, 20, 255), width=6)
            picture.save(tmp_path / file)
            line = {"file": file, "set": style, "style": f"{style} emoji", "hex": f"1f{number}"}
            line |= {"label": name, "caption": name, "group": "x", "split": "train"}
            lines.append(line | {"keywords": [], "license": "MIT"})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Emojis(tmp_path, split="train")


def parts(image: Tensor) -> int:
    """Count the connected parts of f[3,S,S] that are not white."""
    ink = (image.min(0).values < 0.8).numpy()
    seen, count = np.zeros_like(ink), 0
    for start in zip(*np.nonzero(ink), strict=True):
        if seen[start]:
            continue
        count, stack = count + 1, [start]
        while stack:
            y, x = stack.pop()
            if 0 <= y < SIZE and 0 <= x < SIZE and ink[y, x] and not seen[y, x]:
                seen[y, x] = True
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return count


@pytest.mark.slow_except("stone-red", "leaf-black")
@pytest.mark.parametrize("color", COLORED)
@pytest.mark.parametrize("index", [0, 1, 2], ids=list(PAINT))
def test_painting_makes_most_of_the_object_that_colour(
    emojis: Emojis, index: int, color: str
) -> None:
    layer = emojis.layers(torch.tensor([index]))[0]
    assert main_color(recolor(layer, color)) == color


def test_painting_leaves_other_hues_and_the_alpha_alone() -> None:
    layer = torch.ones(4, SIZE, SIZE)
    layer[:3] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    layer[:3, :40] = torch.tensor([0.1, 0.7, 0.2])[:, None, None]  # a green leaf
    painted = recolor(layer, "blue")
    torch.testing.assert_close(painted[:, :40], layer[:, :40])
    assert set(color_names(painted[:3])[60:].flatten().tolist()) == {list(COLORS).index("blue")}
    assert torch.equal(painted[3], layer[3])


def test_a_mixed_picture_has_no_main_colour() -> None:
    layer = torch.ones(4, SIZE, SIZE)
    for number, color in enumerate(("red", "green", "blue", "yellow")):
        band = slice(40 * number, 40 * number + 40)
        layer[:3, band] = torch.tensor(COLORS[color])[:, None, None] / 255
    assert main_color(layer) is None


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_number_shows_as_many_parts(emojis: Emojis, count: int) -> None:
    assert parts(Stage(emojis)(Scene(indices=(0,), count=count))) == count


@pytest.mark.parametrize("relation", RELATIONS)
def test_relations_put_the_first_where_they_say(emojis: Emojis, relation: str) -> None:
    image = Stage(emojis)(Scene(indices=(0, 1), relation=relation))
    red, green = (
        torch.nonzero(image[channel] > image[other] + 0.3).float().mean(0)
        for channel, other in ((0, 1), (1, 0))
    )
    down, right = (red - green).tolist()
    wanted = {"left of": right < -40, "right of": right > 40, "above": down < -40}
    assert {**wanted, "below": down > 40}[relation]


def test_a_tiny_thing_covers_less(emojis: Emojis) -> None:
    tiny, usual = (Stage(emojis)(Scene(indices=(0,), size=s)) for s in ("tiny", None))
    assert 0.1 < float((tiny[1] < 0.5).sum() / (usual[1] < 0.5).sum()) < 0.25


@pytest.mark.parametrize("name", FILTERS)
def test_filters_give_pictures_of_their_kind(emojis: Emojis, name: str) -> None:
    image = Stage(emojis)(Scene(indices=(0,), filter=name))
    assert image.shape == (3, SIZE, SIZE)
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    gray = bool((image[0] == image[1]).all() and (image[1] == image[2]).all())
    assert gray == (name in ("pencil sketch", "black and white"))
    assert (float(image[:, 0, 0].mean()) < 0.2) == (name == "neon outline")
    if name == "pixel art":
        assert torch.equal(image[:, 0:8, 0:8], image[:, :1, :1].expand(-1, 8, 8))


def test_descriptions_say_what_is_shown(emojis: Emojis) -> None:
    speaker, rng = Speaker(emojis.rows, phrases={}), random.Random(0)

    def said(**scene: object) -> str:
        made = Scene(**scene)  # type: ignore[arg-type]
        texts = [describe(made, emojis.rows, speaker, rng, style=None) for _ in range(40)]
        return max(set(texts), key=texts.count)

    assert said(indices=(0,), color="blue", recolored=True) in ("a blue cherry", "blue cherry")
    assert said(indices=(0,), count=3) in ("three cherries", "3 cherries")
    assert said(indices=(0, 1), relation="above") == "a cherry above a leaf"
    assert said(indices=(0, 1), relation="and") == "a cherry and a leaf"
    assert "cherry" in said(indices=(0,), filter="pixel art")
    tiny = [
        describe(Scene(indices=(0,), size="tiny"), emojis.rows, speaker, rng, style=None)
        for _ in range(20)
    ]
    assert all("tiny" in text or "small" in text or "cherry" not in text for text in tiny)


def test_what_is_kept_back_is_never_chosen_for_training(emojis: Emojis) -> None:
    rows, rng = emojis.rows, random.Random(0)
    for scene in choose(emojis, 600, seed=1):
        if scene.recolored:
            assert not is_kept_back("color", rows[scene.indices[0]].hex, scene.color)
        if scene.count > 1:
            assert not is_kept_back("count", rows[scene.indices[0]].hex, scene.count)
        if scene.filter:
            assert not is_kept_back("filter", rows[scene.indices[0]].hex, scene.filter)
    held = Director(emojis, kept_back=True)("color", rng)
    assert is_kept_back("color", rows[held.indices[0]].hex, held.color)


def test_choosing_knows_every_kind(emojis: Emojis) -> None:
    found = choose(emojis, 400, seed=0)
    assert {s.relation for s in found} == {None, "and", *RELATIONS}
    assert {s.filter for s in found} == {None, *FILTERS}
    assert {s.size for s in found} == {None, *SIZES}
    assert {s.count for s in found} == {1, 2, 3, 4}
    assert sum(SHARES.values()) == 100


@pytest.mark.thorough
def test_scenes_are_kept_with_their_codes_and_go_on(
    emojis: Emojis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = Path(__file__).parents[3] / "dallemini" / "assets" / "emoji" / "vqgan"
    out = tmp_path / "scenes"
    command = ["scenes.py", str(tmp_path), str(out), "--vqgan", str(bundled), "--count", "70"]
    monkeypatch.setattr(sys, "argv", command)
    make_scenes()
    scenes, codes = read(out)
    assert (len(scenes), codes.shape) == (70, (70, 100))
    vqgan = VQGAN.from_pretrained(bundled).float()
    alone = vqgan.encode(Stage(emojis)(scenes[65])[None])[0]
    assert (alone == codes[65]).float().mean() > 0.98
    (out / "codes_0000064.npy").unlink()
    assert len(read(out)[0]) == 64
    make_scenes()
    assert torch.equal(read(out)[1], codes)


@pytest.mark.parametrize("name", [*FILTERS, "count", "relation", "tiny"])
def test_scenes_look_the_same_at_twice_the_size(emojis: Emojis, tmp_path: Path, name: str) -> None:
    settings = {"count": 3} if name == "count" else {"relation": "above"}
    settings = {"size": "tiny"} if name == "tiny" else settings
    scene = Scene(indices=(0, 1), **({"filter": name} if name in FILTERS else settings))
    larger = Emojis(tmp_path, split="train", size=2 * SIZE)
    large, small = Stage(larger)(scene), Stage(emojis)(scene)
    assert large.shape == (3, 2 * SIZE, 2 * SIZE)
    assert float((F.avg_pool2d(large, 2) - small).abs().mean()) < 0.05
