"""How well the mark in the tokens is found, what it costs, and how often it is seen where none is.

    python tests/benchmarks/watermark.py draw --count 32 --output marks
    python tests/benchmarks/watermark.py measure marks
    python tests/benchmarks/watermark.py false-alarms PICTURES --count 500

`draw` makes pictures with and without the mark, from the same prompts and seeds. `measure` reads
them back after what happens to pictures. `false-alarms` counts real pictures without a mark: an
array u8[N,H,W,3] in a .npy file, or a folder. Every command prints JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from dallemini import Pipeline, Watermark
from dallemini.evaluation.metrics import wilson_interval
from dallemini.images import image_to_tensor
from dallemini.pipeline.detecting import codebook_of, known_groups, look_for

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
            out = pipe(asked, seed=list(part), watermark=mark, progress=False)
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
    for name, change in FATES.items():
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


def real_pictures(source: Path, count: int) -> Iterator[torch.Tensor]:
    if source.suffix == ".npy":
        array = np.load(source, mmap_mode="r")
        step = max(1, len(array) // count)
        for row in array[::step][:count]:
            yield image_to_tensor(Image.fromarray(np.ascontiguousarray(row)))
    else:
        for path in sorted(source.rglob("*.png"))[:count]:
            yield image_to_tensor(Image.open(path))


def false_alarms(pipe: Pipeline, source: Path, count: int, keys: int) -> dict[str, Any]:
    """Look at unmarked pictures with many keys each, of the grid as it is and of the whole test."""
    from dallemini.generation.watermark import weigh_evidence

    groups = known_groups(codebook_of(pipe.vqgan))
    favoured = [Watermark(f"false alarm {n}").favours(groups) for n in range(keys)]
    aligned = np.zeros((keys, 0))
    whole: list[float] = []
    side = round(pipe.vqgan.image_length**0.5)
    for number, picture in enumerate(real_pictures(source, count)):
        codes = pipe.vqgan.encode(picture[None]).view(side, -1)
        values = [weigh_evidence([codes], groups, one)[0].p_value for one in favoured]
        aligned = np.concatenate([aligned, np.array(values)[:, None]], axis=1)
        if number < count // 10:  # 17 times as slow
            mark = Watermark(f"false alarm {number}")
            whole.append(look_for([picture], mark, codebook_of(pipe.vqgan)).p_value)
    each = (aligned < ALPHA).mean(axis=1)
    return {
        "pictures": aligned.shape[1],
        "keys": keys,
        "below 0.001, the grid as it is": {
            "all": float((aligned < ALPHA).mean()),
            "tests": aligned.size,
            "the worst key": float(each.max()),
        },
        "below 0.01": float((aligned < 0.01).mean()),
        "below 0.1": float((aligned < 0.1).mean()),
        "whole search": {
            "tests": len(whole),
            "below 0.1": float(np.mean(np.array(whole) < 0.1)),
            "below 0.01": float(np.mean(np.array(whole) < 0.01)),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("draw")
    one.add_argument("--count", type=int, default=32)
    one.add_argument("--strength", type=float, default=6.0)
    one.add_argument("--output", type=Path, default=Path("marks"))
    commands.add_parser("measure").add_argument("folder", type=Path)
    one = commands.add_parser("false-alarms")
    one.add_argument("source", type=Path)
    one.add_argument("--count", type=int, default=500)
    one.add_argument("--keys", type=int, default=20)
    given = parser.parse_args()
    pipe = Pipeline.from_pretrained()
    if given.command == "draw":
        result = draw(pipe, given.count, given.strength, given.output)
    elif given.command == "measure":
        result = measure(pipe, given.folder)
    else:
        result = false_alarms(pipe, given.source, given.count, given.keys)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
