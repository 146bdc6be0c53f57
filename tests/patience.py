"""How long a test waits for another process: longer where the cores have other work."""

from __future__ import annotations

import os

BUSY = 1.5  # runnable processes for each core, from which a machine counts as busy
_MOST = 6.0  # times; beyond, something hangs


def load() -> float:
    """Runnable processes for each core over the last minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (AttributeError, OSError):
        return 0.0


def patience(seconds: float) -> float:
    """Stretch a time-out that is ample on quiet cores by what the machine has to do besides."""
    return seconds * min(_MOST, max(1.0, load()))


def busy_note() -> str | None:
    """Say that the cores are busy, if they are."""
    found = load()
    if found < BUSY:
        return None
    return (
        f"the cores are busy: {found * (os.cpu_count() or 1):.1f} processes want "
        f"{os.cpu_count()} cores; the suite takes longer than its 3 minutes, and time-outs are "
        "stretched"
    )
