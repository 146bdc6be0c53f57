"""The benchmark beside min-dalle runs, and both sides draw the same tokens.

    pytest -n 0 -m benchmark -s tests/benchmarks/test_speed.py

One round; the command `python tests/benchmarks/speed.py` takes medians of several.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.side_by_side.command import main
from benchmarks.side_by_side.summary import ratio, value

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self"),
]


@pytest.fixture(autouse=True)
def _peer() -> None:
    pytest.importorskip("min_dalle", reason="pip install --no-deps min-dalle==0.4.11")


def test_tiny_is_measured_and_the_page_written(tmp_path: Path) -> None:
    output, page = tmp_path / "benchmark.json", tmp_path / "benchmarks.md"
    options = ["--rounds", "1", "--threads", "1", "--images", "1"]
    main(["--model", "tiny", *options, "--output", str(output), "--page", str(page)])
    report = json.loads(output.read_text())["tiny"]
    assert set(report["sides"]) == {"min-dalle", "float32", "int8"}
    assert report["sides"]["float32"]["images"]["1"]["token"]["n"] == 1
    assert value(report, "min-dalle", "images", "1", "token") > 0
    assert "## tiny" in page.read_text()
    assert "python" in report["sides"]["float32"]["breakdown"]["1"]["30"]


def test_mini_draws_the_same_tokens_in_less_time_and_memory(tmp_path: Path) -> None:
    """Minutes, and 6 GB on the disk."""
    output = tmp_path / "benchmark.json"
    main(["--rounds", "1", "--output", str(output)])
    report = json.loads(output.read_text())["mini"]
    assert report["parameters"] == 437_833_712
    for precision in ("float32", "int8"):
        for images in ("1", "4", "9"):
            for measure in ("token", "whole", "peak_bytes"):
                assert ratio(report, precision, "images", images, measure) > 1
