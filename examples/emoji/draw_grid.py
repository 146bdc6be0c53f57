"""Draw the README's grid with the bundled model, or a sheet of sentences that nobody trained on.

    python examples/emoji/draw_grid.py GRID.png [--model MODEL] [--seed 0]
    python examples/emoji/draw_grid.py SHEET.png --sentences 40
    python examples/emoji/draw_grid.py CONTROL.png --control

One picture a prompt with the default settings, prompt n with seed + n; nothing is picked by hand.
The sentences are chosen by chance among those of the split "test" of `phrases.jsonl`.
"""

from __future__ import annotations

import argparse
import random
import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from build_dataset import split_of
from captions import read_phrases
from dallemini import Pipeline

PROMPTS = (
    "a slice of pizza",
    "a kitten",
    "draw me a snowman",
    "a pair of scissors",
    "a fire truck",
    "an old wooden chair",
    "a light bulb that is on",
    "a cat and a red apple",
    "a rocket on a blue background",
    "a cup of coffee",
)
CONTROL = (
    "a green apple",
    "a blue car",
    "a purple cat",
    "a sunflower on a blue background",
    "a tiny rocket",
    "two dogs",
    "three strawberries",
    "a star above a house",
    "a fish, black and white",
    "a fish, pixel art",
)
SIDE = 160
CAPTION = 40
GAP = 8


def sentences(count: int) -> list[str]:
    """Choose sentences that no training saw, each of another concept that it did see."""
    rng, known = random.Random(40), read_phrases("test").items()
    phrases = [texts for code, texts in known if texts and split_of(code, "") != "test_concept"]
    return [rng.choice(texts) for texts in rng.sample(phrases, count)]


def labelled(image: Image.Image, prompt: str) -> Image.Image:
    """Return the picture on a white tile, with its prompt below in two lines."""
    tile = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    tile.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    ImageDraw.Draw(tile).multiline_text(
        (SIDE / 2, SIDE + CAPTION / 2),
        textwrap.fill(prompt, 24),
        fill="black",
        anchor="mm",
        align="center",
        font=ImageFont.load_default(size=12),
    )
    return tile


def sheet(pipe: Pipeline, prompts: Sequence[str], *, seed: int, columns: int) -> Image.Image:
    """Draw one picture a prompt and put them in rows."""
    rows = -(-len(prompts) // columns)
    size = (columns * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP)
    drawn = Image.new("RGB", size, "white")
    for number, prompt in enumerate(prompts):
        image = pipe(prompt, seed=seed + number, progress=False).images[0]
        row, column = divmod(number, columns)
        place = (GAP + column * (SIDE + GAP), GAP + row * (SIDE + CAPTION + GAP))
        drawn.paste(labelled(image, prompt), place)
    return drawn


def main() -> None:
    """Read the arguments, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sentences", type=int, help="draw so many unseen sentences instead")
    parser.add_argument("--control", action="store_true", help="draw colours, numbers, places")
    arguments = parser.parse_args()
    pipe = Pipeline.from_pretrained(*([arguments.model] if arguments.model else []))
    prompts = sentences(arguments.sentences) if arguments.sentences else PROMPTS
    prompts = CONTROL if arguments.control else prompts
    columns = 8 if arguments.sentences else 5
    sheet(pipe, prompts, seed=arguments.seed, columns=columns).save(arguments.output)


if __name__ == "__main__":
    main()
