"""Torch's global defaults, which other packages rely on and which must change no result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def plain_defaults() -> Iterator[None]:
    """Let torch make float32 on the CPU where nothing else is said, for the length of a block."""
    dtype = torch.get_default_dtype()
    device = torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        # as a context it costs every call of torch some time, so it is left out where it can be
        with contextlib.nullcontext() if device.type == "cpu" else torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
