"""Checks of the tensors that callers hand to a model, each with one clear sentence; autocast.

Private to the library; knows shapes and values, no network.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError


def check_ids(name: str, ids: object, *, shape: str, axes: int) -> Tensor:
    """Return `ids` if it is a tensor of whole numbers with so many axes.

    Args:
        name: what the message calls it.
        ids: what the caller gave.
        shape: what the message asks for, such as "[B, L]".
        axes: number of axes.

    Raises:
        InputTypeError: it is not a tensor of whole numbers.
        InputError: it has another number of axes.
    """
    whole = isinstance(ids, Tensor) and not (
        ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool
    )
    if not isinstance(ids, Tensor) or not whole:
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise InputTypeError(f"{name} must be a tensor of integers {shape}, not {kind}.")
    if ids.ndim != axes:
        raise InputError(f"{name} must have shape {shape}, not {list(ids.shape)}.")
    return ids


def check_range(name: str, ids: Tensor, *, limit: int, hint: str) -> None:
    """Refuse ids outside 0 <= id < limit; on `meta` there are no values to look at.

    Raises:
        InputError: an id is outside.
    """
    if ids.is_meta or not ids.numel():
        return
    lowest, highest = (int(bound) for bound in torch.aminmax(ids))
    if lowest < 0 or highest >= limit:
        raise InputError(f"{name} {lowest} to {highest} are outside 0 to {limit - 1}: {hint}.")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Leave the caller's autocast, which would round what a seed draws and what a scorer says."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
