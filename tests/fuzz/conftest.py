"""How long to search: a few examples in the suite, or as long as `--fuzz-seconds` says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

import fuzzing
from fuzzing import Search


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds",
        type=float,
        default=float(os.environ.get("FUZZ_SECONDS", "0")),
        help="seconds of processor time that each fuzz test searches; 0: a few examples only",
    )


@pytest.fixture
def search(request: pytest.FixtureRequest) -> Search:
    """`fuzzing.search` for the seconds that were asked for."""
    default = float(os.environ.get("FUZZ_SECONDS", "0"))  # where the option is not known yet
    seconds = float(request.config.getoption("--fuzz-seconds", default))

    def run(check: Callable[[Any], object], edits: st.SearchStrategy[Any]) -> None:
        start = time.process_time()
        tried = fuzzing.search(check, edits, seconds)
        if seconds:
            took = time.process_time() - start
            told = f"{tried:,} cases in {took:.0f} s of processor time"
            request.node.user_properties.append(("fuzzing", told))

    return run


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List how many cases each search tried."""
    for report in terminalreporter.stats.get("passed", []):
        for name, told in report.user_properties:
            if name == "fuzzing":
                terminalreporter.write_line(f"{told}: {report.nodeid.rpartition('/')[2]}")
