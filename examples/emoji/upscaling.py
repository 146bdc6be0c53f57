"""Measure upscalers: held-out emoji or photographs, made four times smaller and enlarged again.

    python examples/emoji/upscaling.py --packages PACKAGES [--pictures 12] [--sheet FILE]
    python examples/emoji/upscaling.py --photographs FILE ... [--models NAME ...] [--sheet FILE]

PACKAGES is the folder of npm tarballs of build_dataset.py; each drawing is rendered at 640 pixels,
on white. Pictures are shrunk by their means, which is what the enlarged ones are made from. Printed
as Markdown, with 95 % intervals over the pictures: PSNR against the original, the distance in the
features of EfficientNet-Lite0, how sharp edges are (1 is as sharp as the original's), and the
processor's seconds for each picture.
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
from dallemini.evaluation import mean_interval, psnr
from dallemini.evaluation.efficientnet import EfficientNetFeatures
from dallemini.images import image_to_tensor, open_image
from dallemini.pipeline import enlarge
from dallemini.sheets import make_grid
from emoji_sources import COLOUR, NOTO

SIZE, FACTOR = 160, 4
SHOWN = 320  # pixels along a side of the middle of each picture, on the sheet
MODELS = ["realesr-animevideov3", "RealESRGAN_x4plus_anime_6B", "RealESRGAN_x4plus"]
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


def photographs(files: Sequence[Path]) -> list[Image.Image]:
    """Open photographs, their sides cut to multiples of the factor."""
    found = []
    for file in files:
        picture = open_image(file)
        width, height = (side // FACTOR * FACTOR for side in picture.size)
        found.append(picture.crop((0, 0, width, height)))
    return found


def middle(picture: Image.Image) -> Image.Image:
    """Return what the sheet shows of a picture."""
    left, top = ((side - SHOWN) // 2 for side in picture.size)
    return picture.crop((left, top, left + SHOWN, top + SHOWN))


def resized(filter_: Image.Resampling) -> Enlarger:
    """Enlarge by a filter, without a network."""
    return lambda one: one.resize((one.width * FACTOR, one.height * FACTOR), filter_)


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
) -> tuple[Tensor, float, list[Image.Image]]:
    """Return f64[3,N] of N pictures, the seconds of each, and what was made of them."""
    start = time.process_time()
    made = [enlarger(picture) for picture in small]
    seconds = (time.process_time() - start) / len(small)
    rows = []
    for one, other in zip(made, real, strict=True):
        drawn, wanted = image_to_tensor(one)[None], image_to_tensor(other)[None]
        distance = 1 - F.cosine_similarity(eye.pooled(drawn), eye.pooled(wanted)).item()
        sharpness = steepness(drawn) / steepness(wanted)
        rows.append([psnr(wanted, drawn).item(), distance, sharpness])
    return torch.tensor(rows, dtype=torch.float64).T, seconds, made


def cell(values: Tensor, digits: int) -> str:
    """Write a mean with its interval."""
    found = mean_interval(values)
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and save the sheet where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--packages", type=Path)
    source.add_argument("--photographs", type=Path, nargs="+")
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)
    if options.photographs:
        real = photographs(options.photographs)
    else:
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
        (decibels, distance, sharpness), seconds, made = measure(enlarger, small, real, eye)
        cells = [cell(decibels, 1), cell(distance, 3), cell(sharpness, 2), f"{seconds:.2f}"]
        print(f"| {' | '.join([name, *cells])} |", flush=True)
        sheet.append(middle(made[0]))
    if options.sheet is not None:
        make_grid([*sheet[1:], middle(real[0])], columns=len(sheet)).save(options.sheet)


if __name__ == "__main__":
    main()
