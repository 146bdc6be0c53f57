"""Decoding with static shapes: what `torch.compile` and CUDA graphs need of a step.

Every tensor that a step reads or writes keeps its shape, strides and address for as long as its
cache lives, and the position is a tensor: a number of Python would be compiled into the code, once
for every position. The price is that attention reads all L image positions and the longest text,
masked, instead of what is filled.

Shapes: R decoder rows, T text tokens, L image tokens, D width, H heads, V image vocabulary + 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, InputTypeError, UnsupportedOperationError
from .cache import DecoderCache, mask_bias

DecodingStep: TypeAlias = Callable[[Tensor, DecoderCache], Tensor]
Runner: TypeAlias = Callable[[DecodingStep, Tensor, DecoderCache], Tensor]
Replay: TypeAlias = Callable[[], Tensor]
Capture: TypeAlias = Callable[[Replay, torch.device], Replay]

WARM_UPS = 3  # runs before a capture, in which libraries allocate what they keep


@dataclass(eq=False, kw_only=True)
class StaticCache(DecoderCache):
    """A cache whose tensors never change their shape or address while no row comes or goes.

    Keys and values are zeros where nothing is written yet, since a mask cannot hide what is not a
    number. `CompiledStep.run` fills `image_tokens`, `position` and `filled`, which are all that
    differs between two steps. Rows stand at one position, all of them.

    Attributes:
        compiled: what computes its steps.
        image_tokens: i64[R], the tokens that the step reads.
        position: i64[1], where it writes.
        filled: bool[1,1,1,L], which positions it may read, its own included.
        replay: repeats the step on a device that has graphs, once it is captured.
    """

    compiled: CompiledStep
    image_tokens: Tensor
    position: Tensor
    filled: Tensor
    replay: Replay | None = field(default=None, repr=False)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None
    ) -> Tensor:
        """Write key and value f[R,H,S,D/H] from the position on; attend to what is filled."""
        if query.shape[2] > 1:  # a beginning that is known, which is not compiled
            return super().attend(layer, query, key, value, bias=bias)
        keys, values = self.self_keys[layer], self.self_values[layer]
        keys.index_copy_(2, self.position, key)
        values.index_copy_(2, self.position, value)
        mask = self.filled if bias is None else mask_bias(bias, self.filled)
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

    def take_positions(self, table: Tensor, count: int) -> Tensor:
        """Return the rows f[S,D] of f[L,D] for the next positions."""
        if count > 1:
            return super().take_positions(table, count)
        return table.index_select(0, self.position)

    def append(self, other: DecoderCache) -> None:
        """Take over the rows of another cache; the next step is compiled for their number.

        Raises:
            UnsupportedOperationError: they stand at another position.
        """
        if {*self.positions, *other.positions} != {self.length}:
            raise UnsupportedOperationError(
                "The rows of a compiled Transformer stand at one position, so that no picture can "
                f"join at {other.length} where others are at {self.length}; draw without compiling."
            )
        super().append(other)
        self._renew()

    def keep(self, rows: list[int]) -> None:
        """Keep these rows in this order; the next step is compiled for their number."""
        super().keep(rows)
        self._renew()

    def _renew(self) -> None:
        self.image_tokens = self.image_tokens.new_zeros(self.rows)
        self.replay = None


class CompiledStep:
    """Starts static caches, and compiles the step once for each number of rows.

    Args:
        backend: of `torch.compile`.

    Raises:
        InputTypeError: `backend` is not a string.
        InputError: torch has no such backend.
        UnsupportedOperationError: torch has no compiler here.
    """

    def __init__(self, *, backend: str) -> None:
        self.backend = _check_backend(backend)
        self._runners: dict[tuple[int, torch.device, torch.dtype], Runner] = {}

    @torch.no_grad()
    def start(self, cache: DecoderCache, *, text_length: int) -> StaticCache:
        """Make a static cache of a fresh one, whose text is padded to `text_length`."""
        keys = cache.self_keys[0]
        return StaticCache(
            self_keys=[tensor.zero_() for tensor in cache.self_keys],
            self_values=[tensor.zero_() for tensor in cache.self_values],
            cross_keys=[_widen(tensor, -2, text_length) for tensor in cache.cross_keys],
            cross_values=[_widen(tensor, -2, text_length) for tensor in cache.cross_values],
            cross_mask=_widen(cache.cross_mask, -1, text_length),
            compiled=self,
            image_tokens=keys.new_zeros(cache.rows, dtype=torch.int64),
            position=keys.new_zeros(1, dtype=torch.int64),
            filled=keys.new_zeros(1, 1, 1, keys.shape[2], dtype=torch.bool),
        )

    @torch.no_grad()
    def run(self, step: DecodingStep, image_tokens: Tensor, cache: StaticCache) -> Tensor:
        """Decode the current position of tokens i64[R]; return the logits f[R,V] of `step`.

        Raises:
            UnsupportedOperationError: torch cannot compile the step.
        """
        cache.image_tokens.copy_(image_tokens)
        cache.position.fill_(cache.length)
        cache.filled[..., : cache.length + 1] = True
        if cache.replay is not None:
            return cache.replay()
        once = functools.partial(self._runner(cache), step, cache.image_tokens, cache)
        device = cache.position.device
        if device.type not in GRAPHS:
            return once()
        cache.replay = GRAPHS[device.type](once, device)
        return cache.replay()

    def _runner(self, cache: StaticCache) -> Runner:
        keys = cache.self_keys[0]
        shape = (cache.rows, keys.device, keys.dtype)
        if shape not in self._runners:
            self._runners[shape] = _compile(self.backend)
        return self._runners[shape]


def capture_cuda_graph(step: Replay, device: torch.device) -> Replay:
    """Capture a step in a CUDA graph, which launches all of its kernels as one.

    `step` runs a few times on a side stream first, as captures ask for; to run it again changes
    nothing, since it writes the same position. The graph lives as long as what is returned.

    Args:
        step: reads and writes tensors that stay where they are.
        device: the GPU.

    Returns:
        Repeats the step and returns a copy of its result.
    """
    with torch.cuda.device(device):
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # errors of other threads, which may allocate meanwhile, do not concern us
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = step()

    def replay() -> Tensor:
        graph.replay()
        return result.clone()

    return replay


# How a step is captured, by kind of device; on the others the compiled code is called every time.
GRAPHS: dict[str, Capture] = {"cuda": capture_cuda_graph}


def _compile(backend: str) -> Runner:
    """Wrap a step to be compiled at its first call, turning torch's errors into ours."""
    # torch keeps compiled code, eight versions at most, with the code object it was made from
    fresh = FunctionType(_call.__code__.replace(), globals())
    compiled = cast(Runner, torch.compile(fresh, backend=backend, fullgraph=True, dynamic=False))

    def run(step: DecodingStep, image_tokens: Tensor, cache: DecoderCache) -> Tensor:
        try:
            return compiled(step, image_tokens, cache)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            raise UnsupportedOperationError(
                f"torch.compile with the backend {backend!r} failed: {reason.rstrip('.')}. "
                "'inductor' needs a C++ compiler, and Triton on a GPU; install them, or load the "
                "model anew and draw without compiling."
            ) from error

    return run


def _call(step: DecodingStep, image_tokens: Tensor, cache: DecoderCache) -> Tensor:
    return step(image_tokens, cache)


def _check_backend(backend: object) -> str:
    if not isinstance(backend, str):
        raise InputTypeError(f"backend must be a name such as 'inductor', not {backend!r}.")
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise InputError(f"backend must be one of {', '.join(known)}, not {backend!r}.")
    try:
        torch.compile(_call, backend="eager")  # imports no code generator yet
    except RuntimeError as error:  # such as a Python that is too new for this torch
        raise UnsupportedOperationError(
            f"torch.compile does not run here: {error}. Draw without compiling."
        ) from error
    return backend


def _widen(tensor: Tensor, axis: int, length: int) -> Tensor:
    """Copy a tensor into zeros that are longer on one axis, with the strides of a fresh one."""
    shape = list(tensor.shape)
    shape[axis] = length
    widened = tensor.new_zeros(shape)
    widened.narrow(axis, 0, tensor.shape[axis]).copy_(tensor)
    return widened
