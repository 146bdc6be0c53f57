"""What looking ahead does to a hole that is redrawn: how far from the original, and with what seam.

    python tests/benchmarks/lookahead.py FOLDER --holes 48 --record holes.jsonl --sheet holes.png

`FOLDER` is what `examples/emoji/build_dataset.py` wrote. Of pictures that training has not seen, a
random part is redrawn with their own caption, and compared with the original as the VQGAN shows it:
the distance (1 - cosine) of EfficientNet-Lite0's features, and the contrast of pixels on both sides
of the hole's edge, over that of the original. One picture is drawn for each hole, no candidates.
It prints JSON and a table in Markdown, with intervals of 95 % from resampled holes. Holes that the
record has are not drawn again, so that it may be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dallemini import Pipeline
from dallemini.evaluation.features import FeatureSpace, feature_space
from dallemini.images import image_to_tensor
from dallemini.pipeline.pixels import encode_pictures
from dallemini.sheets import make_grid

COUNTS = (1, 4, 8, 16)
MEASURES = ("distance", "seam", "seconds")
CAPTIONED = "test_style"  # known concepts in pictures that training has not seen


def read_pictures(folder: Path, count: int, seed: int) -> list[tuple[str, Image.Image]]:
    """Choose pictures with their captions."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == CAPTIONED]
    random.Random(seed).shuffle(rows)  # so that fewer are the first ones of more
    found = []
    for row in rows[:count]:
        rgba = Image.open(folder / row["file"]).convert("RGBA")
        ground = Image.new("RGBA", rgba.size, "white")
        found.append((row["caption"], Image.alpha_composite(ground, rgba).convert("RGB")))
    return found


