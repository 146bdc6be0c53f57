"""How far a call is: for a bar on a terminal or in a notebook, and for a callback.

tqdm is imported when a bar is first shown; `tqdm.auto` chooses the widget of notebooks.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..errors import InputTypeError

Stage: TypeAlias = Literal["tokens", "pictures"]


@dataclass(frozen=True, kw_only=True)
class GenerationProgress:
    """How far a call is.

    Attributes:
        stage: "tokens", then "pictures", which are decoded from them and scored.
        done: so many of this stage.
        total: of this stage.

    Example:
        >>> from dallemini.testing import tiny_pipeline
        >>> told = []
        >>> _ = tiny_pipeline()("a red apple", seed=0, callback=told.append)
        >>> told[0], len(told)
        (GenerationProgress(stage='tokens', done=1, total=16), 17)
    """

    stage: Stage
    done: int
    total: int


Callback: TypeAlias = Callable[[GenerationProgress], object]


class Meter:
    """Tells a bar and a callback how far a call is.

    Args:
        progress: show a bar; None shows it on a terminal and in a notebook.
        callback: called after every step. What it raises ends the call.

    Raises:
        InputTypeError: the callback cannot be called, or `progress` is not one of the three.
    """

    def __init__(self, progress: bool | None, callback: Callback | None = None) -> None:
        if progress is not None and not isinstance(progress, bool):
            raise InputTypeError(f"progress must be True, False or None, not {progress!r}.")
        if callback is not None and not callable(callback):
            raise InputTypeError(f"callback must be a function of one argument, not {callback!r}.")
        self._progress, self._callback = progress, callback

    @contextlib.contextmanager
    def stage(self, stage: Stage, total: int) -> Iterator[Callable[[int], None]]:
        """Give a function that is told of so many more tokens or pictures."""
        shown = _is_watched() if self._progress is None else self._progress
        bar = _make_bar(total, stage.removesuffix("s")) if shown else None
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if bar is not None:
                bar.update(count)
            if self._callback is not None:
                self._callback(GenerationProgress(stage=stage, done=done, total=total))

        try:
            yield advance
        finally:
            if bar is not None:
                bar.close()


def _is_watched() -> bool:
    """Tell whether somebody looks at what is written: on a terminal, or in a notebook."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell is not None else None
    if kernel is not None and "IPKernelApp" in getattr(kernel, "config", {}):
        return True
    return sys.stderr is not None and sys.stderr.isatty()


def _make_bar(total: int, unit: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets gets a bar of text
        from tqdm.auto import tqdm

    return tqdm(total=total, unit=unit, leave=False)
