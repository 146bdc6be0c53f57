"""What multiplies by int8 weights: the package's own kernel, torch's FBGEMM, or plain torch.

Symmetric rounding as in section 3.1 of "Quantizing deep convolutional networks for efficient
inference" (Krishnamoorthi 2018, arXiv 1806.08342). `choose_operator` decides.

Shapes: M rows, I inputs, O outputs of a layer.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DalleMiniWarning
from . import has_int8, is_watched, linear_int8

LARGEST = 127  # of a weight: -128 is left out, so that the range is symmetric

_TINY = torch.finfo(torch.float32).tiny
_PACKERS = ("x86", "fbgemm")  # the names under which torch offers FBGEMM's linear layers


class Int8Operator(Protocol):
    """Keeps an int8 weight as its kernel wants it, and multiplies by it."""

    def pack(self, weight: Tensor, scale: Tensor) -> object:
        """Keep a weight i8[O,I] with its scales f32[O]."""

    def unpack(self, packed: Any) -> tuple[Tensor, Tensor]:
        """Return the weight i8[O,I] and the scales f32[O]."""

    def multiply(self, rows: Tensor, packed: Any, *, fine: bool) -> Tensor:
        """Map f32[M,I] to f32[M,O]; `fine` where a few inputs outweigh all others."""


class PlainOperator:
    """Widens the weight at every call and multiplies in float32: small and slow, runs anywhere."""

    def pack(self, weight: Tensor, scale: Tensor) -> object:
        """Keep both as they are, mapped if they are."""
        return weight, scale

    def unpack(self, packed: Any) -> tuple[Tensor, Tensor]:
        """Return the weight i8[O,I] and the scales f32[O]."""
        weight, scale = packed
        return weight, scale

    def multiply(self, rows: Tensor, packed: Any, *, fine: bool) -> Tensor:
        """Map f32[M,I] to f32[M,O]; activations are not rounded, so `fine` changes nothing."""
        weight, scale = packed
        return F.linear(rows, weight.to(rows.dtype)).mul_(scale)


class KernelOperator(PlainOperator):
    """The kernel of this package: reads weights where they lie, in a mapped file for example."""

    def pack(self, weight: Tensor, scale: Tensor) -> object:
        """Keep both as they are, if that is contiguous and on the CPU."""
        return weight.cpu().contiguous(), scale.cpu().contiguous()

    def multiply(self, rows: Tensor, packed: Any, *, fine: bool) -> Tensor:
        """Map f32[M,I] to f32[M,O]; in plain torch where something is to see its operators."""
        if is_watched() or not rows.is_cpu:
            return super().multiply(rows, packed, fine=fine)
        weight, scale = packed
        return linear_int8(rows, weight, scale, fine=fine)


class FbgemmOperator:
    """FBGEMM through `torch.ops.quantized`: integer products, packed weights.

    Rows are divided by their largest absolute value first; the kernel then quantises all of them
    with the same constant scale.

    Args:
        levels: integers on each side of zero for activations. 127 needs a processor that sums the
            products in 32 bits (VNNI); 63 suits those that sum pairs in 16 bits first, where larger
            ones would saturate.
    """

    def __init__(self, *, levels: int) -> None:
        self.levels = levels

    def pack(self, weight: Tensor, scale: Tensor) -> object:
        """Copy a weight i8[O,I] into the kernel's layout; nothing keeps the original."""
        zero = torch.zeros(len(scale), dtype=torch.int64, device="cpu")
        with _packing():
            quantized = torch._make_per_channel_quantized_tensor(
                weight.contiguous(), scale.double(), zero, 0
            )
            packed: object = torch.ops.quantized.linear_prepack(quantized, None)
        return packed

    def unpack(self, packed: Any) -> tuple[Tensor, Tensor]:
        """Return the weight i8[O,I] and the scales f32[O], equal to what was packed."""
        with _packing():
            quantized = torch.ops.quantized.linear_unpack(packed)[0]
            return quantized.int_repr(), quantized.q_per_channel_scales().float()

    def multiply(self, rows: Tensor, packed: Any, *, fine: bool) -> Tensor:
        """Map f32[M,I] to f32[M,O]; `fine` multiplies what rounding leaves over as well."""
        norm = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True).clamp_min_(_TINY)
        rows = rows / norm
        if not fine:
            return self._product(rows, packed).mul_(norm)
        step = 1 / self.levels
        left = (rows - (rows * self.levels).round_().mul_(step)).mul_(2 * self.levels)
        product, rest = self._product(torch.cat([rows, left]), packed).chunk(2)
        return torch.add(product, rest, alpha=step / 2).mul_(norm)

    def _product(self, rows: Tensor, packed: Any) -> Tensor:
        """Multiply rows between -1 and 1, rounded to `levels` steps on each side of zero."""
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows, 1 / self.levels, self.levels + 1, packed
        )
        return product


def choose_operator(in_features: int, out_features: int) -> Int8Operator:
    """Return what multiplies by an int8 weight of this size on this machine."""
    if has_int8(in_features, out_features):
        return KernelOperator()
    return choose_torch_operator()


@functools.cache
def choose_torch_operator(engines: tuple[str, ...] | None = None) -> Int8Operator:
    """Return what torch has for int8 weights on this machine; found out once.

    Whether sums saturate is found out by a product that would, not by the processor's name.

    Args:
        engines: the quantised engines to choose from; those of this torch when None.
    """
    known = torch.backends.quantized.supported_engines if engines is None else engines
    if any(name in known for name in _PACKERS):
        with contextlib.suppress(RuntimeError, AttributeError):  # built without it, or too old
            exact = _sums_exactly(FbgemmOperator(levels=LARGEST))
            return FbgemmOperator(levels=LARGEST if exact else LARGEST // 2)
    warnings.warn(
        "This torch has no FBGEMM for this processor, so int8 weights are widened at every "
        "product: they save memory, but no time.",
        DalleMiniWarning,
        stacklevel=2,
    )
    return PlainOperator()


@contextlib.contextmanager
def _packing() -> Iterator[None]:
    """Let FBGEMM be the engine, and torch not announce the end of its quantised tensors."""
    before = torch.backends.quantized.engine
    engines = torch.backends.quantized.supported_engines
    wanted = before if before in _PACKERS else next(name for name in _PACKERS if name in engines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            if wanted != before:
                torch.backends.quantized.engine = wanted
            yield
        finally:
            if wanted != before:
                torch.backends.quantized.engine = before


def _sums_exactly(operator: FbgemmOperator) -> bool:
    """Multiply the largest numbers: saturated sums come out too small."""
    inputs = 64
    weight = torch.full((32, inputs), LARGEST, dtype=torch.int8, device="cpu")
    packed = operator.pack(weight, torch.ones(len(weight), dtype=torch.float32, device="cpu"))
    product = operator.multiply(
        torch.ones(2, inputs, dtype=torch.float32, device="cpu"), packed, fine=False
    )
    return torch.allclose(
        product, torch.tensor(float(LARGEST * inputs), dtype=torch.float32, device="cpu"), rtol=1e-4
    )
