"""Medians, spreads, ratios and shares: the arithmetic between the runs and the table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

BYTES = {"float32": 4, "int8": 1}
"""Bytes of a decoder weight; the scales of int8 are a per mille and not counted."""

Report = Mapping[str, Any]


def summarize(runs: Sequence[Any]) -> dict[str, Any]:
    """Join results of equal structure, number by number.

    Returns:
        The structure, each number replaced by n, median, min, max and spread: the distance of the
        extremes over the median.
    """
    first = runs[0]
    if isinstance(first, Mapping):
        return {name: summarize([run[name] for run in runs]) for name in first}
    median = statistics.median(runs)
    return {
        "n": len(runs),
        "median": median,
        "min": min(runs),
        "max": max(runs),
        "spread": (max(runs) - min(runs)) / median if median else 0.0,
    }


def side_report(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarize the runs of one side; what only one of them holds is kept as it is."""
    kept = ("import_seconds", "load_seconds", "load_peak_bytes", "images")
    chosen: list[dict[str, Any]] = [{name: run[name] for name in kept} for run in runs]
    for run in chosen:
        run["ready_seconds"] = run["import_seconds"] + run["load_seconds"]
    report = summarize(chosen)
    for found in runs:
        if "breakdown" in found:
            report["breakdown"] = found["breakdown"]
    return report


def floors(report: Report, *, images: int, precision: str) -> dict[str, float]:
    """Return the least seconds a token can take on the machine as measured.

    `memory` reads every weight of the decoder once; `arithmetic` multiplies each with two rows of
    guidance for every image, in float32.
    """
    weights = report["weights_per_token"]
    memory = weights * BYTES[precision] / report["rates"]["bytes_per_second"]["median"]
    operations = 2 * weights * 2 * images
    return {
        "memory": memory,
        "arithmetic": operations / report["rates"]["flops_per_second"]["median"],
    }


def share_of_floor(report: Report, *, images: int, precision: str) -> float:
    """Return how much of the memory's speed the decoding reaches, 1 for all of it."""
    token = value(report, precision, "images", str(images), "token")
    return floors(report, images=images, precision=precision)["memory"] / token


def ratio(report: Report, precision: str, *path: str) -> float:
    """Return min-dalle's median over dallemini's."""
    return value(report, "min-dalle", *path) / value(report, precision, *path)


def value(report: Report, side: str, *path: str) -> float:
    """Return the median of one measure of one side."""
    place: Any = report["sides"][side]
    for name in path:
        place = place[name]
    return float(place["median"])
