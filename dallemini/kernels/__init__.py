"""Products and attention of a few rows, as decoding needs them: torch's functions, or C.

`linear`, `attend` and `linear_int8` compute what the functions of torch of that name compute. Where
the C library was built with the package (any compiler for x86-64 will do) and the processor has
AVX2, inference in float32 goes through it: torch's matrix products are made for many rows. Without
it everything works, slower. A row's result does not depend on the other rows of its batch.

Shapes: M rows, I inputs, O outputs; R decoder rows, H heads, T positions, D width.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UnsupportedOperationError

MOST_ROWS = 64  # from here on, general products are as fast

_FLOATS, _INT8 = 1, 2  # the bits of dallemini_supports
_LANES, _BYTES, _OUTPUTS = 16, 64, 4  # the least sizes that the library computes
_NAME = "_cpu"
_PLAIN = (Tensor, nn.Parameter)


class Linear(nn.Linear):
    """A linear layer without bias that computes with `linear`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Map f[..., I] to f[..., O]."""
        return linear(input, self.weight)


def linear(hidden_states: Tensor, weight: Tensor) -> Tensor:
    """Multiply as `torch.nn.functional.linear` does.

    Args:
        hidden_states: f[..., I].
        weight: f[O, I].

    Returns:
        f[..., O].
    """
    outputs, inputs = weight.shape
    rows = hidden_states.numel() // max(inputs, 1)
    fits = 0 < rows <= MOST_ROWS and inputs >= _LANES and outputs >= _OUTPUTS
    if not (fits and _ready(hidden_states, weight) and hidden_states.shape[-1] == inputs):
        return F.linear(hidden_states, weight)
    if not (hidden_states.is_contiguous() and weight.is_contiguous()):
        return F.linear(hidden_states, weight)
    product = hidden_states.new_empty(*hidden_states.shape[:-1], outputs)
    _found().dallemini_linear_float(
        hidden_states.data_ptr(),
        weight.data_ptr(),
        product.data_ptr(),
        rows,
        inputs,
        outputs,
        torch.get_num_threads(),
    )
    return product


def attend(query: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Attend from one position, as `scaled_dot_product_attention` does.

    Args:
        query: f[R,H,1,D/H].
        keys: f[R,H,T,D/H].
        values: f[R,H,T,D/H].
        mask: bool[R,1,1,T], True where a key may be seen.

    Returns:
        f[R,H,1,D/H].
    """
    if not _fit(query, keys, values, mask):
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    return _attend(query, None, None, keys, values, mask, count=keys.shape[2])


def extend_and_attend(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, *, position: int
) -> Tensor:
    """Write the key and the value of a position to the cache, and attend up to there.

    Args:
        query: f[R,H,1,D/H].
        key: f[R,H,1,D/H].
        value: f[R,H,1,D/H].
        keys: f[R,H,L,D/H], filled before `position`; changed.
        values: f[R,H,L,D/H], changed likewise.
        position: from 0 up to L.

    Returns:
        f[R,H,1,D/H].
    """
    end = position + 1
    together = query.stride() == key.stride() == value.stride()
    if not (together and _fit(query, keys, values, None) and _ready(key, value)):
        keys[:, :, position:end], values[:, :, position:end] = key, value
        return attend(query, keys[:, :, :end], values[:, :, :end])
    return _attend(query, key, value, keys, values, None, count=end)


def linear_int8(rows: Tensor, weight: Tensor, scale: Tensor, *, fine: bool) -> Tensor:
    """Multiply by an int8 weight, rounding each row to 8 bits by its largest absolute value.

    Args:
        rows: f32[M,I].
        weight: i8[O,I] from -127 to 127, contiguous.
        scale: f32[O], contiguous.
        fine: round rows to 16 bits instead.

    Returns:
        f32[M,O].

    Raises:
        UnsupportedOperationError: `has_int8` says that this cannot be computed here.
    """
    outputs, inputs = weight.shape
    if not has_int8(inputs, outputs):
        raise UnsupportedOperationError(
            f"There is no int8 kernel for {inputs} inputs and {outputs} outputs on this processor; "
            "ask has_int8 first."
        )
    rows = rows.contiguous()
    product = rows.new_empty(rows.shape[0], outputs)
    failed = _found().dallemini_linear_int8(
        rows.data_ptr(),
        weight.data_ptr(),
        scale.data_ptr(),
        product.data_ptr(),
        rows.shape[0],
        inputs,
        outputs,
        fine,
        torch.get_num_threads(),
    )
    if failed:
        raise MemoryError(f"No memory to round {rows.shape[0]} rows of {inputs} numbers.")
    return product


def has_int8(inputs: int, outputs: int) -> bool:
    """Tell whether `linear_int8` computes weights of this size here."""
    return bool(_abilities() & _INT8) and inputs >= _BYTES and outputs >= _OUTPUTS


def has_float32() -> bool:
    """Tell whether `linear` and `attend` have something better than torch's functions here."""
    return bool(_abilities() & _FLOATS)


def _fit(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> bool:
    """Tell whether the library reads queries and a cache that lie like this."""
    rows, heads, queries, size = query.shape
    return (
        queries == 1
        and size % _LANES == 0
        and keys.shape[2] > 0
        and _ready(query, keys, values)
        and keys.is_contiguous()
        and values.is_contiguous()
        and (heads == 1 or query.stride(1) == size)
        and query.stride(3) == 1
        and (mask is None or (mask.dtype == torch.bool and mask.is_contiguous()))
        and (mask is None or mask.numel() == rows * keys.shape[2])
    )


def _attend(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    *,
    count: int,
) -> Tensor:
    rows, heads, capacity, size = keys.shape
    attended = query.new_empty(rows, heads, 1, size)
    inputs = (query, key, value, keys, values, mask, attended)
    _found().dallemini_attend(
        *(None if tensor is None else tensor.data_ptr() for tensor in inputs),
        rows,
        query.stride(0),
        heads,
        count,
        capacity,
        size,
        torch.get_num_threads(),
    )
    return attended


def _ready(*tensors: Tensor) -> bool:
    """Tell whether the library may read these tensors: plain ones, and nothing records them."""
    if torch.compiler.is_compiling() or not has_float32() or torch.is_autocast_enabled("cpu"):
        return False
    records = torch.is_grad_enabled()
    return all(
        type(tensor) in _PLAIN
        and tensor.dtype == torch.float32
        and tensor.is_cpu
        and not (records and tensor.requires_grad)
        for tensor in tensors
    )


@functools.cache
def _abilities() -> int:
    """Return what the library can do on this processor; 0 if it was not built."""
    library = _library()
    return 0 if library is None else int(library.dallemini_supports())


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Load the library, once; None if there is none, or none that torch's OpenMP can run."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(_NAME + suffix)
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another system, or this torch has no OpenMP
                return None
            return _declared(library)
    return None


def _found() -> ctypes.CDLL:
    library = _library()
    assert library is not None
    return library


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, flag = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    functions = {
        "dallemini_linear_float": ([*[pointer] * 3, *[number] * 3, flag], None),
        "dallemini_linear_int8": ([*[pointer] * 4, *[number] * 3, flag, flag], flag),
        "dallemini_attend": ([*[pointer] * 7, *[number] * 6, flag], None),
        "dallemini_supports": ([], flag),
    }
    for name, (arguments, result) in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
