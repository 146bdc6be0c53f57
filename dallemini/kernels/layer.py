"""The layers of a decoder of the released architecture, each in one call of the library.

Between the products and the attention of a step, torch's small operators and Python take as long as
all computing where there are few rows or the model is small. The results are those of the separate
functions, bit for bit: `has_layers` looks whether torch's norm and the library's agree.

Knows tensors and how they lie, nothing about modules. Shapes: R decoder rows, S positions of a
pass, H heads, T text tokens, L image tokens, D width, F inner width.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from . import (
    _LINE,
    _MOST_POSITIONS,
    _OUTPUTS,
    _PLAIN,
    MOST_ROWS,
    _found,
    _ready,
    has_int8,
    has_kernels,
)
from .threads import count_threads

NORM_EPS = 1e-5  # of models.norms, and of the library

Projection = tuple[Tensor, Tensor | None, bool]
"""A weight f32[O,I]; or i8[O,I] with scales f32[O], and whether rows are rounded to 16 bits."""

Words: TypeAlias = "ctypes.Array[ctypes.c_void_p]"


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Tensors of one layer, contiguous and on the CPU; they stay where they are.

    Attributes:
        norms: before and behind self-attention, before and behind attention to the text, before
            and inside the feed-forward block: a scale or None, and a bias f32[D] (the last f32[F]).
        projections: of queries, keys and values f[3D,D]; of what self-attention finds f[D,D]; of
            queries to the text and of what they find; into the block f[2F,D], the gate first, and
            out of it f[D,F].
    """

    norms: Sequence[tuple[Tensor | None, Tensor]]
    projections: Sequence[Projection]

    @property
    def sizes(self) -> tuple[int, int]:
        """D and F."""
        width, inner = self.projections[5][0].shape
        return width, inner

    def tensors(self) -> list[Tensor]:
        """Return all of them."""
        found = [tensor for norm in self.norms for tensor in norm]
        found += [tensor for weight, scale, _ in self.projections for tensor in (weight, scale)]
        return [tensor for tensor in found if tensor is not None]

    def words(self) -> list[int | None]:
        """Return what the library reads: addresses, and numbers."""
        found: list[int | None] = [_address(tensor) for norm in self.norms for tensor in norm]
        for weight, scale, fine in self.projections:
            found += [weight.data_ptr(), _address(scale), int(fine)]
        return found

    def fit(self, heads: int) -> bool:
        """Tell whether the library computes such a layer as the separate functions do."""
        width, inner = self.sizes
        shapes = [(3 * width, width), *[(width, width)] * 3, (2 * inner, width), (width, inner)]
        sizes = [width] * 5 + [inner]
        return (
            [tuple(weight.shape) for weight, _, _ in self.projections] == shapes
            and all(_is_read(*one) for one in self.projections)
            and all(
                bias.shape == (size,) for (_, bias), size in zip(self.norms, sizes, strict=True)
            )
            and width % heads == 0
            and width // heads % _LINE == 0
            and all(map(_lies_plainly, self.tensors()))
            and all(bias.dtype == torch.float32 for _, bias in self.norms)
            and has_layers(width, inner)
        )


def _lies_plainly(tensor: Tensor) -> bool:
    plain = type(tensor) in _PLAIN and tensor.layout is torch.strided
    return plain and tensor.is_cpu and tensor.is_contiguous()


def _is_read(weight: Tensor, scale: Tensor | None, fine: bool) -> bool:
    outputs, inputs = weight.shape
    if scale is not None:
        return weight.dtype == torch.int8 and has_int8(inputs, outputs)
    return weight.dtype == torch.float32 and inputs >= _LINE and outputs >= _OUTPUTS


@functools.cache
def has_layers(width: int, inner: int) -> bool:
    """Tell whether the library's norms over D and over F give the bits of torch's."""
    return has_kernels() and all(
        _norms_agree(size, scaled) for size in (width, inner) for scaled in (True, False)
    )


def _norms_agree(size: int, scaled: bool) -> bool:
    generator = torch.Generator("cpu").manual_seed(0)
    make = functools.partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")
    rows, scale, bias = 3 * make(64, size) + make(64, 1), make(size) if scaled else None, make(size)
    normed = torch.empty_like(rows)
    _found().dallemini_norm(
        rows.data_ptr(), _address(scale), bias.data_ptr(), normed.data_ptr(), *rows.shape, 1
    )
    return torch.equal(normed, F.layer_norm(rows, (size,), scale, bias, NORM_EPS))


