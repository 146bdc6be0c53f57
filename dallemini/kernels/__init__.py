"""Products and attention of a few rows, as decoding needs them: torch's functions, or C.

`linear`, `attend` and `linear_int8` compute what the functions of torch of that name compute. Where
the C libraries were built with the package (by GCC 12 or newer, or Clang, on Linux or macOS) and
the processor has AVX-512, AVX2 or, as all of 64-bit ARM, NEON, inference in float32 goes through
one of them: torch's matrix products are made for many rows. Without them everything works, slower.
A row's result does not depend on the other rows of its batch.

Shapes: M rows, I inputs, O outputs; R decoder rows, H heads, S queries, T positions, D width.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import itertools
import platform
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import DalleMiniWarning, InputError, UnsupportedOperationError
from .threads import count_threads, keep_torch_alone

MOST_ROWS = 64  # from here on, general products are as fast

_LINE, _BYTES, _OUTPUTS = 16, 64, 4  # the least sizes that a library computes
_MOST_POSITIONS = 1 << 14  # scores lie on the stack of a thread
_INTERFACE = 5  # of dallemini_interface
_ARM = platform.machine() in ("aarch64", "arm64")
_NAMES = ("_cpu_neon",) if _ARM else ("_cpu_avx512", "_cpu_avx2")  # the faster one first
_PLAIN = (Tensor, nn.Parameter)
_is_traced, _is_transformed, _dispatch_modes = (
    getattr(torch._C, name, bool)  # nothing to ask where torch has no such thing any more
    for name in ("_is_tracing", "_are_functorch_transforms_active", "_len_torch_dispatch_stack")
)


class Linear(nn.Linear):
    """A linear layer that computes with `linear`; without a bias unless it is asked for."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self._biased = bias

    def forward(self, input: Tensor) -> Tensor:
        """Map f[..., I] to f[..., O]."""
        return linear(input, self.weight, self.bias if self._biased else None)


