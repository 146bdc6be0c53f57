"""How well the mark in the tokens is found, what it costs, and how often it is seen where none is.

    python tests/benchmarks/watermark.py draw --count 32 --output marks
    python tests/benchmarks/watermark.py measure marks
    python tests/benchmarks/watermark.py false-alarms PICTURES... --count 2500 --append seen.jsonl
    python tests/benchmarks/watermark.py rates seen.jsonl

`draw` makes pictures with and without the mark, from the same prompts and seeds. `measure` reads
them back after what happens to pictures. `false-alarms` looks for many keys in pictures without a
mark, and notes the p-values: arrays u8[N,H,W,3] or, premultiplied by their alpha, u8[N,H,W,4] in
.npy files, and folders of PNG files. Pictures with alpha come again on other backgrounds when all
were seen. It goes on where the notes end, so that it can be run in pieces; `rates` counts them.
Every command prints JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dallemini import Pipeline, Watermark
from dallemini.evaluation.metrics import wilson_interval
from dallemini.generation.watermark import weigh_evidence
from dallemini.images import image_to_tensor
from dallemini.pipeline.detecting import codebook_of, known_groups, look_for
from dallemini.pipeline.enlarging import enlarge

ALPHA = 1e-3
POOLED = 4
KEYS = 8  # pictures of a key: POOLED of one key are pooled
Picture = Image.Image
PROMPTS = (
    *("red apple", "rocket", "a blue bird", "house", "a cat with a hat", "pizza", "tree", "dog"),
    *("a yellow car", "heart", "grinning face", "fish", "sun", "a green book", "train", "flower"),
)


def jpeg(quality: int) -> Callable[[Picture], Picture]:
    def save(picture: Picture) -> Picture:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return save


def scaled(share: float) -> Callable[[Picture], Picture]:
    return lambda picture: picture.resize(
        (round(picture.width * share), round(picture.height * share)), Image.Resampling.BICUBIC
    )


def cropped(picture: Picture) -> Picture:
    """Cut 5 % off each direction, at a place that no token knows."""
    cut = round(picture.width * 0.05)
    left, top = cut // 2 + 1, cut // 3
    return picture.crop((left, top, left + picture.width - cut, top + picture.height - cut))


def noisy(picture: Picture) -> Picture:
    levels = np.asarray(picture).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 8, levels.shape)
    return Image.fromarray((levels + noise).clip(0, 255).astype(np.uint8))


def screenshot(picture: Picture) -> Picture:
    """Shown at 125 %, with a border that was cut off again, and saved as JPEG."""
    return jpeg(85)(scaled(1.25)(picture))


FATES: dict[str, Callable[[Picture], Picture]] = {
    "nothing": lambda picture: picture,
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "resized to 50 %": scaled(0.5),
    "resized to 200 %": scaled(2.0),
    "cropped by 5 %": cropped,
    "blurred, radius 1": lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
    "noise, 8 of 255": noisy,
    "125 % and JPEG 85": screenshot,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def key_of(number: int) -> str:
    """Pictures that are pooled have one key; otherwise each has another, for keys differ too."""
    return f"key {number // POOLED}"


def draw(pipe: Pipeline, count: int, strength: float, folder: Path) -> dict[str, Any]:
    """Draw `count` pictures twice, and say what the mark costs."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    scores: dict[str, list[bool]] = {}
    lengths: dict[str, list[float]] = {}
    for kind in ("plain", "marked"):
        scores[kind], lengths[kind] = [], []
        for start in range(0, count, POOLED):
            part = range(start, min(start + POOLED, count))
            mark = Watermark(key_of(start), strength=strength) if kind == "marked" else None
            asked = [prompts[number] for number in part]
            out = pipe(asked, seed=100 * start, watermark=mark, progress=False)
            for number, image in zip(part, out.images, strict=True):
                image.save(folder / f"{kind}-{number:04d}.png")
            pixels = torch.stack([image_to_tensor(image) for image in out.images])
            scores[kind] += retrieved(pipe, pixels, asked)
            lengths[kind] += bits(pipe, asked, out.image_tokens)
    return {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "pictures": count,
        "strength": strength,
        "bits per token, by the model without the mark": {
            kind: round(float(np.mean(values)), 3) for kind, values in lengths.items()
        },
        "prompt found among all prompts by CLIP": {
            kind: share(values) for kind, values in scores.items()
        },
    }


