"""Draw the README's grid of ten prompts with the bundled model, best of eight by CLIP.

    python examples/emoji/draw_grid.py GRID.png [--model MODEL] [--seed 0]

Two rows of five, each picture with its prompt below it; nothing is picked by hand.
"""

from __future__ import annotations

import argparse

from PIL import Image, ImageDraw, ImageFont

from dallemini import Pipeline

PROMPTS = (
    "red apple",
    "cat face",
    "rocket",
    "umbrella",
    "sunflower",
    "pizza",
    "blue heart",
    "guitar",
    "snowman",
    "hamburger",
)
SIDE = 192
CAPTION = 30
GAP = 12


def labelled(image: Image.Image, prompt: str) -> Image.Image:
    """Return the picture enlarged on a white tile, with its prompt below."""
    tile = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    tile.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    place = (SIDE / 2, SIDE + CAPTION / 2)
    ImageDraw.Draw(tile).text(
        place, prompt, fill="black", anchor="mm", font=ImageFont.load_default(size=16)
    )
    return tile


def main() -> None:
    """Read the arguments, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(*([arguments.model] if arguments.model else []))
    out = pipe(PROMPTS, num_images_per_prompt=8, rank=True, seed=arguments.seed)
    tiles = [labelled(image, text) for image, text in zip(out.best(), PROMPTS, strict=True)]
    sheet = Image.new("RGB", (5 * (SIDE + GAP) + GAP, 2 * (SIDE + CAPTION + GAP) + GAP), "white")
    for number, tile in enumerate(tiles):
        column, row = number % 5, number // 5
        sheet.paste(tile, (GAP + column * (SIDE + GAP), GAP + row * (SIDE + CAPTION + GAP)))
    sheet.save(arguments.output)


if __name__ == "__main__":
    main()
