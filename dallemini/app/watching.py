"""Work in a thread of its own, that is watched, and ends soon after nobody watches it any more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from ..errors import GenerationCancelled
from ..pipeline.progress import Callback, GenerationProgress

THREAD = "dallemini-app"
_PATIENCE = 0.3  # seconds in which a watcher always hears something, so that it can be stopped

T = TypeVar("T")


def watch(
    work: Callable[[Callback], Iterable[T]],
) -> Generator[tuple[float, T | None], None, None]:
    """Yield which share of the tokens is drawn, with what work yields, or None in between.

    Dropped, it cancels the work, which then ends at its next token.

    Args:
        work: is told what to call after each token.
    """
    news: queue.SimpleQueue[T | BaseException | None] = queue.SimpleQueue()
    dropped, share = threading.Event(), 0.0

    def tell(progress: GenerationProgress) -> None:
        nonlocal share
        if dropped.is_set():
            raise GenerationCancelled("The page was closed, or somebody pressed Cancel.")
        share = progress.done / progress.total if progress.stage == "tokens" else 1.0

    def run() -> None:
        try:
            for piece in work(tell):
                news.put(piece)
            news.put(None)
        except BaseException as error:  # raised again where somebody waits
            news.put(error)

    threading.Thread(target=run, name=THREAD, daemon=True).start()
    try:
        while True:
            try:
                came = news.get(timeout=_PATIENCE)
            except queue.Empty:
                yield share, None
                continue
            if came is None:
                return
            if isinstance(came, BaseException):
                raise came
            yield share, came
    finally:
        dropped.set()
