"""The measure of looking ahead runs on a tiny model."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.lookahead import choose_hole, measure, seam, table
from dallemini.testing import tiny_pipeline


class Pixels:
    """A feature space of coarse pixels."""

    name, size = "pixels", 48

    def __call__(self, images: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def test_holes_are_measured_with_each_number_of_candidates() -> None:
    generator = np.random.default_rng(0)
    pictures = [
        (caption, Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
        for caption in ("a red apple", "a blue bird")
    ]
    report, shown = measure(tiny_pipeline(), pictures, Pixels(), counts=(1, 3))
    assert len(shown) == 2 * (2 + 2)
    report = json.loads(json.dumps(report))
    assert report["holes"] == 2
    assert list(report["lookahead"]) == ["1", "3"]
    assert report["lookahead"]["3"]["distance"]["median"] > 0
    assert report["lookahead"]["1"]["distance"]["better"] == 0
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
