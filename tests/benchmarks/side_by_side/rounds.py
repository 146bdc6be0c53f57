"""Rounds: every side of one size in turns, each time in a fresh process."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .models import Size
from .summary import side_report, summarize

TESTS = Path(__file__).parents[2]
SIDES = ("min-dalle", "float32", "int8")
GREEDY = 32
RATES = {"megabytes": 1024, "side": 2048}
STEPS = 4
# The middles of four quarters: what grows evenly with the position has its mean there.
MIDDLES = (30, 94, 158, 222)
POSITIONS = tuple(first + step for first in MIDDLES for step in range(STEPS))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: every side runs so many times.
        threads: of each process.
        images: pictures of a call, square numbers.
        folder: keeps the random weights for the next time, and what an interrupted measurement
            found, with which the next one goes on; None for a temporary one.
    """

    rounds: int = 3
    threads: int = 2
    images: Sequence[int] = (1, 4, 9)
    folder: Path | None = None


def run(size: Size, plan: Plan) -> dict[str, Any]:
    """Measure one size in all rounds and return its report.

    Raises:
        SystemExit: a process failed, or the sides draw different tokens.
    """
    if plan.folder is not None:
        return _measure(size, plan.folder / size.name, plan)
    with tempfile.TemporaryDirectory() as folder:
        return _measure(size, Path(folder), plan)


def _measure(size: Size, folder: Path, plan: Plan) -> dict[str, Any]:
    disk = _prepare(size, folder, plan.threads)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    machines = []
    for index in range(plan.rounds):
        kept = folder / "runs" / str(index)
        rating = partial(_work, "machine", plan.threads, rates=RATES)
        machines.append(_once(kept / "machine.json", rating))
        for side in SIDES if index % 2 == 0 else SIDES[::-1]:
            _tell(f"{size.name}: round {index + 1} of {plan.rounds}, {side}")
            measuring = partial(
                _work,
                "measure",
                plan.threads,
                side=side,
                size=size.name,
                folder=str(folder),
                images=sorted(plan.images),
                seed=index + 1,
                greedy=GREEDY,
                positions=POSITIONS if size.is_mega else None,
                breakdown=MIDDLES if index == plan.rounds - 1 else (),
            )
            found = _once(kept / f"{side}.json", measuring)
            runs[side].append(found)
        check_same_tokens(runs["min-dalle"][-1]["greedy"], runs["float32"][-1]["greedy"])
    shutil.rmtree(folder / "runs")
    rates = [
        {name: found[name] for name in found.keys() - {"machine", "seconds"}} for found in machines
    ]
    return {
        "size": size.name,
        "parameters": size.parameters,
        "weights_per_token": size.weights_per_token,
        "machine": machines[0]["machine"],
        "rounds": plan.rounds,
        "seconds": sum(found["seconds"] for found in [*machines, *itertools.chain(*runs.values())]),
        "disk_bytes": disk,
        "positions": list(POSITIONS) if size.is_mega else None,
        "rates": summarize(rates),
        "sides": {side: side_report(found) for side, found in runs.items()},
    }


def _prepare(size: Size, folder: Path, threads: int) -> int:
    """Write the models in a process of its own, and return how much disk that took."""
    marker = folder / "prepared.json"
    if not marker.exists():
        _tell(f"{size.name}: writing random weights to {folder}")
        found = _work("prepare", threads, size=size.name, folder=str(folder), sides=SIDES[1:])
        marker.write_text(json.dumps(found))
    return int(json.loads(marker.read_text())["disk_bytes"])


def check_same_tokens(expected: Sequence[int], found: Sequence[int]) -> None:
    """Stop if both do not draw the same with float32: they would not compute the same model.

    Raises:
        SystemExit: they do not.
    """
    if list(expected) != list(found) or len(expected) < 2:
        raise SystemExit(
            f"The sides draw different tokens, so that nothing can be compared: min-dalle "
            f"{list(expected[:8])}..., dallemini {list(found[:8])}..."
        )


def _once(path: Path, work: partial[dict[str, Any]]) -> dict[str, Any]:
    """Do what was not done before with these arguments, and keep what was found and its seconds."""
    asked = json.dumps([work.args, work.keywords])
    if path.exists() and (kept := json.loads(path.read_text()))["asked"] == asked:
        return dict(kept["found"])
    started = time.perf_counter()
    found = work()
    found["seconds"] = time.perf_counter() - started
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked": asked, "found": found}))
    return found


def _work(task: str, threads: int, **job: Any) -> dict[str, Any]:
    """Do a job in a fresh process; what it says is shown only if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.side_by_side.worker"]
        arguments = [json.dumps({"task": task, "threads": threads, **job}), str(result)]
        path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise SystemExit(f"{done.stderr}\nThe process failed: {task} {job}.")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def _tell(message: str) -> None:
    """Say on stderr how far the benchmark is."""
    print(message, file=sys.stderr, flush=True)
