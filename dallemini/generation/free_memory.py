"""How much memory can still be taken: what the system, a container and a GPU say about it.

Knows files and counters of the system, nothing about models. Sources: proc_meminfo(5), and the
kernel's documentation of the memory controllers, cgroup-v2 and cgroup-v1/memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from ..kernels.threads import control_groups

_SHARE_OF_ALL = 0.5  # of the whole memory, where nobody says how much of it is free


def available_memory(device: torch.device, *, root: Path = Path("/")) -> int | None:
    """Return how many bytes can still be taken on a device.

    On Linux the CPU's memory is what the kernel calls available, or less where a control group, as
    containers have, sets a limit. On other systems with `os.sysconf` (macOS) it is half of all.
    CUDA devices say for themselves; what torch keeps for later is free as well.

    Args:
        device: CPU and MPS devices share the memory of the system.
        root: where the files of the system begin.

    Returns:
        None where nobody says: on Windows, and for other devices.

    Example:
        >>> import torch
        >>> from dallemini.generation.free_memory import available_memory
        >>> available_memory(torch.device("meta")) is None
        True
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type not in ("cpu", "mps"):
        return None
    found = [*_of_system(root), *_of_groups(root)]
    return max(0, min(found)) if found else _part_of_all()


def _of_system(root: Path) -> Iterator[int]:
    """Yield what the kernel would hand out before it begins to swap."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        text = (root / "proc/meminfo").read_text(encoding="utf-8")
        yield _table(text)["MemAvailable:"] * 1024


def _of_groups(root: Path) -> Iterator[int]:
    """Yield what is left below the limit of each control group that this process is in."""
    for version, folder in control_groups("memory", root):
        limit_file, usage_file, cached = _FILES[version]
        with contextlib.suppress(OSError, ValueError, KeyError):
            limit = int((folder / limit_file).read_text(encoding="utf-8"))  # not a number: no limit
            used = int((folder / usage_file).read_text(encoding="utf-8"))
            stat = _table((folder / "memory.stat").read_text(encoding="utf-8"))
            # Pages of files are dropped when memory is short, here as in MemAvailable.
            yield limit - used + stat[f"{cached}active_file"] + stat[f"{cached}inactive_file"]


def _table(text: str) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines()) if words[1:]}


def _part_of_all() -> int | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return int(pages * size * _SHARE_OF_ALL) if min(pages, size) > 0 else None


_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}
