"""A real Chromium, Debian's, and the app it looks at: for the tests of the app, and its pictures.

Needs `chromium` and Playwright for Python (`pip install playwright`, without its own browsers).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class NoBrowserError(Exception):
    """There is no Chromium here."""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Run the browser.

    Raises:
        NoBrowserError: it is not installed.
    """
    path = shutil.which("chromium")
    if path is None:
        raise NoBrowserError("This needs a browser; run: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@contextlib.contextmanager
def running_app(command: list[str], log: Path) -> Iterator[str]:
    """Run the app by arguments of Python, and yield its address; its complaints go to a file."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        if found is None:
            raise RuntimeError(f"the app did not start: {log.read_text()}")
        yield found[0]
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
