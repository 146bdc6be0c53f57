"""What memory an upscaler needs beyond its weights and the picture that it makes.

    python tests/benchmarks/upscaler_memory.py

prints a table in Markdown. Each row is measured in a process of its own: the most that was ever in
memory while a picture was enlarged, less what was there before and less the result. Pictures are
wide enough for a square with surroundings on both sides; those of `None` are as large as such a
square.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

CASES: tuple[tuple[str, int | None, int, int], ...] = (  # model, tile, height and width
    ("realesr-animevideov3", 256, 320, 576),
    ("realesr-animevideov3", 256, 640, 1152),
    ("realesr-animevideov3", 96, 320, 576),
    ("RealESRGAN_x4plus_anime_6B", 256, 320, 576),
    ("RealESRGAN_x4plus_anime_6B", 96, 160, 288),
    ("RealESRGAN_x4plus", 96, 160, 288),
)


def measure(model: str, tile: int | None, height: int, width: int) -> dict[str, float]:
    """Enlarge a picture of noise, and return the bytes and the processor's seconds that took."""
    import torch

    from benchmarks.side_by_side.memory import peak_bytes
    from dallemini import Upscaler

    upscaler = Upscaler.from_pretrained(model)
    generator = torch.Generator().manual_seed(0)
    upscaler.upscale(torch.rand(1, 3, 16, 16, generator=generator))  # libraries are loaded
    picture = torch.rand(1, 3, height, width, generator=generator)
    before, start = peak_bytes(), time.process_time()
    made = upscaler.upscale(picture, tile=tile)
    seconds = time.process_time() - start
    return {"bytes": peak_bytes() - before - made.nbytes, "seconds": seconds}


def main() -> None:
    """Measure each case in a process of its own."""
    print("| network | tile | picture | memory | seconds |\n|---|---|---|---|---|", flush=True)
    for case in CASES:
        model, tile, height, width = case
        words = [sys.executable, __file__, json.dumps(case)]
        ran = subprocess.run(words, check=True, capture_output=True, text=True)
        found = json.loads(ran.stdout)
        memory = f"{found['bytes'] / 2**20:.0f} MiB"
        print(
            f"| {model} | {tile} | {width}x{height} | {memory} | {found['seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if len(sys.argv) > 1:
        print(json.dumps(measure(*json.loads(sys.argv[1]))))
    else:
        main()
