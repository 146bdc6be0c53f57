"""What the shipped safety checkers say to what is harmless.

    python tests/benchmarks/safety.py prompts examples/emoji/phrases.jsonl
    python tests/benchmarks/safety.py pictures FOLDER --count 500

`prompts` reads all strings of a file of JSON lines, which people wrote for harmless things, and
lists those that are flagged. `pictures` takes pictures from a folder, evenly over its sorted files,
and says how their scores are spread. Both print JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dallemini import PictureSafetyChecker, WordSafetyChecker
from dallemini.evaluation.metrics import wilson_interval
from dallemini.images import open_image

LEVELS = (0.2, 0.5, 0.8)  # Yahoo's "safe" ends at the first, "not safe" begins at the last


def strings(value: Any) -> Iterator[str]:
    """Yield every string in JSON values, but for the names of emoji in hexadecimal digits."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from strings([one for key, one in value.items() if key != "hex"])
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def read_prompts(path: Path) -> dict[str, Any]:
    """Return how many prompts of a file are flagged, and which."""
    checker = WordSafetyChecker()
    prompts = [
        text
        for line in path.read_text(encoding="utf-8").splitlines()
        for text in strings(json.loads(line))
    ]
    flagged = {text: flag.reason for text in prompts if (flag := checker.check_prompt(text))}
    found = wilson_interval(len(flagged), count=len(prompts))
    return {
        "prompts": len(prompts),
        "flagged": len(flagged),
        "share": [found.value, found.low, found.high],
        "which": flagged,
    }


def look_at_pictures(folder: Path, count: int) -> dict[str, Any]:
    """Return how the scores of pictures are spread."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".webp"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    checker = PictureSafetyChecker()
    scores = np.array([checker.score(open_image(path)) for path in chosen])
    return {
        "pictures": len(scores),
        "flagged": int((scores >= checker.threshold).sum()),
        **{f"from {level}": int((scores >= level).sum()) for level in LEVELS},
        "median": round(float(np.median(scores)), 4),
        "highest": round(float(scores.max()), 4),
        "which": str(chosen[int(scores.argmax())].relative_to(folder)),
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prompts").add_argument("file", type=Path)
    one = commands.add_parser("pictures")
    one.add_argument("folder", type=Path)
    one.add_argument("--count", type=int, default=500)
    given = parser.parse_args()
    result = (
        read_prompts(given.file)
        if given.command == "prompts"
        else look_at_pictures(given.folder, given.count)
    )
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
