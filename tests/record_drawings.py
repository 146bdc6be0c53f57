"""Record what the bundled model draws, so that another version of the library can be held to it.

    PYTHONPATH=CHECKOUT python tests/record_drawings.py tests/fixtures/drawings/bundled.json

The script reads nothing of the tests, so that it runs with any checkout of the library, such as the
commit before a change. The recording names the weights it belongs to: record anew when the bundled
model is replaced, with code that still draws the old recording. The int8 cases are multiplied in
float32, as processors differ in how finely they round to integers.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from dallemini import Pipeline, kernels

PROMPTS = ["a red apple", "rocket, 3d emoji, on a blue background", "", "a cat and a dog"]
CASES: dict[str, dict[str, Any]] = {
    "own settings": {"seed": 3},
    "unguided": {"seed": 5, "guidance_scale": 1.0},
    "guided strongly": {"seed": 8, "guidance_scale": 10.0, "batch_size": 2},
    "hot": {"seed": 13, "temperature": 1.3, "top_k": None},
    "greedy": {"seed": 21, "top_k": 1, "batch_size": 1},
    "few likeliest": {"seed": 34, "top_k": 8, "temperature": 0.7, "batch_size": 3},
    "nucleus": {"seed": 55, "top_k": None, "top_p": 0.9, "guidance_scale": 2.0},
    "both filters": {"seed": (9, 1, 9, 4), "top_k": 40, "top_p": 0.8, "batch_size": None},
    "int8": {"seed": 3},
    "int8 unguided": {"seed": 5, "guidance_scale": 1.0, "batch_size": 2},
}


def digest() -> str:
    """Return one SHA-256 of the files that decide which tokens are drawn."""
    found = hashlib.sha256()
    folder = resources.files("dallemini") / "assets" / "emoji"
    for name in ("tokenizer/tokenizer.json", "transformer/model.safetensors"):
        found.update(folder.joinpath(*name.split("/")).read_bytes())
    return found.hexdigest()


def record() -> dict[str, list[list[int]]]:
    """Return the tokens of every case, one list for each prompt."""
    plain, drawn = Pipeline.from_pretrained(), {}
    setattr(kernels.int8, "has_int8", lambda inputs, outputs: False)  # noqa: B010
    setattr(kernels.int8, "choose_torch_operator", kernels.int8.PlainOperator)  # noqa: B010
    quantized = Pipeline.from_pretrained(quantization="int8")
    for name, settings in CASES.items():
        pipe = quantized if name.startswith("int8") else plain
        out = pipe(PROMPTS, progress=False, candidates=1, **settings)
        drawn[name] = out.image_tokens.tolist()
    return drawn


def main(path: Path) -> None:
    """Write the recording."""
    torch.set_num_threads(1)
    tokens = {name: [" ".join(map(str, row)) for row in rows] for name, rows in record().items()}
    text = json.dumps({"weights": digest(), "prompts": PROMPTS, "tokens": tokens}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
