"""Timers around methods of objects that know nothing of them, and what a call of a model took."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

IMAGE_LENGTH = 256


class Enough(Exception):
    """The steps that were asked for are done."""


@dataclass
class Stopwatch:
    """Start and end of every call of the watched methods, in seconds.

    Attributes:
        calls: by the name given to `watch`, (start, end) of every call that ended.
    """

    calls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def watch(self, name: str, owner: Any, method: str) -> None:
        """Replace a method of one object by one that is timed."""
        timed = getattr(owner, method)
        times = self.calls.setdefault(name, [])

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = timed(*arguments, **named)
            times.append((start, time.perf_counter()))
            return result

        setattr(owner, method, call)

    def clear(self) -> None:
        """Forget the calls, not the methods."""
        for times in self.calls.values():
            times.clear()

    def seconds(self, name: str) -> float:
        """Return how long all calls of one name took."""
        return sum(end - start for start, end in self.calls[name])


def measure_call(
    watch: Stopwatch, call: Callable[[], object], *, images: int, complete: bool = True
) -> dict[str, float]:
    """Run a call of which `encoder`, `step` and `decode` are watched.

    Args:
        watch: watches both models of the pipeline.
        call: draws the pictures.
        images: number of pictures.
        complete: every step was computed; else the call's time is composed of its parts.

    Returns:
        Seconds: `whole`, `encoder`, `token` (a position of all images), `decode` (an image).

    Raises:
        RuntimeError: the call did not go through the watched methods.
    """
    watch.clear()
    start = time.perf_counter()
    call()
    whole = time.perf_counter() - start
    steps = watch.calls["step"]
    if len(steps) < 2 or not watch.calls["encoder"] or not watch.calls["decode"]:
        raise RuntimeError(f"The call is not made of the watched parts: {sorted(watch.calls)}.")
    decode, encoder = watch.seconds("decode"), watch.seconds("encoder")
    if complete:  # sampling and the loop itself included; a step may have several positions
        token = (watch.calls["decode"][0][0] - steps[0][0]) / IMAGE_LENGTH
    else:
        token = watch.seconds("step") / len(steps)
        whole = encoder + IMAGE_LENGTH * token + decode
    return {"whole": whole, "encoder": encoder, "token": token, "decode": decode / images}


def only_at(owner: Any, method: str, positions: Collection[int], skipped: Any) -> None:
    """Run a method at some of its calls only; at the others `skipped` says what comes out.

    Args:
        owner: whose method it is.
        method: called once for each position, from 0 on.
        positions: the calls that are computed.
        skipped: gets the arguments of a call that is left out.
    """
    computed, position = getattr(owner, method), -1

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal position
        position = (position + 1) % IMAGE_LENGTH
        chosen = computed if position in positions else skipped
        return chosen(*arguments, **named)

    setattr(owner, method, call)


def first_calls(
    owner: Any, method: str, count: int, call: Callable[[], object], *, pick: Callable[..., int]
) -> list[int]:
    """Run `call` until it has called a method `count` times; return what `pick` sees in each.

    The method gets its arguments after `pick` did, and is put back at the end.
    """
    seen: list[int] = []
    original = getattr(owner, method)

    def record(*arguments: Any, **named: Any) -> Any:
        seen.append(pick(*arguments, **named))
        if len(seen) == count:
            raise Enough
        return original(*arguments, **named)

    setattr(owner, method, record)
    try:
        call()
    except Enough:
        pass
    finally:
        setattr(owner, method, original)
    return seen
