"""What looking ahead does to a hole that is redrawn: how far from the original, and with what seam.

    python tests/benchmarks/lookahead.py FOLDER --holes 24 --sheet holes.png

`FOLDER` is what `examples/emoji/build_dataset.py` wrote. Of pictures that training has not seen, a
random part is redrawn with their own caption, and compared with the original as the VQGAN shows it:
the distance (1 - cosine) of EfficientNet-Lite0's features, and the contrast of pixels on both sides
of the hole's edge, over that of the original. It prints JSON and a table in Markdown.
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
from collections.abc import Sequence
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
from dallemini.sheets import make_grid

COUNTS = (1, 4, 16)
CAPTIONED = "test_style"  # known concepts in pictures that training has not seen


def read_pictures(folder: Path, count: int, seed: int) -> list[tuple[str, Image.Image]]:
    """Choose pictures with their captions."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == CAPTIONED]
    chosen = random.Random(seed).sample(rows, min(count, len(rows)))
    found = []
    for row in chosen:
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
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Redraw a hole of each picture with each number of candidates."""
    chance, shown = random.Random(seed), list[Image.Image]()
    found: dict[int, dict[str, list[float]]] = {
        count: {"distance": [], "seam": [], "seconds": []} for count in counts
    }
    side = round(pipe.transformer.config.image_length**0.5)
    for number, (caption, picture) in enumerate(pictures):
        tokens = pipe.vqgan.encode(image_to_tensor(picture)[None])
        original = pipe.vqgan.decode(tokens)[0]
        background = tokens[0].mode().values
        hole = choose_hole((tokens[0] == background).view(side, side).numpy(), chance)
        unit = picture.width // side
        pixels = torch.from_numpy(hole).repeat_interleave(unit, 0).repeat_interleave(unit, 1)
        mask = Image.fromarray(pixels.numpy())
        shown += [picture, Image.composite(Image.new("RGB", picture.size, "gray"), picture, mask)]
        for count in counts:
            started = time.perf_counter()
            out = pipe.inpaint(
                caption, picture, mask, lookahead=count, seed=number, paste=False, progress=False
            )
            found[count]["seconds"].append(time.perf_counter() - started)
            drawn = image_to_tensor(out.images[0])
            features = space(torch.stack([original, drawn]))
            distance = 1 - F.cosine_similarity(features[0], features[1], dim=0)
            found[count]["distance"].append(float(distance))
            found[count]["seam"].append(seam(drawn, pixels) / max(seam(original, pixels), 1e-3))
            shown.append(out.images[0])
        last = {
            count: {name: values[-1] for name, values in found[count].items()} for count in found
        }
        print(json.dumps({"hole": number, "caption": caption, **last}), file=sys.stderr, flush=True)
    return {"holes": len(pictures), "lookahead": summarise(found)}, shown


def summarise(found: dict[int, dict[str, list[float]]]) -> dict[str, Any]:
    """Return medians and quartiles, and how often each number beats the first."""
    first = found[min(found)]
    return {
        str(count): {
            name: {
                "median": statistics.median(values),
                "quartiles": statistics.quantiles(values, n=4)[::2],
                "better": sum(a < b for a, b in zip(values, first[name], strict=True))
                / len(values),
            }
            for name, values in measures.items()
        }
        for count, measures in found.items()
    }


def table(report: dict[str, Any]) -> str:
    """Write a report as a table in Markdown."""
    lines = [
        "| lookahead | feature distance | closer than 1 | seam over the original's | seconds |",
        "|---|---|---|---|---|",
    ]
    for count, row in report["lookahead"].items():
        distance, edge = row["distance"], row["seam"]
        low, high = distance["quartiles"]
        cells = [
            count,
            f"{distance['median']:.3f} ({low:.3f} to {high:.3f})",
            "" if count == "1" else f"{distance['better']:.0%}",
            "{:.2f} ({:.2f} to {:.2f})".format(edge["median"], *edge["quartiles"]),
            f"{row['seconds']['median']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """Measure, and print JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--holes", type=int, default=24)
    parser.add_argument("--lookahead", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(argv)
    pipe = Pipeline.from_pretrained()
    pictures = read_pictures(options.folder, options.holes, options.seed)
    space = feature_space("efficientnet-lite0")
    report, shown = measure(pipe, pictures, space, counts=options.lookahead, seed=options.seed)
    report |= {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    report |= {"load": os.getloadavg()[0], "features": space.name}
    if options.sheet:
        make_grid(shown, columns=2 + len(options.lookahead)).save(options.sheet)
    print(json.dumps(report, indent=1))
    print(table(report))


if __name__ == "__main__":
    main(sys.argv[1:])
