"""How well the mark in the tokens is found, what it costs, and how often it is seen where none is.

    python tests/benchmarks/watermark.py draw --count 320 --output marks
    python tests/benchmarks/watermark.py measure marks
    python tests/benchmarks/watermark.py misread --count 16
    python tests/benchmarks/watermark.py false-alarms PICTURES... --count 2500 --append seen.jsonl
    python tests/benchmarks/watermark.py rates seen.jsonl

`draw` makes pictures with and without the mark, from the same prompts and seeds; with `--side 16`
they are canvases of 16x16 tokens. `measure` reads them back after what happens to pictures;
`misread` counts tokens that are read otherwise. `false-alarms` looks for many keys in pictures
without a mark, and notes the p-values: arrays u8[N,H,W,3] or, premultiplied by their alpha,
u8[N,H,W,4] in .npy files, and folders of PNG files. Pictures with alpha come again on other
backgrounds when all were seen. `draw`, `measure` and `false-alarms` note what they did, and go on
where the notes end, so that they can be run in pieces; `rates` counts false alarms. Every command
prints JSON. What the mark does to 256 tokens is in `watermark_tokens.py`.
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
from dallemini.images import image_to_tensor, open_image
from dallemini.pipeline.detecting import codebook_of, known_groups, look_for
from dallemini.pipeline.enlarging import enlarge
from dallemini.sheets import make_grid

ALPHA = 1e-3
POOLED = 4
UPSCALED = "upscaled 4 times"
Picture = Image.Image
PROMPTS = (
    *("red apple", "rocket", "a blue bird", "house", "a cat with a hat", "pizza", "tree", "dog"),
    *("a yellow car", "heart", "grinning face", "fish", "sun", "a green book", "train", "flower"),
    *("a slice of cake", "guitar", "a snowman in winter", "umbrella", "an owl", "mushroom"),
    *("a castle", "a bunch of grapes", "crab", "lighthouse", "the moon at night", "banana"),
    *("a red bus", "frog", "a cup of hot coffee", "camera", "volcano", "a purple butterfly"),
    *("elephant", "sailing boat", "a strawberry on a blue background", "robot", "ice cream"),
    *("a farmer", "bicycle", "a sleeping face", "key", "dragon", "a bowl of soup", "penguin"),
    *("a black hat", "drum", "an orange fox", "wrapped present", "police officer", "cactus"),
    *("a pair of scissors", "whale", "a burning candle", "turtle", "hamburger", "clock"),
    *("a person running", "airplane", "rainbow", "a wooden chair", "octopus", "sunflower"),
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


def enlarged_crop(picture: Picture) -> Picture:
    """A crop that nobody can tell from a picture drawn at this size."""
    return cropped(picture).resize(picture.size, Image.Resampling.BICUBIC)


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
    "cropped by 5 % and scaled up again": enlarged_crop,
    "blurred, radius 1": lambda picture: picture.filter(ImageFilter.GaussianBlur(1)),
    "noise, 8 of 255": noisy,
    "125 % and JPEG 85": screenshot,
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def key_of(number: int) -> str:
    """Pictures that are pooled have one key; otherwise each has another, for keys differ too."""
    return f"key {number // POOLED}"


def draw(pipe: Any, count: int, strength: float, side: int | None, folder: Path) -> Any:
    """Draw `count` pictures twice, four at a time, one candidate each; say what the mark costs."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = Notes(folder / "costs.jsonl")
    size = None if side is None else side * pipe.vqgan.token_size
    asked = {"candidates": 1} | ({} if size is None else {"width": size, "height": size})
    done = {(row["kind"], row["start"]) for row in notes.rows}
    starts = range(0, count, POOLED)
    for kind, start in [(kind, start) for kind in ("marked", "plain") for start in starts]:
        if (kind, start) in done:
            continue
        part = range(start, min(start + POOLED, count))
        prompts = [PROMPTS[number % len(PROMPTS)] for number in part]
        mark = Watermark(key_of(start), strength=strength) if kind == "marked" else None
        out = pipe(prompts, seed=100 * start, watermark=mark, progress=False, **asked)
        for number, image in zip(part, out.images, strict=True):
            image.save(folder / f"{kind}-{number:04d}.png")
        pixels = torch.stack([image_to_tensor(image) for image in out.images])
        found = retrieved(pipe, pixels, prompts)
        lengths = bits(pipe, prompts, out.image_tokens) if size is None else []
        notes.add({"kind": kind, "start": start, "found": found, "bits": lengths})
    side_by_side(folder, range(0, min(count, 24), 2)).save(folder / "sheet.png")
    return {"machine": platform.machine(), "torch": torch.__version__, **costs(notes.rows)}


