"""How weights are held, as one argument: a floating-point type, its name, or "int8".

`Precision` is what a caller may write, `Weights` what it means. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ..config import suggest
from ..errors import InputError, InputTypeError, UnsupportedOperationError

Quantization = Literal["int8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("int8",)
Precision = torch.dtype | Literal["float32", "float16", "bfloat16", "float64", "int8"]
"""What `dtype=` of one part takes."""

FLOATS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
_NAMES = (*FLOATS, *QUANTIZATIONS)


@dataclass(frozen=True)
class Weights:
    """How the weights of one part are to be held.

    Attributes:
        dtype: floating-point type of what is not quantised, and of the computation.
        quantization: "int8" quantises while loading; None leaves weights as they were saved.
    """

    dtype: torch.dtype = torch.float32
    quantization: Quantization | None = None


def read_precision(dtype: object, quantization: object = None) -> Weights:
    """Return what `dtype=` means, or its older spelling with `quantization=` beside it.

    Args:
        dtype: a floating-point type of torch, its name, "int8", or None for float32.
        quantization: "int8" or None, as it was written before `dtype="int8"`.

    Raises:
        InputTypeError: one is neither a name nor a floating-point type.
        InputError: there is none of that name.

    Example:
        >>> from dallemini.models.precision import read_precision
        >>> read_precision("int8")
        Weights(dtype=torch.float32, quantization='int8')
    """
    asked = None if quantization is None else check_quantization(quantization)
    if isinstance(dtype, Mapping):
        raise InputTypeError(f"dtype must be one type for this part, not {dict(dtype)!r}.")
    if dtype in QUANTIZATIONS:
        return Weights(quantization=check_quantization(dtype))
    return Weights(check_dtype(dtype), asked)


def read_precisions(
    dtype: object, quantization: object = None, *, parts: Iterable[str], quantizable: str
) -> dict[str, Weights]:
    """Return the precision of each part of a pipeline.

    Args:
        dtype: one for all parts, or a mapping from parts to their own; parts that it leaves out
            are float32.
        quantization: the older spelling.
        parts: their names.
        quantizable: the part that "int8" alone means; the others are float32 then.

    Raises:
        InputTypeError: a precision is neither a name nor a floating-point type.
        InputError: there is none of that name, or no such part.
    """
    names = tuple(parts)
    if not isinstance(dtype, Mapping):
        weights = read_precision(dtype, quantization)
        others = Weights(weights.dtype)
        return {name: weights if name == quantizable else others for name in names}
    if unknown := [name for name in dtype if name not in names]:
        raise InputError(
            f"dtype names a part {unknown[0]!r}, which has no weights.{suggest(unknown[0], names)}"
        )
    older = {quantizable: quantization}
    return {name: read_precision(dtype.get(name), older.get(name)) for name in names}


def has_native_bfloat16() -> bool:
    """Tell whether torch reports that this processor multiplies bfloat16: AVX-512 BF16 or AMX.

    Others widen and round every number, which is slower than float32.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def check_dtype(dtype: object) -> torch.dtype:
    """Return the floating-point type that weights are wanted in, float32 for None.

    Raises:
        InputTypeError: it is neither a name nor a floating-point type of torch.
        InputError: there is none of that name.
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, torch.dtype) and dtype in FLOATS.values():
        return dtype
    if not isinstance(dtype, str):
        raise InputTypeError(
            f"dtype must be a floating-point type such as torch.float16, or one of the names "
            f"{', '.join(_NAMES)}, not {dtype!r}."
        )
    if dtype in QUANTIZATIONS:
        raise InputError(f"Weights are made {dtype} by from_pretrained or quantize only.")
    if dtype not in FLOATS:
        raise InputError(f"There is no dtype {dtype!r}.{suggest(dtype, _NAMES)}")
    return FLOATS[dtype]


def check_quantization(name: object) -> Quantization:
    """Return the name of a quantisation.

    Raises:
        InputTypeError: it is not a string.
        InputError: there is none of this name.
    """
    if not isinstance(name, str):
        raise InputTypeError(f"quantization must be a name such as 'int8', not {name!r}.")
    for known in QUANTIZATIONS:
        if name == known:
            return known
    raise InputError(f"quantization must be {' or '.join(QUANTIZATIONS)!r}, not {name!r}.")


def refuse_moving(fn: Any) -> None:
    """Try what `Module.to` would do to the weights.

    Raises:
        UnsupportedOperationError: it would change their device or dtype.
    """
    before = torch.empty(0, dtype=torch.float32, device="cpu")
    after = fn(before)
    if after.dtype == before.dtype and after.device == before.device:
        return
    where = after.dtype if after.device == before.device else f"the device {str(after.device)!r}"
    raise UnsupportedOperationError(
        f"A model with int8 weights computes in torch.float32 on the CPU and cannot be moved to "
        f"{where}; load it without quantization for that."
    )
