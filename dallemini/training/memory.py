"""How much memory a run takes."""

from __future__ import annotations

import sys

import torch


def used_memory(device: torch.device) -> int:
    """Return the most bytes that were taken so far: of a GPU, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
