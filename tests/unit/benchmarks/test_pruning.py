"""The measure of pruning runs on a tiny model, and says what it should of halves."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.pruning import CHANCE, by_chance, compare, kept, summarise, tables, timed
from dallemini.testing import tiny_pipeline

FINAL = [1.0, 5.0, 2.0, 4.0]


def test_the_lead_that_is_kept_is_that_of_the_best_in_the_better_half() -> None:
    assert kept([0.0, 1.0, 0.0, 0.0], FINAL) == (True, 1.0)
    assert kept([0.0, 0.0, 2.0, 3.0], FINAL) == (False, 0.5)  # 4 is half-way from 3 to 5
    halves = [kept([float(i in one) for i in range(4)], FINAL) for one in pairs()]
    survives, lead = (sum(values) / len(halves) for values in zip(*halves, strict=True))
    assert by_chance(FINAL) == pytest.approx((survives, lead))
    assert by_chance([2.0, 2.0]) == (1.0, 1.0)


def pairs() -> list[tuple[int, ...]]:
    return [*itertools.combinations(range(4), 2)]


def test_candidates_are_judged_half_way_once_for_each_prompt(tmp_path: Path) -> None:
    pipe, prompts, record = tiny_pipeline(), ["a red apple", "a bird"], tmp_path / "rows.jsonl"
    compare(pipe, prompts[:1], candidates=4, record=record)
    rows = compare(pipe, prompts, candidates=4, record=record)
    assert [row["prompt"] for row in rows] == prompts
    assert len(record.read_text().splitlines()) == 2
    report = summarise(rows)
    assert {name: len(judges) for name, judges in report.items()} == {"scorer": 5, "likelihood": 5}
    assert report["scorer"][CHANCE]["survives"].value == 0.5
    seconds = timed(pipe, prompts[:1], candidates=4)
    assert len(tables(report, seconds).splitlines()) == 2 + 5 + 1 + 2 + 2
