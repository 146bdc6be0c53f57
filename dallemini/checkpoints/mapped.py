"""Bytes of a file that become a tensor when it is loaded, mapped only while it is in use.

Knows neither names nor formats.
"""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

_MOST_AXES, _MOST_ELEMENTS = 8, 1 << 44


@dataclass(frozen=True)
class Span:
    """Bytes of a file."""

    path: Path
    start: int
    size: int

    def read(self, start: int, size: int) -> Bytes:
        """Map a part of the span; the mapping ends with the array that is returned.

        Raises:
            CheckpointError: the file is gone, or has become shorter.
        """
        offset = self.start + start
        skipped = offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self.path.open("rb") as file:
                # Copy-on-write, because torch warns about memory that cannot be written to.
                view = mmap.mmap(
                    file.fileno(), size + skipped, access=mmap.ACCESS_COPY, offset=offset - skipped
                )
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path} can no longer be read ({error}).") from error
        return np.frombuffer(view, np.uint8, size, skipped)

    def checksum(self) -> int:
        """Return the CRC-32 of the bytes, as zip archives note it."""
        return zlib.crc32(self.read(0, self.size).data) if self.size else 0


def as_tensor(content: Bytes, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Give bytes a dtype and a shape; they are copied only where they are not aligned."""
    if not content.size:
        return torch.empty(tuple(shape), dtype=dtype, device="cpu")
    if content.ctypes.data % dtype.itemsize:  # neither msgpack nor zip aligns anything
        content = content.copy()
    return torch.from_numpy(content).view(dtype).reshape(tuple(shape))


def is_shape(shape: object) -> bool:
    """Tell whether a foreign value can be the shape of a tensor that anybody stored."""
    return (
        isinstance(shape, list | tuple)
        and len(shape) <= _MOST_AXES
        and all(type(size) is int and 0 <= size <= _MOST_ELEMENTS for size in shape)
        and math.prod(max(size, 1) for size in shape) <= _MOST_ELEMENTS
    )