class Layers:
    """Layers whose weights are where they were when this was made.

    Args:
        layers: all alike.
        heads: H.
        activation: maps gates f32[R,S,F] to as many.
    """

    def __init__(
        self, layers: Sequence[LayerWeights], *, heads: int, activation: Callable[[Tensor], Tensor]
    ) -> None:
        self.heads, self._activation = heads, activation
        self.width, self.inner = layers[0].sizes
        words = [word for layer in layers for word in layer.words()]
        self.count, self._words = len(layers), _array(words)
        size = len(words) // len(layers) * ctypes.sizeof(ctypes.c_void_p)
        start = ctypes.addressof(self._words)
        self._starts = [start + number * size for number in range(len(layers))]

    def run(
        self,
        hidden_states: Tensor,
        filled: Words,
        mask: Tensor,
        *,
        capacity: int,
        position: int | Tensor,
    ) -> Tensor:
        """Compute the next positions of rows, and write their keys and values.

        Args:
            hidden_states: f32[R,S,D], contiguous, R * S at most `MOST_ROWS`.
            filled: from `cache_words`.
            mask: bool[R,1,1,T], contiguous.
            capacity: L.
            position: of the first ones, or i64[R]; a cache has room for all of them.

        Returns:
            f32[R,S,D].

        Raises:
            MemoryError: there is none to round rows in.
        """
        rows, count, width = hidden_states.shape
        all_rows, inner = rows * count, self.inner
        hidden_states, gate = hidden_states.clone(), hidden_states.new_empty(rows, count, inner)
        size = all_rows * (2 * width + max(width, inner) + max(3 * width, 2 * inner))
        scratch, counts = hidden_states.new_empty(size), position + 1
        each = counts.data_ptr() if isinstance(counts, Tensor) else None
        numbers = (rows, count, width, self.heads, inner, capacity, mask.shape[3])
        places = (mask.data_ptr(), hidden_states.data_ptr(), gate.data_ptr(), scratch.data_ptr())
        even = 0 if isinstance(counts, Tensor) else counts
        shared = _array([*numbers, even, each, *places, count_threads()])
        compute, before, activated = _found().dallemini_layer, None, gate
        start, step = ctypes.addressof(filled), 4 * ctypes.sizeof(ctypes.c_void_p)
        for number, layer in enumerate([*self._starts, None]):
            place = start + number * step
            if compute(before, layer, shared, place, activated.data_ptr()):
                raise MemoryError(f"No memory to compute {all_rows} rows of {width} numbers.")
            before = layer
            if layer is not None:
                activated = self._activation(gate)
        return hidden_states


def cache_words(tensors: Sequence[Sequence[Tensor]]) -> Words | None:
    """Return where a cache lies, layer by layer; None where the library does not read it.

    Args:
        tensors: for each layer the keys f[R,H,L,D/H] and as many values, and those of the text
            f[R,H,T,D/H].
    """
    layers = [*zip(*tensors, strict=True)]
    keys, _, text, _ = layers[0]
    shapes = {tuple(tensor.shape for tensor in layer) for layer in layers}
    fits = shapes == {(keys.shape, keys.shape, text.shape, text.shape)}
    fits = fits and keys.shape[:2] == text.shape[:2] and keys.shape[3] == text.shape[3]
    fits = fits and all(0 < one.shape[2] <= _MOST_POSITIONS for one in (keys, text))
    every = [tensor for layer in layers for tensor in layer]
    if not (fits and all(map(Tensor.is_contiguous, every)) and _ready(*every)):
        return None
    return _array([*map(Tensor.data_ptr, every)])


def takes(hidden_states: Tensor, mask: Tensor) -> bool:
    """Tell whether `Layers.run` computes these: f[R,S,D], with bool[R,1,1,T]."""
    rows, count, _ = hidden_states.shape
    return (
        0 < rows * count <= MOST_ROWS
        and not torch.is_grad_enabled()
        and _ready(hidden_states)
        and hidden_states.is_contiguous()
        and mask.dtype == torch.bool
        and mask.is_cpu
        and mask.is_contiguous()
    )


def _array(words: Sequence[int | None]) -> Words:
    return (ctypes.c_void_p * len(words))(*words)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
