"""Building a model on `meta`, as every model is built: shapes and dtypes, without any value.

Private to the library; knows modules of torch, no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What `reset_parameters` of torch's modules fills their parameters with: those of `nn.init`, too,
# which hand themselves over whole, and so would call those of Tensor where no mode sees them.
_FILLS = {
    *(Tensor.fill_, Tensor.zero_, Tensor.uniform_, Tensor.normal_),
    *(nn.init.uniform_, nn.init.kaiming_uniform_),
}


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules on `meta`, and leave out the first values that torch would give them.

    On `meta` they change nothing, but each is worked out in Python: four fifths of what building
    a VQGAN takes, and the import of torch's decompositions.
    """
    with _Unfilled(), torch.device("meta"):
        yield


class _Unfilled(TorchFunctionMode):
    """Fills nothing that has no values."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS and (filled := args[0] if args else kwargs["tensor"]).is_meta:
            return filled
        return func(*args, **kwargs)


def empty_embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding of f[rows, width] without drawing random numbers for it.

    On `meta`, where models are built, drawing them would import torch's compiler: seconds of work
    before the first picture.
    """
    empty: nn.Embedding = nn.Embedding.from_pretrained(
        torch.empty(rows, width, dtype=torch.float32), freeze=False
    )
    return empty
