"""A tensor that is described now and read later, so that a conversion holds one of them at a time.

Knows shapes and dtypes, not files: a reader supplies the function that loads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..foreign import show

MOST_TENSORS = 20_000
"""Tensors that a file may hold; mega with the state of its optimizer has 3,000."""

WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Op = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a checkpoint.

    Attributes:
        name: its name in the file, for messages.
        shape: its shape.
        dtype: its element type.
        load: reads it; the result may be a view of a mapped file, so it is not to be written to.
        load_row: reads one entry of axis 0 alone, for readers that would otherwise load them all.
        problem: why it cannot be a weight, such as "is sparse"; None where it can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]
    load_row: Callable[[int], Tensor] | None = None
    problem: str | None = None

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Self:
        """Describe a tensor that is already there.

        Example:
            >>> import torch
            >>> from dallemini.checkpoints.lazy import LazyTensor
            >>> LazyTensor.of("weight", torch.zeros(2, 3)).shape
            (2, 3)
        """
        return cls(name, tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @property
    def nbytes(self) -> int:
        """Size in bytes once loaded."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def row(self, index: int) -> LazyTensor:
        """Describe one entry of axis 0."""

        def load() -> Tensor:
            return self.load()[index] if self.load_row is None else self.load_row(index)

        return LazyTensor(self.name, self.shape[1:], self.dtype, load)

    def apply(self, op: Op) -> LazyTensor:
        """Describe the result of an operation on this tensor.

        Raises:
            CheckpointError: the operation does not fit the shape.
        """
        try:
            # On the meta device an operation computes its result's shape and nothing else.
            after = op(torch.empty(self.shape, dtype=self.dtype, device="meta"))
        except (RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"{show(self.name)} has the shape {show(self.shape)}, which does not suit its "
                "place in this architecture. Use the checkpoint of a DALL-E Mini model."
            ) from error
        return LazyTensor(self.name, tuple(after.shape), after.dtype, lambda: op(self.load()))


def check_weights(tensors: Iterable[LazyTensor], *, origin: str) -> None:
    """Refuse tensors that are not plain floating-point numbers.

    Raises:
        CheckpointError: one is not; the message names it.
    """
    for tensor in tensors:
        if tensor.problem or tensor.dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"{origin}: {show(tensor.name)} {tensor.problem or f'holds {tensor.dtype}'}, but "
                "weights are float16, bfloat16, float32 or float64. Use the original checkpoint."
            )


def concatenate(parts: Sequence[LazyTensor]) -> LazyTensor:
    """Describe tensors joined along axis 0.

    Raises:
        CheckpointError: their other axes, or their dtypes, differ.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    for part in parts:
        if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype or not part.shape:
            raise CheckpointError(
                f"{show(first.name)} {first.shape} {first.dtype} and {show(part.name)} "
                f"{part.shape} {part.dtype} belong together but do not fit. Download the "
                "checkpoint again."
            )
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    name = " + ".join(part.name for part in parts)

    def load() -> Tensor:
        return torch.cat([part.load() for part in parts])

    return LazyTensor(name, shape, first.dtype, load)


def transpose(tensor: Tensor) -> Tensor:
    """Turn a Flax kernel [in, out] into a torch weight [out, in]."""
    return tensor.transpose(-1, -2)


def convolution(tensor: Tensor) -> Tensor:
    """Turn a Flax convolution HWIO into a torch one OIHW."""
    return tensor.permute(3, 2, 0, 1)


def squeeze(tensor: Tensor) -> Tensor:
    """Drop axes of size 1 in front: old Flax files store norms as (1, 1, 1, C)."""
    return tensor.reshape(tensor.shape[-1])


def flat(tensor: Tensor) -> Tensor:
    """Turn a tensor into a row of numbers."""
    return tensor.flatten()


def scalar(tensor: Tensor) -> Tensor:
    """Turn one number of any shape into a tensor without axes."""
    return tensor.reshape(())