def linear(hidden_states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply as `torch.nn.functional.linear` does.

    Args:
        hidden_states: f[..., I].
        weight: f[O, I].
        bias: f[O], added.

    Returns:
        f[..., O].
    """
    outputs, inputs = weight.shape
    rows = hidden_states.numel() // max(inputs, 1)
    fits = 0 < rows <= MOST_ROWS and inputs >= _LINE and outputs >= _OUTPUTS
    fits = fits and _ready(hidden_states, weight) and hidden_states.shape[-1] == inputs
    fits = fits and (bias is None or _ready(bias))
    if not (fits and hidden_states.is_contiguous() and weight.is_contiguous()):
        return F.linear(hidden_states, weight, bias)
    product = hidden_states.new_empty(*hidden_states.shape[:-1], outputs)
    _found().dallemini_linear_float(
        hidden_states.data_ptr(),
        weight.data_ptr(),
        product.data_ptr(),
        rows,
        inputs,
        outputs,
        count_threads(),
    )
    return product if bias is None else product.add_(bias)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    counts: Tensor | None = None,
) -> Tensor:
    """Attend from queries that see the same, as `scaled_dot_product_attention` does.

    Where the kernels compute, a query has the same bits alone and beside others.

    Args:
        query: f[R,H,S,D/H].
        keys: f[R,H,T,D/H].
        values: f[R,H,T,D/H].
        mask: bool[R,1,1,T], True where a key may be seen.
        counts: i64[R] from 0 to T, how many of the first keys each row sees; all when None.

    Returns:
        f[R,H,S,D/H]; zeros where a row sees nothing.

    Raises:
        InputError: `counts` is not such a tensor. On a GPU, its numbers are not looked at.
    """
    if counts is not None:
        _check_numbers("counts", counts, query, device=query.device)
    if _fit(query, keys, values, mask):
        return _attend(query, None, None, keys, values, mask, counts)
    if counts is not None:
        if counts.is_cpu:
            _check_range("counts", counts, least=0, most=keys.shape[2])
        seen = (
            torch.arange(keys.shape[2], device=keys.device, dtype=torch.int64)
            < counts[:, None, None, None]
        )
        mask = seen if mask is None else mask & seen
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)


def extend_and_attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    position: int | Tensor,
) -> Tensor:
    """Write keys and values of the next positions to the cache; attend from each up to itself.

    Where the kernels compute, a row has the same bits whatever the positions of the others, whether
    `position` is a number or a tensor, and whether several positions are written at once.

    Args:
        query: f[R,H,S,D/H].
        key: f[R,H,S,D/H].
        value: f[R,H,S,D/H].
        keys: f[R,H,L,D/H], filled before `position`; changed.
        values: f[R,H,L,D/H], changed likewise.
        position: of the first query, from 0 to L - S; or i64[R] on the CPU, one for each row.

    Returns:
        f[R,H,S,D/H].

    Raises:
        InputError: the cache has no such position, or the tensor is not one of integers, one for
            each row.
    """
    count = query.shape[2]
    most = keys.shape[2] - count
    if isinstance(position, Tensor):
        _check_numbers("position", position, query, device=torch.device("cpu"))
    elif not 0 <= position <= most:
        raise InputError(f"position must be from 0 to {most}, not {position}.")
    together = query.stride() == key.stride() == value.stride()
    together = together and query.shape == key.shape == value.shape
    if together and _fit(query, keys, values, None, key, value):
        return _attend(query, key, value, keys, values, None, position + 1)
    if not isinstance(position, Tensor):
        end = position + count
        keys[:, :, position:end], values[:, :, position:end] = key, value
        if count == 1:
            return attend(query, keys[:, :, :end], values[:, :, :end])
        seen = torch.ones(count, end, dtype=torch.bool, device=query.device).tril(position)
        return F.scaled_dot_product_attention(
            query, keys[:, :, :end], values[:, :, :end], attn_mask=seen
        )
    _check_range("position", position, least=0, most=most)
    attended, first = [], 0
    for place, group in itertools.groupby(
        position.tolist()
    ):  # a row's bits do not depend on others
        part = slice(first, first := first + sum(1 for _ in group))
        present = query[part], key[part], value[part]
        attended.append(extend_and_attend(*present, keys[part], values[part], position=place))
    return torch.cat(attended)


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
        InputError: the shapes do not fit each other.
    """
    outputs, inputs = weight.shape
    if not has_int8(inputs, outputs):
        raise UnsupportedOperationError(
            f"There is no int8 kernel for {inputs} inputs and {outputs} outputs on this processor; "
            "ask has_int8 first."
        )
    if rows.ndim != 2 or rows.shape[1] != inputs or scale.shape != (outputs,):
        raise InputError(
            f"Rows of the shape {tuple(rows.shape)} and scales of {tuple(scale.shape)} do not go "
            f"with a weight of {tuple(weight.shape)}; rows are f32[M,{inputs}]."
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
        count_threads(),
    )
    if failed:
        raise MemoryError(f"No memory to round {rows.shape[0]} rows of {inputs} numbers.")
    return product


def has_int8(inputs: int, outputs: int) -> bool:
    """Tell whether `linear_int8` computes weights of this size here."""
    return has_kernels() and inputs >= _BYTES and outputs >= _OUTPUTS


def is_watched() -> bool:
    """Tell whether something would miss what the library computes.

    That is a compiler, a trace, `torch.func`, forward derivatives or a dispatch mode, all of which
    see the operators of torch only. Backward derivatives are not meant.
    """
    return (
        torch.compiler.is_compiling()  # first: a compiler understands this one
        or _is_traced()
        or _is_transformed()
        or _dispatch_modes() > 0
        or getattr(forward_ad, "_current_level", -1) >= 0
    )


def few_rows(
    rows: int, dtype: torch.dtype, device: torch.device
) -> contextlib.AbstractContextManager[None]:
    """Return what to compute small products of so many rows in: `keep_torch_alone` where it helps.

    That is where the products are the library's, and what torch does between them is small.
    """
    ours = rows <= MOST_ROWS and dtype is torch.float32 and device.type == "cpu"
    if ours and has_kernels() and not is_watched():
        return keep_torch_alone()
    return contextlib.nullcontext()


def has_kernels() -> bool:
    """Tell whether there is something better than torch's functions here."""
    return _library() is not None


def reads_cache(keys: Tensor) -> bool:
    """Tell whether attention to keys f[R,H,L,D/H] in a decoder's cache is computed by the library.

    Then each position has the same bits alone and beside others of its row.
    """
    return keys.shape[3] % _LINE == 0 and keys.shape[2] <= _MOST_POSITIONS and _ready(keys)


def _fit(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *present: Tensor
) -> bool:
    """Tell whether the library reads queries and a cache that lie like this."""
    rows, heads, queries, size = query.shape
    shape = keys.shape
    positions = shape[2]
    return (
        (queries == 1 or 0 < rows * queries <= MOST_ROWS)
        and size % _LINE == 0
        and 0 < positions <= _MOST_POSITIONS
        and shape == (rows, heads, positions, size)
        and shape == values.shape
        and _ready(query, keys, values, *present)
        and keys.is_contiguous()
        and values.is_contiguous()
        and (heads == 1 or query.stride(1) == size)
        and query.stride(3) == 1
        and (queries == 1 or query.stride(0) == queries * query.stride(2))
        and (mask is None or (mask.dtype == torch.bool and mask.is_cpu and mask.is_contiguous()))
        and (mask is None or mask.shape == (rows, 1, 1, positions))
    )


def _attend(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    counts: Tensor | int | None,
) -> Tensor:
    """Call the library; those of the first query become the last of as many as `counts` says."""
    rows, heads, capacity, size = keys.shape
    queries = query.shape[2]
    attended = query.new_empty(rows, queries, heads, size)
    numbers = counts.contiguous() if isinstance(counts, Tensor) else None
    failed = _found().dallemini_attend(
        query.data_ptr(),
        None if key is None else key.data_ptr(),
        None if value is None else value.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        None if mask is None else mask.data_ptr(),
        None if numbers is None else numbers.data_ptr(),
        attended.data_ptr(),
        rows,
        query.stride(0) if queries == 1 else query.stride(2),
        heads,
        queries,
        counts if isinstance(counts, int) else capacity,
        capacity,
        size,
        count_threads(),
    )
    if failed:
        assert numbers is not None
        if key is None:
            _check_range("counts", numbers, least=0, most=capacity)
        else:
            _check_range("position", numbers - 1, least=0, most=capacity - queries)
    return attended.transpose(1, 2)


def _check_numbers(name: str, numbers: Tensor, query: Tensor, *, device: torch.device) -> None:
    """Refuse what is not i64[R] beside queries f[R, ...]."""
    shape = query.shape[:1]
    fits = numbers.dtype == torch.int64 and numbers.shape == shape
    if not (fits and numbers.device == device):
        raise InputError(
            f"{name} must be torch.int64 of shape {list(shape)} on {device}, one for each "
            f"row, not {numbers.dtype} of shape {list(numbers.shape)} on {numbers.device}."
        )


def _check_range(name: str, numbers: Tensor, *, least: int, most: int) -> None:
    for number in numbers.tolist():
        if not least <= number <= most:
            raise InputError(f"{name} must be from {least} to {most}, not {number}.")


def _ready(*tensors: Tensor) -> bool:
    """Tell whether the library may read these tensors: plain ones, and nothing records them."""
    if is_watched() or not has_kernels() or torch.is_autocast_enabled("cpu"):
        return False
    records = torch.is_grad_enabled()
    for tensor in tensors:  # a loop takes half the time of `all`
        plain = type(tensor) in _PLAIN and tensor.layout is torch.strided and tensor.is_cpu
        if not plain or tensor.dtype is not torch.float32 or (records and tensor.requires_grad):
            return False
    return True


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the first library that the processor can run."""
    loaded = (_loaded(name) for name in _NAMES)
    return next((library for library in loaded if library and library.dallemini_supports()), None)


def _loaded(name: str) -> ctypes.CDLL | None:
    """Load a library; None if there is none that fits this package and torch's OpenMP."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(name + suffix)
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another system, or this torch has no OpenMP
                return None
            return _declared(library) if _is_current(library, path) else None
    return None


def _is_current(library: ctypes.CDLL, path: Path) -> bool:
    """Tell whether functions take what they are given here, and warn if not."""
    if getattr(library, "dallemini_interface", int)() == _INTERFACE:  # int() is 0
        return True
    warnings.warn(
        f"{path} was built for another version of dallemini, so torch computes, more slowly; "
        "install the package again to build it anew.",
        DalleMiniWarning,
        stacklevel=2,
    )
    return False


def _found() -> ctypes.CDLL:
    library = _library()
    assert library is not None
    return library


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, flag = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    functions = {
        "dallemini_linear_float": ([*[pointer] * 3, *[number] * 3, flag], None),
        "dallemini_linear_int8": ([*[pointer] * 4, *[number] * 3, flag, flag], flag),
        "dallemini_attend": ([*[pointer] * 8, *[number] * 7, flag], flag),
        "dallemini_norm": ([*[pointer] * 4, number, number, flag], None),
        "dallemini_layer": ([pointer] * 5, flag),
        "dallemini_supports": ([], flag),
    }
    for name, (arguments, result) in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
