"""Fifty kills of training and of encoding, at random moments: see `kill_runs`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_runs.py")


@pytest.mark.slow
def test_nothing_is_lost_by_fifty_kills() -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert done.stdout.count("nothing lost") == 2
