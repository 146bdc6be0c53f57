"""A CUDA graph's rules on the CPU: operations are recorded once and repeated on the same memory.

As a graph does, a recording knows no Python: it repeats what torch was asked for, on the tensors
that were there, and writes each result where the first one lay. A step that is right only through
a number of Python, a tensor that was made anew or a value that Python looked at comes out wrong
or is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_LOOKS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class RuleBroken(Exception):
    """The step does what no graph can repeat."""


class Recording(TorchDispatchMode):
    """Keeps the operations inside a `with`, on tensors of one kind of device.

    Args:
        kind: of device; "meta" for a model without weights.
    """

    def __init__(self, kind: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.operations: list[Callable[[], None]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(tag in func.tags for tag in _LOOKS):
            raise RuleBroken(f"{func} makes the processor wait for a value")
        result = func(*args, **kwargs)
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, Tensor) and tensor.device.type != self.kind:
                raise RuleBroken(f"{func} mixes {self.kind} with {tensor.device}")
        if not all(returned.alias_info for returned in func._schema.returns):
            self.operations.append(lambda: _repeat(func, args, kwargs, result))
        elif func._schema.is_mutable:
            self.operations.append(lambda: func(*args, **kwargs))
        return result

    def repeat(self) -> None:
        """Do it all again; views need nothing, since memory stays where it is."""
        for operation in self.operations:
            operation()


def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Take the place of `capture_cuda_graph`."""
    step()  # as a warm-up, in which compilers compile
    with Recording(device.type) as recording:
        result = step()

    def replay() -> Tensor:
        recording.repeat()
        return result.clone()

    return replay


def _repeat(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    found = tree_leaves(func(*args, **kwargs))
    for old, new in zip(tree_leaves(result), found, strict=True):
        if isinstance(old, Tensor) and old.numel():
            old.copy_(new)
