"""Merge hand-written phrases into one file: trimmed, each once, none under two concepts.

    python examples/emoji/merge_phrases.py phrases.jsonl PART [PART ...]

A part has one JSON object a line: `hex`, `label` and `phrases`. A phrase that stands under two
concepts tells neither, so both lose it; a phrase that is the label alone says nothing new.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from captions import key_of

FEWEST = 8


def merge(parts: list[str]) -> list[dict[str, Any]]:
    """Return the rows of all parts, sorted by code points, with what is wrong taken out.

    Raises:
        SystemExit: a concept stands twice, or has fewer than eight phrases.
    """
    rows = [json.loads(line) for part in parts for line in part.splitlines()]
    uses = Counter(key for row in rows for key in {key_of(text) for text in row["phrases"]})
    if twice := [hexcode for hexcode, n in Counter(r["hex"] for r in rows).items() if n > 1]:
        raise SystemExit(f"Stands twice: {', '.join(twice)}.")
    merged = []
    for row in sorted(rows, key=lambda row: str(row["hex"])):
        own: dict[str, str] = {}
        for text in row["phrases"]:
            text, key = " ".join(text.split()), key_of(text)
            if uses[key] == 1 and text.isascii() and text.lower() != row["label"].lower():
                own.setdefault(key, text)
        if len(own) < FEWEST:
            raise SystemExit(
                f"{row['label']} ({row['hex']}) has {len(own)} phrases, not 8 or more."
            )
        merged.append({"hex": row["hex"], "label": row["label"], "phrases": list(own.values())})
    return merged


def main() -> None:
    """Read the arguments, merge, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("parts", type=Path, nargs="+")
    arguments = parser.parse_args()
    rows = merge([path.read_text(encoding="utf-8") for path in arguments.parts])
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    arguments.output.write_text("".join(lines), encoding="utf-8")
    print(f"{sum(len(row['phrases']) for row in rows)} phrases of {len(rows)} concepts")


if __name__ == "__main__":
    main()
