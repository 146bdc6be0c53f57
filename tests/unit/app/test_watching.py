"""Work that is watched from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dallemini.app.watching import watch
from dallemini.errors import GenerationCancelled, InputError
from dallemini.pipeline.progress import Callback, GenerationProgress
from patience import patience

HALF = GenerationProgress(stage="tokens", done=1, total=2)


def test_what_work_yields_and_raises_comes_through() -> None:
    def work(tell: Callback) -> Iterator[str]:
        yield "a look"
        raise InputError("no more")

    news = watch(work)
    assert next(piece for _, piece in news if piece) == "a look"
    with pytest.raises(InputError, match="no more"):
        next(news)


def test_watcher_hears_how_far_slow_work_is_and_can_end_it() -> None:
    ended, dropped = threading.Event(), threading.Event()

    def work(tell: Callback) -> Iterator[str]:
        tell(HALF)
        dropped.wait(patience(20))
        try:
            tell(HALF)
        except GenerationCancelled:
            ended.set()
            raise
        yield "never"

    news = watch(work)
    assert next(share for share, _ in news if share) == 0.5
    news.close()
    dropped.set()
    assert ended.wait(patience(20))
