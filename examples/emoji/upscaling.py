"""Measure upscalers: held-out emoji at 160 pixels, enlarged four times, beside the drawing at 640.

    python examples/emoji/upscaling.py PACKAGES [--pictures 12] [--models NAME ...] [--sheet FILE]

PACKAGES is the folder of npm tarballs of build_dataset.py. Each drawing is rendered at 640 pixels,
on white, and shrunk to 160 by its means, which is what the enlarged pictures are made from. Printed
as Markdown: PSNR against the rendering, the distance in the features of EfficientNet-Lite0, how
sharp edges are (1 is as sharp as the rendering's), and seconds of one core for each picture.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from build_dataset import Drawing, Sources, render, split_of
from dallemini import Upscaler
from dallemini.evaluation import psnr
from dallemini.evaluation.efficientnet import EfficientNetFeatures
from dallemini.images import image_to_tensor
from dallemini.pipeline import enlarge
from dallemini.sheets import make_grid
from emoji_sources import COLOUR, NOTO

SIZE, FACTOR = 160, 4
MIDDLE = (160, 160, 480, 480)  # what the sheet shows of each picture
Enlarger = Callable[[Image.Image], Image.Image]


def renderings(packages: Path, count: int) -> list[Image.Image]:
    """Render drawings of concepts that no part was trained on, of two artists in turn."""
    sources, found = Sources(packages), []
    with tempfile.TemporaryDirectory() as folder:
        for emoji_set in (NOTO, COLOUR):
            drawings = [
                source
                for concept, source in sources.drawings(emoji_set)
                if split_of(concept.hex, emoji_set.name) == "test_concept"
            ]
            step = max(1, 2 * len(drawings) // count)
            for source in drawings[::step][: -(-count // 2)]:
                file = Path(folder, "drawing.png")
                render(Drawing(source=source, file=file, size=SIZE * FACTOR))
                found.append(image_to_tensor(Image.open(file)))
    pictures = [(pixels * 255).round().to(torch.uint8).permute(1, 2, 0) for pixels in found[:count]]
    return [Image.fromarray(levels.numpy()) for levels in pictures]


def resized(filter_: Image.Resampling) -> Enlarger:
    """Enlarge by a filter, without a network."""
    return lambda picture: picture.resize((SIZE * FACTOR, SIZE * FACTOR), filter_)


def by_model(name: str) -> Enlarger:
    """Enlarge by a released network."""
    upscaler = Upscaler.from_pretrained(name)
    return lambda picture: enlarge(picture, upscaler, FACTOR)


def steepness(pixels: Tensor) -> float:
    """Return the mean of the steepest hundredth of the differences between neighbours."""
    differences = torch.cat([pixels.diff(dim=-1).flatten(), pixels.diff(dim=-2).flatten()]).abs()
    return float(differences.topk(differences.numel() // 100).values.mean())


@torch.no_grad()
def measure(
    enlarger: Enlarger,
    small: Sequence[Image.Image],
    real: Sequence[Image.Image],
    eye: EfficientNetFeatures,
) -> tuple[list[float], list[Image.Image]]:
    """Return the means over all pictures, and what was made of them."""
    start = time.process_time()
    made = [enlarger(picture) for picture in small]
    seconds = (time.process_time() - start) / len(small)
    rows = []
    for one, other in zip(made, real, strict=True):
        drawn, wanted = image_to_tensor(one)[None], image_to_tensor(other)[None]
        distance = 1 - F.cosine_similarity(eye.pooled(drawn), eye.pooled(wanted)).item()
        sharpness = steepness(drawn) / steepness(wanted)
        rows.append([psnr(wanted, drawn).item(), distance, sharpness])
    means = torch.tensor(rows, dtype=torch.float64).mean(dim=0).tolist()
    return [*means, seconds], made


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and save the sheet where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--models", nargs="*", default=["realesr-animevideov3"])
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)
    real = renderings(options.packages, options.pictures)
    small = [picture.reduce(FACTOR) for picture in real]
    enlargers = {
        "nearest": resized(Image.Resampling.NEAREST),
        "bicubic": resized(Image.Resampling.BICUBIC),
        "Lanczos": resized(Image.Resampling.LANCZOS),
        **{name: by_model(name) for name in options.models},
    }
    eye, sheet = EfficientNetFeatures(), []
    print("| method | PSNR, dB | feature distance | sharpness | seconds |\n|---|---|---|---|---|")
    for name, enlarger in enlargers.items():
        (decibels, distance, sharpness, seconds), made = measure(enlarger, small, real, eye)
        print(
            f"| {name} | {decibels:.2f} | {distance:.4f} | {sharpness:.2f} | {seconds:.2f} |",
            flush=True,
        )
        sheet.append(made[0].crop(MIDDLE))
    if options.sheet is not None:
        make_grid([*sheet[1:], real[0].crop(MIDDLE)], columns=len(sheet)).save(options.sheet)


if __name__ == "__main__":
    main()
