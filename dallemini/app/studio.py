"""Draws what a form asks for, one wish at a time, with looks on the way.

Knows the pipeline and files; neither pages nor sessions.
"""

from __future__ import annotations

import math
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DalleMiniWarning, GenerationCancelled, InputError
from ..pipeline.outputs import GenerationOutput
from ..pipeline.pipeline import Pipeline
from ..pipeline.progress import GenerationProgress
from .limits import AppLimits
from .sessions import Drawn
from .wish import Wish

if TYPE_CHECKING:
    import PIL.Image

_LOOKS = 6  # on the way to a finished picture; each costs the decoding of all pixels
_MANY = 12  # pictures, from which on fewer looks are taken


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """Pictures on the way, or finished.

    Attributes:
        wish: what is drawn, with its seed.
        share: of the work that is done.
        previews: pictures that are not finished, each with its seed.
        drawn: those that are finished and saved.
        notes: what the library warns of.
        seconds: since the beginning.
    """

    wish: Wish
    share: float
    previews: Mapping[int, PIL.Image.Image] = field(default_factory=dict)
    drawn: tuple[Drawn, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


class Studio:
    """Draws with one pipeline, in any number of threads.

    Args:
        pipe: draws.
        folder: where pictures are saved; whoever drops them deletes them.
        limits: what is refused.
    """

    def __init__(self, pipe: Pipeline, folder: Path, limits: AppLimits | None = None) -> None:
        self.pipe, self.limits = pipe, limits or AppLimits()
        self._folder = folder

    @cached_property
    def side(self) -> int:
        """Pixels along each side of the model's own pictures."""
        vqgan = self.pipe.vqgan
        blank = torch.zeros((1, vqgan.image_length), dtype=torch.int64, device=vqgan.device)
        with torch.no_grad():
            return int(vqgan.decode(blank).shape[-1])

    @property
    def unit(self) -> int:
        """Pixels along each side of a token."""
        return self.side // math.isqrt(self.pipe.transformer.config.image_length)

    def draw(self, wish: Wish) -> Iterator[Look]:
        """Draw pictures of a prompt; drop the iterator to cancel.

        Raises:
            DalleMiniError: the wish is beyond the limits or no good.
        """
        wish = wish.check(self.limits)
        settings = wish.overrides(self.side)
        start, previews = time.monotonic(), dict[int, Any]()
        with _listening() as notes:  # the prompts are read at the call
            steps = self.pipe.stream(
                wish.prompt, every=self._every(wish), progress=False, **settings
            )
        for step in steps:
            previews |= dict(zip(step.seeds, step.images, strict=True))
            if step.output is not None:
                yield self._finish(step.output, wish, notes, start)
                return
            done = step.first_image + len(step.seeds) * step.position / step.length
            share, seconds = done / (wish.number * wish.candidates), time.monotonic() - start
            yield Look(
                wish=wish, share=share, previews=previews, notes=tuple(notes), seconds=seconds
            )

    def _every(self, wish: Wish) -> int:
        """Return after how many tokens there is a look."""
        looks = _LOOKS if wish.number * wish.candidates < _MANY else 2
        return -(-self.pipe.transformer.config.image_length // looks)

    def redraw(self, wish: Wish, image: Any, mask_image: Any) -> Iterator[Look]:
        """Redraw the white part of a mask; drop the iterator to cancel.

        Raises:
            DalleMiniError: the wish is beyond the limits, or the picture or the mask no good.
        """
        return self._edit(
            wish, lambda more: self.pipe.inpaint(wish.prompt, image, mask_image, **more)
        )

    def vary(self, wish: Wish, image: Any, strength: float) -> Iterator[Look]:
        """Redraw a share of a picture; drop the iterator to cancel.

        Raises:
            DalleMiniError: the wish is beyond the limits, or the picture or the share no good.
        """
        return self._edit(
            wish, lambda more: self.pipe.vary(image, wish.prompt, strength=strength, **more)
        )

    def extend(self, wish: Wish, image: Any, around: Mapping[str, int]) -> Iterator[Look]:
        """Go on beyond the edges of a picture; drop the iterator to cancel.

        Args:
            wish: what the larger picture shows.
            image: the picture.
            around: pixels that are added on each side: left, right, top, bottom.

        Raises:
            DalleMiniError: the wish is beyond the limits, or the picture or a number no good.
        """
        if not all(0 <= pixels <= self.side for pixels in around.values()):
            raise InputError(f"A side grows by 0 to {self.side} pixels in one go.")
        edges: dict[str, Any] = dict(around)
        return self._edit(
            wish, lambda more: self.pipe.outpaint(image, wish.prompt, **edges, **more)
        )

    def _edit(self, wish: Wish, call: Callable[[Any], GenerationOutput]) -> Iterator[Look]:
        wish = replace(wish, shape="square").check(self.limits)
        settings = wish.overrides(self.side)
        start, notes = time.monotonic(), list[str]()
        for news in _watched(call, {**settings, "progress": False}):
            if isinstance(news, GenerationOutput):
                yield self._finish(news, wish, notes, start)
            else:
                seconds = time.monotonic() - start
                yield Look(wish=wish, share=news, notes=tuple(notes), seconds=seconds)

    def _finish(self, output: GenerationOutput, wish: Wish, notes: list[str], start: float) -> Look:
        paths = output.save(self._folder)
        scores = output.scores or [None] * len(paths)
        drawn = tuple(
            Drawn(path=path, wish=replace(wish, seed=seed), score=score)
            for path, seed, score in zip(paths, output.seeds, scores, strict=True)
        )
        seconds = time.monotonic() - start
        return Look(wish=wish, share=1.0, drawn=drawn, notes=tuple(notes), seconds=seconds)


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what the library warns of; as `warnings` works, of all threads."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DalleMiniWarning)
        yield notes
    for warning in caught:
        if issubclass(warning.category, DalleMiniWarning):
            notes.append(str(warning.message))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _watched(
    call: Callable[[Any], GenerationOutput], settings: Mapping[str, Any]
) -> Iterator[float | GenerationOutput]:
    """Yield which share of a call is done, and what it returns; dropped, it cancels the call."""
    news: queue.SimpleQueue[float | GenerationOutput | BaseException] = queue.SimpleQueue()
    dropped = threading.Event()

    def tell(progress: GenerationProgress) -> None:
        if dropped.is_set():
            raise GenerationCancelled("The page was closed, or somebody pressed Cancel.")
        if progress.stage == "tokens":
            news.put(progress.done / progress.total)

    def work() -> None:
        try:
            news.put(call({**settings, "callback": tell}))
        except BaseException as error:  # it is raised where somebody waits
            news.put(error)

    threading.Thread(target=work, name="dallemini-app", daemon=True).start()
    try:
        while True:
            came = news.get()
            if isinstance(came, BaseException):
                raise came
            yield came
            if isinstance(came, GenerationOutput):
                return
    finally:  # the call ends at its next token
        dropped.set()