def side_by_side(folder: Path, numbers: Sequence[int]) -> Picture:
    """Return pictures without the mark, and below them those with it."""
    kinds = ("plain", "marked")
    paths = [folder / f"{kind}-{number:04d}.png" for kind in kinds for number in numbers]
    return make_grid([read_rgb(path).resize((128, 128)) for path in paths], columns=len(numbers))


class Notes:
    """A file with a line of JSON for everything that was done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self._path.open("a") as file:
            print(json.dumps(row), file=file)


def costs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what a token of each kind costs, and how often CLIP finds the prompt."""
    result: dict[str, Any] = {}
    for kind in ("plain", "marked"):
        mine = [row for row in rows if row["kind"] == kind]
        found = [value for row in mine for value in row["found"]]
        lengths = [value for row in mine for value in row["bits"]]
        result[kind] = {
            "pictures": len(found),
            "bits per token, by the model without the mark": mean_of(lengths),
            f"prompt found among {len(PROMPTS)} by CLIP": share(found) if found else None,
        }
    return result


def mean_of(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    spread = float(np.std(values)) * 1.96 / len(values) ** 0.5
    middle = float(np.mean(values))
    return {"mean": round(middle, 3), "interval": [round(middle + s * spread, 3) for s in (-1, 1)]}


@torch.no_grad()
def retrieved(pipe: Any, pixels: torch.Tensor, asked: list[str]) -> list[bool]:
    """Tell for each picture whether CLIP scores its own prompt highest among all."""
    words = torch.nn.functional.normalize(pipe.scorer.encode_prompts(PROMPTS), dim=-1)
    best = (pipe.scorer.encode_images(pixels) @ words.T).argmax(1).tolist()
    return [PROMPTS[index] == prompt for index, prompt in zip(best, asked, strict=True)]


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


def measure(pipe: Pipeline, folder: Path, slow: int) -> dict[str, Any]:
    """Look for the mark in what `draw` drew, after each fate, alone and pooled.

    Where a picture keeps its grid, twice the p-value without the search is counted: the search
    finds no less. The first `slow` pictures are cropped and upscaled, which takes seconds each.
    """
    paths = sorted(folder.glob("marked-*.png"))
    side = read_rgb(paths[0]).width
    notes = Notes(folder / "found.jsonl")
    done = {row["fate"] for row in notes.rows}
    fates = FATES | {UPSCALED: lambda picture: enlarge(picture, pipe.upscaler, 4)}
    for name in (name for name in fates if name not in done):
        search = name.startswith("cropped")
        chosen = paths[:slow] if search or name == UPSCALED else paths
        tensors = [image_to_tensor(fates[name](read_rgb(path))) for path in chosen]
        starts = range(0, len(tensors) - POOLED + 1, POOLED)
        parts = {
            "one picture": [(n, tensors[n : n + 1]) for n in range(len(tensors))],
            f"{POOLED} pictures": [(n, tensors[n : n + POOLED]) for n in starts],
        }
        values = {
            kind: [p_value(pipe.vqgan, part, number, side, search=search) for number, part in every]
            for kind, every in parts.items()
        }
        notes.add({"fate": name, "p": values})
        print(name, json.dumps(told(values)), flush=True)
    found = {row["fate"]: told(row["p"]) for row in notes.rows}
    return {"false alarms wanted": ALPHA, "pictures": len(paths), "found": found}


def read_rgb(path: Path) -> Picture:
    return open_image(path)


def p_value(vqgan: Any, part: list[torch.Tensor], number: int, side: int, *, search: bool) -> float:
    found = look_for(part, Watermark(key_of(number)), codebook_of(vqgan), search=search, side=side)
    return found.p_value * (1 if search else 2)


def told(values: dict[str, list[float]]) -> dict[str, Any]:
    """Return for each way of looking how many were found, and the p-value of the middle one."""
    return {
        kind: {**share([value < ALPHA for value in every]), "median p": float(np.median(every))}
        for kind, every in values.items()
    }


@torch.no_grad()
def misread(pipe: Any, count: int) -> dict[str, Any]:
    """Draw pictures, and say how many of their tokens are read otherwise after a fate."""
    vqgan, asked = pipe.vqgan, [PROMPTS[number % len(PROMPTS)] for number in range(count)]
    out = pipe(asked, seed=0, watermark=Watermark("misread"), candidates=1, progress=False)
    groups = known_groups(codebook_of(vqgan))
    found: dict[str, Any] = {"pictures": count}
    for name in ("nothing", "JPEG 75", "JPEG 50", "resized to 50 %"):
        changed = [FATES[name](image).resize(image.size) for image in out.images]
        pixels = torch.stack([image_to_tensor(image) for image in changed])
        read, drawn = vqgan.encode(vqgan.shrink(pixels)), out.image_tokens
        moved = (groups.pairs[read] != groups.pairs[drawn]) | (
            groups.sides[read] != groups.sides[drawn]
        )
        shares = {"another code": read != drawn, "of another group": moved}
        found[name] = {
            what: round(float(wrong.double().mean()), 3) for what, wrong in shares.items()
        }
    return found


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
            return image_to_tensor(read_rgb(self._files[index]))
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


def false_alarms(pipe: Any, pictures: Unmarked, given: argparse.Namespace) -> dict[str, Any]:
    """Look at the next unmarked pictures with many keys, and search every `searched`-th whole."""
    groups, side = known_groups(codebook_of(pipe.vqgan)), round(pipe.vqgan.image_length**0.5)
    favoured = [Watermark(f"false alarm {n}").favours(groups) for n in range(given.keys)]
    notes = given.append
    start = len(notes.read_text().splitlines()) if notes.exists() else 0
    with notes.open("a") as file, torch.no_grad():
        for number in range(given.first + start, given.first + start + given.count):
            picture = pictures[number]
            codes = pipe.vqgan.encode(pipe.vqgan.shrink(picture[None])).view(side, -1)
            found = [weigh_evidence([codes], groups, one)[0].p_value for one in favoured]
            noted: dict[str, Any] = {"p": found}
            if number % given.searched == 0:  # 17 times as slow
                mark = Watermark(f"false alarm {number}")
                noted["searched"] = look_for([picture], mark, codebook_of(pipe.vqgan)).p_value
            print(json.dumps(noted), file=file)
    return {"pictures so far": start + given.count}


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
    one.add_argument("--side", type=int, help="tokens of a canvas; the model's own when not given")
    one.add_argument("--output", type=Path, default=Path("marks"))
    one = commands.add_parser("measure")
    one.add_argument("folder", type=Path)
    one.add_argument("--slow", type=int, default=64, help="pictures that are cropped and upscaled")
    one = commands.add_parser("misread")
    one.add_argument("--count", type=int, default=16)
    one = commands.add_parser("false-alarms")
    one.add_argument("sources", type=Path, nargs="+")
    one.add_argument("--count", type=int, default=500)
    one.add_argument("--first", type=int, default=0, help="number of the first picture")
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
        result = draw(pipe, given.count, given.strength, given.side, given.output)
    elif given.command == "measure":
        result = measure(pipe, given.folder, given.slow)
    elif given.command == "misread":
        result = misread(pipe, given.count)
    else:
        result = false_alarms(pipe, Unmarked(given.sources), given)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