def choose_hole(blank: NDArray[np.bool_], chance: random.Random) -> NDArray[np.bool_]:
    """Choose a box of 3 to 6 tenths of the grid each way, within it, not on background alone."""
    height, width = blank.shape
    for _ in range(1000):
        rows, columns = (chance.randint(size * 3 // 10, size * 6 // 10) for size in blank.shape)
        top, left = chance.randint(1, height - rows - 1), chance.randint(1, width - columns - 1)
        hole = np.zeros_like(blank)
        hole[top : top + rows, left : left + columns] = True
        if blank[hole].mean() < 0.5:
            return hole
    return hole


def seam(pixels: Tensor, hole: Tensor) -> float:
    """Return the mean contrast of f[3,H,W] across the edges of a hole bool[H,W]."""
    down = (hole[1:] != hole[:-1]).expand(3, -1, -1)
    across = (hole[:, 1:] != hole[:, :-1]).expand(3, -1, -1)
    contrasts = [
        (pixels[:, 1:] - pixels[:, :-1])[down],
        (pixels[..., 1:] - pixels[..., :-1])[across],
    ]
    return float(torch.cat(contrasts).abs().mean())


def measure(
    pipe: Pipeline,
    pictures: Sequence[tuple[str, Image.Image]],
    space: FeatureSpace,
    *,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
    record: Path | None = None,
) -> tuple[list[dict[str, Any]], list[Image.Image]]:
    """Redraw a hole of each picture with each number of continuations.

    Args:
        pipe: draws.
        pictures: each with its caption.
        space: where distances are measured.
        counts: of continuations.
        seed: of the holes; each hole depends on it and its own number alone.
        record: a file of JSON lines; holes that it has are skipped, others are added.

    Returns:
        What was found for each hole, those of the record included; and pictures of the new ones.
    """
    known = [] if record is None or not record.exists() else _read(record)
    done, shown = {row["hole"] for row in known}, list[Image.Image]()
    for number, (caption, picture) in enumerate(pictures):
        if number in done:
            continue
        row, drawn = _measure_one(pipe, caption, picture, space, counts, seed, number)
        known.append(row)
        shown += drawn
        print(json.dumps(row), file=sys.stderr, flush=True)
        if record is not None:
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return known, shown


def _read(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def _measure_one(
    pipe: Pipeline,
    caption: str,
    picture: Image.Image,
    space: FeatureSpace,
    counts: Sequence[int],
    seed: int,
    number: int,
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Redraw one hole with each number of continuations."""
    side = round(pipe.transformer.config.image_length**0.5)
    tokens = encode_pictures(pipe.vqgan, image_to_tensor(picture)[None])
    original = pipe.vqgan.decode(tokens)[0]
    blank = (tokens[0] == tokens[0].mode().values).view(side, side).numpy()
    hole = choose_hole(blank, random.Random(f"{seed} {number}"))
    unit = picture.width // side
    pixels = torch.from_numpy(hole).repeat_interleave(unit, 0).repeat_interleave(unit, 1)
    mask = Image.fromarray(pixels.numpy())
    shown = [picture, Image.composite(Image.new("RGB", picture.size, "gray"), picture, mask)]
    row: dict[str, Any] = {"hole": number, "caption": caption, "lookahead": {}}
    edge = max(seam(original, pixels), 1e-3)
    for count in counts:
        started = time.process_time()
        out = pipe.inpaint(
            caption,
            picture,
            mask,
            lookahead=count,
            candidates=1,
            seed=number,
            paste=False,
            progress=False,
        )
        spent = time.process_time() - started
        drawn = image_to_tensor(out.images[0])
        features = space(torch.stack([original, drawn]))
        distance = 1 - F.cosine_similarity(features[0], features[1], dim=0)
        found = (float(distance), seam(drawn, pixels) / edge, spent)
        row["lookahead"][str(count)] = dict(zip(MEASURES, found, strict=True))
        shown.append(out.images[0])
    return row, shown


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and medians with intervals, and the differences from the smallest number."""
    counts = list(rows[0]["lookahead"])

    def values(count: str, measure: str) -> NDArray[np.float64]:
        return np.array([row["lookahead"][count][measure] for row in rows])

    report: dict[str, Any] = {}
    for count in counts:
        gain = values(count, "distance") - values(counts[0], "distance")
        report[count] = {
            "distance": interval(values(count, "distance"), np.mean),
            "from_first": interval(gain, np.mean),
            "closer": float((gain < 0).mean()),
            "equal": float((gain == 0).mean()),
            "seam": interval(values(count, "seam"), np.median),
            "seconds": statistics.median(values(count, "seconds")),
        }
    return {"holes": len(rows), "lookahead": report}


def interval(
    values: NDArray[np.float64], statistic: Callable[..., Any], *, times: int = 2000
) -> tuple[float, float, float]:
    """Return a statistic and its 95 % interval, by resampling (Efron 1979)."""
    chance = np.random.default_rng(0)
    drawn = statistic(chance.choice(values, (times, len(values))), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(statistic(values)), float(low), float(high)


def table(report: dict[str, Any]) -> str:
    """Write a report as a table in Markdown."""
    lines = [
        "| lookahead | feature distance | less 1's | closer, equal | seam over the original's "
        "| seconds |",
        "|---|---|---|---|---|---|",
    ]
    for number, (count, row) in enumerate(report["lookahead"].items()):
        cells = [
            count,
            "{:.3f} ({:.3f} to {:.3f})".format(*row["distance"]),
            "{:+.3f} ({:+.3f} to {:+.3f})".format(*row["from_first"]) if number else "",
            f"{row['closer']:.0%}, {row['equal']:.0%}" if number else "",
            "{:.2f} ({:.2f} to {:.2f})".format(*row["seam"]),
            f"{row['seconds']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measure, and print JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--holes", type=int, default=48)
    parser.add_argument("--lookahead", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(argv)
    pipe = Pipeline.from_pretrained()
    pictures = read_pictures(options.folder, options.holes, options.seed)
    space = feature_space("efficientnet-lite0")
    rows, shown = measure(
        pipe,
        pictures,
        space,
        counts=options.lookahead,
        seed=options.seed,
        record=options.record,
    )
    report = summarise(rows)
    report |= {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    report |= {"load": os.getloadavg()[0], "features": space.name}
    if options.sheet and shown:
        make_grid(shown, columns=2 + len(options.lookahead)).save(options.sheet)
    print(json.dumps(report, indent=1))
    print(table(report))


if __name__ == "__main__":
    main(sys.argv[1:])
