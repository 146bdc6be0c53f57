"""The measure of looking ahead runs on a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.lookahead import choose_hole, measure, seam, summarise, table
from dallemini.testing import tiny_pipeline


class Pixels:
    """A feature space of coarse pixels."""

    name, size = "pixels", 48

    def __call__(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


@pytest.mark.slow
def test_holes_are_measured_once_with_each_number_of_continuations(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = [
        (caption, Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
        for caption in ("a red apple", "a blue bird", "a dog")
    ]
    pipe, counts, record = tiny_pipeline(), (1, 3), tmp_path / "holes.jsonl"
    whole, shown = measure(pipe, pictures, Pixels(), counts=counts)
    assert len(shown) == 3 * (2 + 2)
    measure(pipe, pictures[:2], Pixels(), counts=counts, record=record)
    rows, shown = measure(pipe, pictures, Pixels(), counts=counts, record=record)
    assert (len(rows), len(shown)) == (3, 2 + 2)  # the last one is new
    for mine, other in zip(rows, whole, strict=True):
        for count in ("1", "3"):
            del mine["lookahead"][count]["seconds"], other["lookahead"][count]["seconds"]
        assert mine == other


def test_what_was_found_is_told_with_intervals() -> None:
    rows = [
        {
            "hole": number,
            "lookahead": {
                "1": {"distance": 0.2, "seam": 1.0 + number, "seconds": 1.0},
                "8": {"distance": 0.1 if number else 0.2, "seam": 1.0, "seconds": 2.0},
            },
        }
        for number in range(4)
    ]
    report = json.loads(json.dumps(summarise(rows)))
    found = report["lookahead"]["8"]
    assert (report["holes"], found["closer"], found["equal"]) == (4, 0.75, 0.25)
    middle, low, high = found["from_first"]
    assert low <= middle <= high
    assert middle == pytest.approx(-0.075)
    assert found["seam"] == [1.0, 1.0, 1.0]
    assert len(table(report).splitlines()) == 4


def test_a_hole_lies_within_the_grid_and_not_on_background_alone() -> None:
    blank = np.ones((10, 10), dtype=np.bool_)
    blank[4:9, 4:9] = False
    for seed in range(5):
        hole = choose_hole(blank, random.Random(seed))
        assert blank[hole].mean() < 0.5
        assert hole[1:-1, 1:-1].sum() == hole.sum()  # nothing at the edge


def test_a_seam_is_the_contrast_across_the_edge() -> None:
    hole = torch.zeros(6, 6, dtype=torch.bool)
    hole[2:4, 2:4] = True
    assert seam(hole.float().expand(3, 6, 6), hole) == 1
    assert seam(torch.ones(3, 6, 6), hole) == 0
