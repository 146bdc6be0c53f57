"""Steer with more than one sentence: lead away, mix, change guidance on the way, rank.

    python examples/guidance.py [FOLDER] [COUNT]

writes a sheet of each kind, at half its size, with so many pictures in a row, from the seeds 0, 1,
and so on. `docs/images/guidance-*.png` are its sheets of 5.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dallemini import Blend, Pipeline
from dallemini.sheets import make_grid

CAT, DOG = "a cat", "a dog"
CROSS = Blend({CAT: 0.6, DOG: 0.4})
# By sheet, by what is written above a row: a prompt and the settings.
SHEETS: dict[str, dict[str, tuple[str | Blend, dict[str, Any]]]] = {
    "negative": {
        "an apple": ("an apple", {"guidance_scale": 3}),
        'an apple, not "red"': ("an apple", {"guidance_scale": 3, "negative_prompt": "red"}),
        'an apple, not "green"': ("an apple", {"guidance_scale": 3, "negative_prompt": "green"}),
    },
    "blend": {
        CAT: (CAT, {"guidance_scale": 2}),
        str(CROSS): (CROSS, {"guidance_scale": 2}),
        DOG: (DOG, {"guidance_scale": 2}),
    },
    "schedule": {
        f"guidance {scale}": ("a blue car", {"guidance_scale": scale})
        for scale in (1.0, 4.0, (4.0, 1.0), (1.0, 4.0))
    },
    "ranking": {
        f"by the {rank}, the best first": ("a slice of pizza", {"rank": rank})
        for rank in ("scorer", "likelihood")
    },
}


def main(folder: Path, count: int) -> None:
    """Draw a sheet of each kind."""
    pipe = Pipeline.from_pretrained()
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in SHEETS.items():
        pictures = [
            picture
            for prompt, settings in rows.values()
            for picture in pipe(
                prompt, num_images_per_prompt=count, candidates=1, seed=0, **settings
            ).images
        ]
        captions = {row * count: text for row, text in enumerate(rows)}
        halves = [picture.reduce(2) for picture in pictures]
        path = folder / f"guidance-{name}.png"
        sheet = make_grid(halves, columns=count, captions=captions)
        sheet.quantize(256, kmeans=3).save(path, optimize=True)  # a third of the bytes
        print(path)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "guided")
    main(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
