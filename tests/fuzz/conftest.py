"""How long to search: a few seconds in the whole suite, or as long as `--fuzz-seconds` says."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seconds",
        type=float,
        default=float(os.environ.get("FUZZ_SECONDS", "0")),
        help="seconds that each fuzz test searches; without it only its first few examples are run",
    )


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """Seconds to search, 0 for the first examples only."""
    default = float(os.environ.get("FUZZ_SECONDS", "0"))  # where the option is not known yet
    return float(request.config.getoption("--fuzz-seconds", default))
