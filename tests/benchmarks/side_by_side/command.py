"""The command line: what to measure, and where the results go."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from .models import SIZES
from .page import PEER_INSTALL, PEER_VERSION, render
from .rounds import Plan, run
from .table import medians_table, wanted_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print.

    Raises:
        SystemExit: min-dalle is missing, or there is nothing to show.
    """
    options = parse(arguments)
    reports = json.loads(options.output.read_text()) if options.output.exists() else {}
    if not options.render:
        check_peer()
        plan = Plan(
            rounds=options.rounds,
            threads=options.threads,
            images=options.images,
            folder=options.folder,
        )
        for name in options.model:
            reports[name] = run(SIZES[name], plan)
            options.output.write_text(json.dumps(reports, indent=2) + "\n")
    if not reports:
        raise SystemExit(f"{options.output} does not exist; run without --render first.")
    for name, report in reports.items():
        print(f"{name}\n\n{medians_table(report)}")
    print(wanted_table(reports))
    if options.page:
        options.page.write_text(render(reports), encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Measure dallemini beside min-dalle.")
    add = parser.add_argument
    add("--model", nargs="+", choices=tuple(SIZES), default=["mini"])
    add("--output", type=Path, default=Path("benchmark.json"))
    add("--page", type=Path, help="write the page of the documentation here")
    add("--render", action="store_true", help="measure nothing; show an earlier output")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=2)
    add("--images", type=int, nargs="+", default=[1, 4, 9], choices=(1, 4, 9))
    add("--folder", type=Path, help="keep the random weights here for the next time")
    return parser.parse_args(arguments)


def check_peer() -> None:
    """Refuse to start without min-dalle.

    Raises:
        SystemExit: it is not installed, or in another version.
    """
    found = importlib.util.find_spec("min_dalle") and metadata.version("min-dalle")
    if found != PEER_VERSION:
        raise SystemExit(
            f"This benchmark compares with min-dalle {PEER_VERSION}, and "
            f"{found or 'no version of it'} is installed. Install it with: {PEER_INSTALL}"
        )
