"""Memory of a run: how much it takes, and what a GPU fetches without anybody waiting."""

from __future__ import annotations

import sys

import torch
from torch import Tensor


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


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU as a GPU can fetch it by itself; for another device, as it is."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a tensor of the CPU to a device; a GPU fetches it when it comes to it."""
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")
