"""Draw on pictures that are there: redraw a part, vary, go on beyond the edges, repeat.

    python examples/editing.py [FOLDER] [COUNT]

writes a sheet of each kind, at half its size, with so many pictures. `docs/images/edit-*.png` are
its sheets of 3.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from dallemini import Pipeline
from dallemini.generation import GenerationOverrides
from dallemini.sheets import make_grid


def around(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a mask that is white in a box of the picture."""
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def repeat(tile: Image.Image) -> Image.Image:
    """Lay a picture out twice in both directions, without a gap."""
    wall = Image.new("RGB", (2 * tile.width, 2 * tile.height))
    for left in (0, tile.width):
        for top in (0, tile.height):
            wall.paste(tile, (left, top))
    return wall


def main(folder: Path, count: int) -> None:
    """Draw a sheet of each kind."""
    pipe = Pipeline.from_pretrained()
    settings: GenerationOverrides = {"num_images_per_prompt": count, "seed": 1}
    blind: GenerationOverrides = {**settings, "lookahead": 1}
    farsighted: GenerationOverrides = {**settings, "lookahead": 16}
    wide: GenerationOverrides = {**settings, "width": 640}
    tiled: GenerationOverrides = {**settings, "tile": True}
    apple = pipe("a red apple", seed=3, candidates=4).images[0]
    small = Image.new("RGB", apple.size, "white")
    small.paste(apple.resize((192, 192)), (64, 64))
    mask, middle = around(small, (32, 32, 287, 287)), around(apple, (96, 96, 223, 223))
    sheets: dict[str, Callable[[], list[Image.Image]]] = {
        "inpaint": lambda: [
            small,
            mask.convert("RGB"),
            *pipe.inpaint("a green apple", small, mask, **settings).images,
        ],
        "lookahead": lambda: [
            apple,
            middle.convert("RGB"),
            *pipe.inpaint("a green apple", apple, middle, **blind).images,
            *pipe.inpaint("a green apple", apple, middle, **farsighted).images,
        ],
        "vary": lambda: [apple, *pipe.vary(apple, "a red apple", strength=0.4, **settings).images],
        "start": lambda: [apple, *pipe("a red apple", start_image=apple, **settings).images],
        "outpaint": lambda: [
            apple,
            *pipe.outpaint(apple, "a red apple", left=160, right=160, **settings).images,
        ],
        "panorama": lambda: pipe("snowy mountain", **wide).images,
        "tile": lambda: [repeat(tile) for tile in pipe("flowers", **tiled).images],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in sheets.items():
        pictures = draw()
        path = folder / f"edit-{name}.png"
        columns = 1 if name == "panorama" else len(pictures)
        make_grid(pictures, columns=columns).reduce(2).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "edited")
    main(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 3)
