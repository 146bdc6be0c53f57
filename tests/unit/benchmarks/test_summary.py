"""Tests of the arithmetic between the runs of the benchmark and its table."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.side_by_side.page import render
from benchmarks.side_by_side.summary import (
    floors,
    ratio,
    share_of_floor,
    side_report,
    summarize,
    value,
)
from benchmarks.side_by_side.table import (
    ROWS,
    breakdown_table,
    floor_table,
    medians_table,
    show,
    wanted_table,
)


def run(token: float, *, images: tuple[int, ...] = (1, 9)) -> dict[str, Any]:
    """Return what a process reports whose times are all multiples of one."""
    calls = {
        str(count): {
            "whole": 300 * token,
            "encoder": 2 * token,
            "token": token,
            "decode": 10 * token,
            "peak_bytes": 4e9 * token,
            "private_bytes": 2e9 * token,
        }
        for count in images
    }
    return {
        "import_seconds": 20 * token,
        "load_seconds": 30 * token,
        "load_peak_bytes": 3e9 * token,
        "greedy": [1, 2],
        "images": calls,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    parts = ("projections", "lm_head", "attention", "sampling", "other operations", "python")
    last = {**run(0.25), "breakdown": {"1": {"30": dict.fromkeys((*parts, "step"), 0.004)}}}
    return {
        "size": "mini",
        "parameters": 437_833_712,
        "weights_per_token": 200,
        "rounds": 3,
        "seconds": 120.0,
        "disk_bytes": 5e9,
        "positions": None,
        "rates": summarize([{"bytes_per_second": 8000.0, "flops_per_second": 64_000.0}] * 3),
        "machine": {
            "processor": "a processor",
            "abilities": ["avx2"],
            "cores": 2,
            "threads": 2,
            "memory_bytes": 24e9,
            "system": "Linux 6",
            "python": "3.11",
            "versions": {"dallemini": "0.1.0", "min-dalle": "0.4.11"},
        },
        "sides": {
            "min-dalle": side_report([run(0.9), run(1.0), run(1.2)]),
            "float32": side_report([run(0.2), run(0.3), last]),
            "int8": side_report([run(0.125)] * 3),
        },
    }


def test_summary_has_median_extremes_and_spread() -> None:
    found = summarize([{"a": {"b": 1.0}}, {"a": {"b": 4.0}}, {"a": {"b": 2.0}}])["a"]["b"]
    assert found == {"n": 3, "median": 2.0, "min": 1.0, "max": 4.0, "spread": 1.5}


def test_spread_of_nothing_is_nothing() -> None:
    assert summarize([0, 0])["spread"] == 0.0


def test_ready_time_is_import_and_load_of_the_same_run(report: dict[str, Any]) -> None:
    assert value(report, "min-dalle", "ready_seconds") == 50
    assert "breakdown" not in report["sides"]["min-dalle"]


def test_ratio_is_the_peers_median_over_ours(report: dict[str, Any]) -> None:
    assert ratio(report, "float32", "images", "9", "token") == 4
    assert ratio(report, "int8", "images", "1", "whole") == 8


def test_floor_is_bytes_over_bandwidth_and_operations_over_rate(report: dict[str, Any]) -> None:
    assert floors(report, images=1, precision="float32") == {"memory": 0.1, "arithmetic": 0.0125}
    assert floors(report, images=9, precision="int8") == {"memory": 0.025, "arithmetic": 0.1125}
    assert share_of_floor(report, images=1, precision="float32") == pytest.approx(0.4)
    assert share_of_floor(report, images=1, precision="int8") == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("figure", "unit", "shown"),
    [
        (2.41, "x", "2.4x"),
        (1.296, "x", "1.30x"),
        (0.0163, "ms", "16.3 ms"),
        (2.9e9, "GB", "2.90 GB"),
        (15.7e9, "GB", "15.7 GB"),
        (0.704, "%", "70 %"),
        (115.2, "s", "115 s"),
    ],
)
def test_figures_are_shown_with_three_digits_and_unit(figure: float, unit: str, shown: str) -> None:
    assert show(figure, unit) == shown


def test_wanted_table_sets_reached_beside_wanted(report: dict[str, Any]) -> None:
    lines = wanted_table({"mini": report}).splitlines()
    assert lines[0] == "|  | float32: reached (wanted) | int8: reached (wanted) |"
    assert "| mini, a token, 1 image | 4.0x (2.4x) | 8.0x (20.0x) |" in lines
    assert "| mini, peak memory, 9 images | 1.00 GB (2.60 GB) | 0.50 GB (1.40 GB) |" in lines
    assert "| mini, share of the floor, 1 image | 40 % (70 %) | 20 % (75 %) |" in lines
    assert not any("mega" in line for line in lines)
    both = wanted_table({"mini": report, "mega": report}).splitlines()
    assert len(both) == 2 + len(ROWS)
    assert "| mega, time until ready | 4.0x (8.0x) | 8.0x (5.0x) |" in both


def test_wanted_table_leaves_out_what_was_not_drawn(report: dict[str, Any]) -> None:
    fewer = copy.deepcopy(report)
    for side in fewer["sides"].values():
        del side["images"]["9"]
    shown = wanted_table({"mini": fewer})
    assert "9 images" not in shown
    assert "1 image" in shown


def test_medians_come_with_spread_and_ratio(report: dict[str, Any]) -> None:
    lines = medians_table(report).splitlines()
    assert lines[0] == "|  | min-dalle | float32 | int8 |"
    assert "| load | 30.0 s ± 15 % | 7.50 s ± 20 % (4.0x) | 3.75 s ± 0 % (8.0x) |" in lines
    assert any(line.startswith("| a token, 9 images | 1000 ms ± 15 % |") for line in lines)
    assert sum("of it private" in line for line in lines) == 2


def test_floor_table_has_a_line_for_each_precision_and_number(report: dict[str, Any]) -> None:
    lines = floor_table(report).splitlines()
    assert "| float32, 1 | 100 ms | 12.5 ms | 250 ms | 40 % |" in lines
    assert "| int8, 9 | 25.0 ms |  | 125 ms | 20 % |" in lines
    assert len(lines) == 6


def test_breakdown_is_shown_where_it_was_measured(report: dict[str, Any]) -> None:
    assert "| float32, 1, 30 | 0.00 ms | 4.00 ms |" in breakdown_table(report)
    del report["sides"]["float32"]["breakdown"]
    assert breakdown_table(report) == ""


def test_one_round_has_no_spread() -> None:
    once = {"n": 1, "median": 2.0, "min": 2.0, "max": 2.0, "spread": 0.0}
    side = {"load_seconds": once, "import_seconds": once, "load_peak_bytes": once, "images": {}}
    table = medians_table({"sides": {"min-dalle": side, "float32": side}})
    assert "| load | 2.00 s | 2.00 s (1.00x) |" in table.splitlines()


def test_page_tells_machine_versions_spread_and_command(report: dict[str, Any]) -> None:
    mega = {**report, "size": "mega", "positions": [30, 31, 94, 95, 222]}
    page = render({"mini": report, "mega": mega})
    for part in (
        wanted_table({"mini": report, "mega": mega}),
        medians_table(report),
        "- a processor, 2 cores (avx2)",
        "min-dalle 0.4.11",
        "python tests/benchmarks/speed.py --model mini mega",
        "rounds: 3; threads of each: 2",
        "at the positions 30 to 31, 94 to 95, 222 only",
        "Measuring took\n2 minutes and 5.00 GB of disk.",
    ):
        assert part in page
    assert "{" not in page
    text = [line for line in page.splitlines() if not line.startswith("|")]
    assert max(map(len, text)) <= 120
