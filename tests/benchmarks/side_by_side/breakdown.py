"""Where the time of a decoding step goes, seen from outside by torch's profiler.

The profiler itself costs about a microsecond an operation, so that "python" (what lies between the
operations) is somewhat overstated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

PARTS = ("layers", "projections", "lm_head", "attention", "sampling", "other operations", "python")
SCOPES = {"run_layers": "layers", "lm_head": "lm_head", "sampling": "sampling"}
_ATTENTION = ("attend", "scaled_dot_product", "flash_attention", "bmm", "baddbmm", "softmax")
_PROJECTIONS = ("linear", "addmm", "aten::mm", "matmul", "int8pack", "int_mm", "quantized")


class Breakdown:
    """Profiles an iterator of steps, with scopes around parts that operators do not tell apart."""

    def scoped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same callable inside a scope of the profiler."""

        def inside(*arguments: Any, **named: Any) -> Any:
            with record_function(name):
                return call(*arguments, **named)

        return inside

    @contextmanager
    def watching(self, module: nn.Module, name: str) -> Iterator[None]:
        """Put a scope around every call of a module."""
        entered: list[Any] = []

        def enter(*_: object) -> None:
            entered.append(record_function(name))
            entered[-1].__enter__()

        def leave(*_: object) -> None:
            entered.pop().__exit__(None, None, None)

        handles = (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def watching_functions(self, module: ModuleType, names: Iterable[str]) -> Iterator[None]:
        """Put a scope of its name around every call of these functions of a module."""
        before = {name: getattr(module, name) for name in names}
        for name, function in before.items():
            setattr(module, name, self.scoped(name, function))
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(module, name, function)

    def of(
        self, tokens: Iterator[Any], *, positions: Sequence[int], steps: int
    ) -> dict[str, dict[str, float]]:
        """Advance to each position and profile some steps there.

        Args:
            tokens: yields once a step.
            positions: in rising order, at least `steps` apart.
            steps: profiled at each.

        Returns:
            By position: seconds a step by part, of `PARTS`, and "step" for the sum.
        """
        found, reached = {}, 0
        for position in positions:
            for _ in range(position - reached):
                next(tokens)
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                start = time.perf_counter()
                for _ in range(steps):
                    next(tokens)
                wall = time.perf_counter() - start
            reached = position + steps
            parts = sum_parts(profiler.events() or (), wall=wall)
            found[str(position)] = {name: value / steps for name, value in parts.items()}
        return found


def sum_parts(events: Iterable[Any], *, wall: float) -> dict[str, float]:
    """Sum up seconds by part; what no operation accounts for is "python".

    Args:
        events: of the profiler: each with name, parent and microseconds of its own.
        wall: seconds of everything.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    for event in events:
        parts[_part(event)] += event.self_cpu_time_total * 1e-6
    parts["python"] = max(0.0, wall - sum(parts.values()) + parts["python"])
    return {**parts, "step": wall}


def _part(event: Any) -> str:
    above = event
    while above is not None:
        if above.name in SCOPES:
            return SCOPES[above.name]
        above = above.cpu_parent
    if any(part in event.name for part in _ATTENTION):
        return "attention"
    if any(part in event.name for part in _PROJECTIONS):
        return "projections"
    return "other operations"
