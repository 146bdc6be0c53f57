"""Torch's global defaults, which other packages rely on and which must change no result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..errors import UnsupportedOperationError


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


def check_gradients_possible() -> None:
    """Refuse to train where PyTorch cannot compute gradients.

    Raises:
        UnsupportedOperationError: inside `torch.inference_mode`.
    """
    if torch.is_inference_mode_enabled():
        raise UnsupportedOperationError(
            "Training computes gradients, which torch.inference_mode() rules out: leave its block."
        )


@contextlib.contextmanager
def own_state(device: torch.device) -> Iterator[None]:
    """Compute gradients and draw numbers whatever torch's global state is, and leave that alone."""
    devices = [device] if device.type == "cuda" else []
    with plain_defaults(), torch.enable_grad(), torch.random.fork_rng(devices=devices):
        yield
