"""What this process holds in memory, as Linux counts it."""

from __future__ import annotations

import re
from pathlib import Path

PROCESS = Path("/proc/self")


def peak_bytes() -> int:
    """Return the most memory this process ever had in RAM, mapped files included.

    `getrusage` would also count what its parent had before this program was started.
    """
    return read_kilobytes((PROCESS / "status").read_text(), "VmHWM")


def private_bytes() -> int:
    """Return what this process holds now and shares with no file: what it needs for itself."""
    return read_kilobytes((PROCESS / "smaps_rollup").read_text(), "Anonymous")


def with_memory(seconds: dict[str, float]) -> dict[str, float]:
    """Add the memory peak up to now; numbers of pictures are measured in rising order."""
    return {**seconds, "peak_bytes": peak_bytes(), "private_bytes": private_bytes()}


def read_kilobytes(text: str, name: str) -> int:
    """Return a line like `VmHWM:   12 kB` as bytes.

    Raises:
        RuntimeError: there is no such line.
    """
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"The system does not tell {name}; this benchmark needs Linux.")
    return int(found[1]) * 1024
