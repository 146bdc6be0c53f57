"""Moving the parts of a pipeline: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def move_together(
    parts: Sequence[Any], *, device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Call `to` of every part; where one refuses, put those back that were moved already.

    Your own parts that hold no torch modules go first: they are put back by their own `to`, to the
    device that they name.
    """
    ordered = sorted(parts, key=lambda part: bool(modules_of(part)))
    undo: list[Callable[[], object]] = []
    try:
        for part in ordered:
            undo.append(_way_back(part))
            part.to(device=device, dtype=dtype)
    except BaseException:
        for restore in reversed(undo):
            restore()
        raise


def precisions(**parts: object) -> dict[str, str]:
    """Return what each part computes in: the name of a dtype, or of a quantisation."""
    found = {}
    for name, part in parts.items():
        precision = getattr(part, "quantization", None) or getattr(part, "dtype", None)
        if isinstance(precision, str | torch.dtype):
            found[name] = str(precision).removeprefix("torch.")
    return found


def _way_back(part: Any) -> Callable[[], object]:
    """Return what puts the tensors of a part back, bit for bit."""
    modules = modules_of(part)
    if not modules:
        device = getattr(part, "device", None)
        return lambda: None if device is None else part.to(device=device)
    kept: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
        (table, name, tensor, tensor.data)
        for module in modules
        for owner in module.modules()
        for table in (owner._parameters, owner._buffers)
        for name, tensor in table.items()
        if tensor is not None
    ]

    def restore() -> None:
        for table, name, tensor, data in kept:
            tensor.data = data
            table[name] = tensor

    return restore


def modules_of(part: object) -> list[nn.Module]:
    """Return a part that is a torch module, or the modules that it holds."""
    if isinstance(part, nn.Module):
        return [part]
    return [
        value for value in getattr(part, "__dict__", {}).values() if isinstance(value, nn.Module)
    ]