def retrieved(pipe: Pipeline, pixels: torch.Tensor, asked: list[str]) -> list[bool]:
    """Tell for each picture whether CLIP scores its own prompt highest among all."""
    scorer = pipe.scorer
    rows = []
    for one, prompt in zip(pixels, asked, strict=True):
        values = scorer.score(one.expand(len(PROMPTS), -1, -1, -1), PROMPTS)
        rows.append(PROMPTS[int(values.argmax())] == prompt)
    return rows


@torch.no_grad()
def bits(pipe: Pipeline, prompts: list[str], tokens: torch.Tensor) -> list[float]:
    """Return how surprising tokens are, in bits each, at the pipeline's own temperature."""
    logits = pipe.transformer(pipe.tokenizer(prompts), tokens)[..., : pipe.vqgan.codebook_size]
    chances = (logits.float() / pipe.config.temperature).log_softmax(-1)
    nats = -chances.gather(-1, tokens[..., None])[..., 0].mean(-1)
    return [float(value) / float(np.log(2)) for value in nats]


def share(values: list[bool]) -> dict[str, Any]:
    found = wilson_interval(sum(values), count=len(values))
    return {
        "share": round(found.value, 3),
        "interval": [round(found.low, 3), round(found.high, 3)],
    }


def measure(pipe: Pipeline, folder: Path) -> dict[str, Any]:
    """Look for the mark in what `draw` drew, after each fate, alone and pooled.

    Where a picture keeps its grid, twice the p-value without the search is counted: the search
    finds no less. Crops are searched, in half of the pictures, since that takes 17 times as long.
    """
    paths = sorted(folder.glob("marked-*.png"))
    found: dict[str, Any] = {}
    fates = FATES | {"upscaled 4 times": lambda picture: enlarge(picture, pipe.upscaler, 4)}
    for name, change in fates.items():
        moved = name.startswith("cropped")
        chosen = paths[: len(paths) // 2] if moved else paths
        tensors = [image_to_tensor(change(Image.open(path).convert("RGB"))) for path in chosen]

        def is_found(part: list[torch.Tensor], number: int, moved: bool = moved) -> bool:
            told = look_for(part, Watermark(key_of(number)), codebook_of(pipe.vqgan), search=moved)
            return told.p_value * (1 if moved else 2) < ALPHA

        alone = [is_found([one], number) for number, one in enumerate(tensors)]
        pooled = [
            is_found(tensors[n : n + POOLED], n)
            for n in range(0, len(tensors) - POOLED + 1, POOLED)
        ]
        found[name] = {"one picture": share(alone), f"{POOLED} pictures": share(pooled)}
        print(name, json.dumps(found[name]), flush=True)
    return {"false alarms wanted": ALPHA, "pictures": len(paths), "found": found}


BACKGROUNDS = ((255, 255, 255), (222, 40, 40), (45, 95, 215), (20, 20, 20), (250, 220, 50))


class Unmarked:
    """Pictures without a mark; picture n is the same in every run."""

    def __init__(self, sources: Sequence[Path]) -> None:
        self._arrays = [np.load(path, mmap_mode="r") for path in sources if path.suffix == ".npy"]
        folders = [path for path in sources if path.suffix != ".npy"]
        self._files = sorted(file for folder in folders for file in folder.rglob("*.png"))
        self._count = sum(map(len, self._arrays)) + len(self._files)

    def __getitem__(self, number: int) -> torch.Tensor:
        turn, index = divmod(number, self._count)
        if index < len(self._files):
            return image_to_tensor(Image.open(self._files[index]).convert("RGB"))
        index -= len(self._files)
        for array in self._arrays:
            if index < len(array):
                return image_to_tensor(on_background(np.asarray(array[index]), turn))
            index -= len(array)
        raise IndexError(number)


def on_background(levels: NDArray[np.uint8], turn: int) -> Picture:
    """Return u8[H,W,3], or u8[H,W,4] on one of the backgrounds, as a picture."""
    if levels.shape[2] == 4:
        ground = np.array(BACKGROUNDS[turn % len(BACKGROUNDS)]) * (255 - levels[..., 3:] * 1.0)
        levels = (levels[..., :3] + ground / 255).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels))


