"""Draw prompts with the bundled model: a grid, the best of each, and a look while it draws.

    python examples/draw.py [FOLDER]

Needs no network. The pictures are saved in FOLDER, `drawn` if none is named.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dallemini import Pipeline

PROMPTS = ["a red apple", "cat face", "rocket"]


def main(folder: Path) -> None:
    """Draw the prompts and save everything in a folder."""
    pipe = Pipeline.from_pretrained()

    # Four pictures per prompt, best first. One call draws them all; the seed makes them repeatable.
    out = pipe(PROMPTS, num_images_per_prompt=4, seed=0, rank=True)
    for path in out.save(folder):
        print(path)
    out.grid().save(folder / "grid.png")
    for prompt, image in zip(out.prompts, out.best(), strict=True):
        image.save(folder / f"best of {prompt}.png")

    # Any picture can be drawn again alone by its own seed.
    again = pipe(PROMPTS[0], seed=out.seeds[0])
    print("drawn again, the same:", again.image_tokens[0].equal(out.image_tokens[0]))

    # Previews while it draws. Leaving the loop early cancels the rest.
    for step in pipe.stream("a red apple", every=16, seed=out.seeds[0]):
        step.images[0].save(folder / f"step {step.position:02d} of {step.length}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "drawn"))