def false_alarms(
    pipe: Pipeline, pictures: Unmarked, count: int, keys: int, searched: int, notes: Path
) -> dict[str, Any]:
    """Look at the next unmarked pictures with many keys, and search every `searched`-th whole."""
    groups, side = known_groups(codebook_of(pipe.vqgan)), round(pipe.vqgan.image_length**0.5)
    favoured = [Watermark(f"false alarm {n}").favours(groups) for n in range(keys)]
    start = len(notes.read_text().splitlines()) if notes.exists() else 0
    with notes.open("a") as file, torch.no_grad():
        for number in range(start, start + count):
            picture = pictures[number]
            codes = pipe.vqgan.encode(picture[None]).view(side, -1)
            found = [weigh_evidence([codes], groups, one)[0].p_value for one in favoured]
            noted: dict[str, Any] = {"p": found}
            if number % searched == 0:  # 17 times as slow
                mark = Watermark(f"false alarm {number}")
                noted["searched"] = look_for([picture], mark, codebook_of(pipe.vqgan)).p_value
            print(json.dumps(noted), file=file)
    return {"pictures so far": start + count}


def rates(notes: Path) -> dict[str, Any]:
    """Return how often pictures without a mark came below which p-value."""
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    each = np.array([line["p"] for line in lines])
    one = np.array([line["p"][number % each.shape[1]] for number, line in enumerate(lines)])
    whole = np.array([line["searched"] for line in lines if "searched" in line])
    levels = (0.001, 0.01, 0.1)
    return {
        "pictures": len(lines),
        "one key a picture, the grid as it is": {
            f"below {level}": counted(one < level) for level in levels
        },
        f"{each.shape[1]} keys a picture": {
            f"below {level}": {
                "share": float((each < level).mean()),
                "the worst key": float((each < level).mean(axis=0).max()),
            }
            for level in levels
        },
        "the whole search, one key a picture": {
            f"below {level}": counted(whole < level) for level in levels
        },
    }


def counted(values: NDArray[np.bool_]) -> dict[str, Any]:
    found = wilson_interval(int(values.sum()), count=len(values))
    interval = [round(found.low, 5), round(found.high, 5)]
    return {"count": int(values.sum()), "of": len(values), "interval": interval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("draw")
    one.add_argument("--count", type=int, default=32)
    one.add_argument("--strength", type=float, default=6.0)
    one.add_argument("--output", type=Path, default=Path("marks"))
    commands.add_parser("measure").add_argument("folder", type=Path)
    one = commands.add_parser("false-alarms")
    one.add_argument("sources", type=Path, nargs="+")
    one.add_argument("--count", type=int, default=500)
    one.add_argument("--keys", type=int, default=20)
    one.add_argument("--searched", type=int, default=10, help="every so many pictures are searched")
    one.add_argument("--append", type=Path, default=Path("seen.jsonl"))
    commands.add_parser("rates").add_argument("notes", type=Path)
    given = parser.parse_args()
    if given.command == "rates":
        print(json.dumps(rates(given.notes), indent=2))
        return
    pipe = Pipeline.from_pretrained()
    if given.command == "draw":
        result = draw(pipe, given.count, given.strength, given.output)
    elif given.command == "measure":
        result = measure(pipe, given.folder)
    else:
        pictures = Unmarked(given.sources)
        result = false_alarms(pipe, pictures, given.count, given.keys, given.searched, given.append)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
