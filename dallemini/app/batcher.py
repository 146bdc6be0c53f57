"""Continuous batching: the pictures of all clients drawn together, by one thread.

A picture joins at the next token, in its turn, and leaves when it is finished or nobody wants it
any more; it comes out as if it were drawn alone. Knows no HTTP: whoever submits is told by a
callback. Other threads make pictures of the tokens, while the next tokens are drawn.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeAlias

from torch import Tensor

from ..errors import DalleMiniError, InputError, SafetyError
from ..generation import Sampler, Slots
from ..generation.canvas import CanvasPicture, step_canvases
from ..generation.drawing import FREE
from ..models.transformer import Transformer
from ..pipeline.outputs import GenerationOutput, GenerationStep
from .fair_queue import FairQueue

_LOG = logging.getLogger("dallemini.app")
_ENDING = "The service is ending; ask again when it is back."
_PIXELS = 2  # threads that make pictures: pixels, a look at them and a PNG take longer than tokens
_MOST_SECONDS = 60  # that a client is asked to wait before it tries again


class BusyError(DalleMiniError, RuntimeError):
    """The batcher takes no more pictures now.

    Args:
        message: says why.
        retry_after: whole seconds after which it may be worth to try again.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(BusyError):
    """Too many pictures wait."""


class ClosedError(BusyError):
    """The batcher is ending, or has ended."""


class Work(Protocol):
    """What a request wants: some pictures, and how tokens become them."""

    @property
    def pictures(self) -> Sequence[CanvasPicture]:
        """All of them, none of which is begun."""

    def look(self, number: int, tokens: Tensor) -> GenerationStep:
        """Return a look at picture `number` from its tokens i64[P], -1 where there is none yet."""

    def finish(self, number: int, tokens: Tensor) -> GenerationOutput:
        """Return picture `number` from its tokens i64[P], with all that is known of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """A look at picture `number` of a request, the `index`-th look at it, from 0."""

    number: int
    index: int
    step: GenerationStep


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """Picture `number` of a request is drawn; `output` holds it alone."""

    number: int
    output: GenerationOutput


Event: TypeAlias = Preview | Finished | Exception


@dataclass(kw_only=True, eq=False)
class Job:
    """A request that was submitted.

    Attributes:
        work: what it wants.
        client: who asked.
        tell: called by the batcher's threads with what happens; with an exception at the end, if
            the pictures cannot be drawn. It must return at once and not raise.
        looks: how many previews there are of each picture.
        has_begun: one of its pictures is drawn, or was.
        is_over: nobody waits for it any more, or there is nothing more to wait for.
    """

    work: Work
    client: str
    tell: Callable[[Event], object]
    looks: int = 0
    has_begun: bool = False
    is_over: bool = False
    _left: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._left = len(self.work.pictures)


@dataclass(kw_only=True, eq=False)
class _Drawn:
    """Picture `number` of a job while it is drawn; `shown` counts its previews."""

    job: Job
    number: int
    picture: CanvasPicture
    shown: int = 0


class Batcher:
    """Draws the pictures of all who ask, together; `start` it, and `close` it at the end.

    Args:
        transformer: in evaluation mode; nobody else may use it meanwhile to compile or move it.
        sampler: chooses tokens.
        num_codes: ids from here up are never drawn.
        most_rows: decoder rows that are computed together; a guided picture has two.
        most_waiting: pictures that may wait. One client may fill half of that.

    Raises:
        InputError: `most_rows` or `most_waiting` is below 1.

    Example:
        >>> from queue import Queue
        >>> from dallemini.app.batcher import Batcher
        >>> from dallemini.app.order import Order
        >>> from dallemini.generation import TopSampler
        >>> from dallemini.testing import tiny_pipeline
        >>> pipe, told = tiny_pipeline(), Queue()
        >>> batcher = Batcher(pipe.transformer, TopSampler(), num_codes=64)
        >>> batcher.start()
        >>> order = Order.of(pipe, "a red apple", num_images_per_prompt=2, seed=0)
        >>> job = batcher.submit(order, client="me", tell=told.put)
        >>> sorted(told.get().output.seeds for _ in range(2))
        [(0,), (1,)]
        >>> batcher.close()
    """

    def __init__(
        self,
        transformer: Transformer,
        sampler: Sampler,
        *,
        num_codes: int,
        most_rows: int = 64,
        most_waiting: int = 256,
    ) -> None:
        if min(most_rows, most_waiting) < 1:
            raise InputError("A batcher needs room for a row and a picture that waits, from 1.")
        self.most_rows, self.most_waiting = most_rows, most_waiting
        self._transformer, self._sampler, self._num_codes = transformer, sampler, num_codes
        self._slots = self._make_slots()
        self._drawn: list[_Drawn] = []  # the thread's alone
        self._finishing: list[_Drawn] = []  # their tokens are all there, and not yet the pixels
        self._queue: FairQueue[Job] = FairQueue()
        self._wake = threading.Condition()  # guards the queue and these
        self._is_draining = False
        self._is_cut_short = False
        self._ends: deque[float] = deque(maxlen=64)  # when the last pictures were finished
        self._thread = threading.Thread(target=self._run, name="dallemini-batcher", daemon=True)
        self._pixels = ThreadPoolExecutor(_PIXELS, thread_name_prefix="dallemini-pixels")
        self.tokens_drawn = 0

    @property
    def waiting(self) -> int:
        """How many pictures wait."""
        with self._wake:
            return len(self._queue)

    @property
    def drawing(self) -> int:
        """How many pictures are drawn now."""
        return len(self._drawn) + len(self._finishing)

    @property
    def is_ready(self) -> bool:
        """Whether it draws what is submitted."""
        return self._thread.is_alive() and not self._is_draining

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(
        self,
        work: Work,
        *,
        client: str,
        tell: Callable[[Event], object],
        looks: int = 0,
    ) -> Job:
        """Let the pictures of a request wait for their turns.

        Args:
            work: what is wanted.
            client: who asks; clients take turns.
            tell: called with what happens, see `Job`.
            looks: how many previews there are of each picture.

        Raises:
            QueueFullError: too many pictures wait, of all or of this client.
            ClosedError: it is ending.
        """
        job = Job(work=work, client=client, tell=tell, looks=looks)
        count = len(work.pictures)
        with self._wake:
            if self._is_draining:
                raise ClosedError(_ENDING)
            share = max(1, self.most_waiting // 2)
            mine = self._queue.count(client)
            if len(self._queue) + count > self.most_waiting or (mine and mine + count > share):
                raise QueueFullError(
                    f"Too many pictures wait ({len(self._queue)} of at most {self.most_waiting}, "
                    f"{mine} of them yours); ask again later.",
                    retry_after=self._estimate(len(self._queue)),
                )
            self._queue.add(client, job, count)
            self._wake.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Forget a request: what waits at once, what is drawn before the next token."""
        with self._wake:
            job.is_over = True
            self._queue.remove(job)
            self._wake.notify()

    def drain(self) -> None:
        """Finish the requests that have begun, refuse those that wait, and take no more."""
        with self._wake:
            self._is_draining = True
            self._wake.notify()

    def close(self, timeout: float | None = None) -> None:
        """End the thread when it has finished what it draws.

        Args:
            timeout: seconds after which what is unfinished is given up; None for no limit.
        """
        self.drain()
        if self._thread.ident is None:  # `start` was not called
            self._refuse_waiting()
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            with self._wake:
                self._is_cut_short = True
                self._wake.notify()
            self._thread.join()

    def _make_slots(self) -> Slots:
        return Slots(self._transformer, self._sampler, num_codes=self._num_codes)

    def _run(self) -> None:
        while self._take_in():
            try:
                self._step()
            except Exception as error:
                self._lose_all(error)
                continue
            finished = [drawn for drawn in self._drawn if drawn.picture.is_drawn]
            self._drawn = [drawn for drawn in self._drawn if not drawn.picture.is_drawn]
            for drawn in self._drawn:
                self._show(drawn)
            for drawn in finished:
                self._hand_over(drawn)
        self._end_pixels()
        ended = ClosedError("The service has ended before these pictures were drawn.")
        self._lose_all(ended)
        for job in self._queue.requests():
            self._end(job, ended)

    def _step(self) -> None:
        """Draw one token of every picture, and count those that were free."""
        pictures = [drawn.picture for drawn in self._drawn]
        step_canvases(self._slots, pictures, told=self._count)

    def _count(self, tokens: int) -> None:
        self.tokens_drawn += tokens

    def _take_in(self) -> bool:
        """Wait for something to do, let go what nobody wants, take in who is next.

        Returns:
            False at the end.
        """
        with self._wake:
            self._wake.wait_for(self._has_something_to_do)
            if self._is_cut_short:
                return False
            if self._is_draining:
                self._refuse_waiting()
            self._let_go()
            rows = sum(drawn.picture.most_rows for drawn in self._drawn)
            while self._queue and self._has_room:
                job, number = self._queue.peek()
                picture = job.work.pictures[number]
                rows += picture.most_rows
                if rows > self.most_rows and self._drawn:
                    break
                self._queue.take()
                self._begin(_Drawn(job=job, number=number, picture=picture))
            return bool(self._drawn or self._queue) or not self._is_draining

    def _has_something_to_do(self) -> bool:
        if self._drawn or self._is_cut_short:
            return True
        return self._has_room if self._queue else self._is_draining

    @property
    def _has_room(self) -> bool:
        """Whether pictures are made as fast as tokens are drawn, so that no more and more wait."""
        return len(self._finishing) < self.most_rows

    def _begin(self, drawn: _Drawn) -> None:
        drawn.job.has_begun = True
        try:
            if not drawn.picture.is_drawn:
                drawn.picture.start(self._slots)
        except Exception as error:
            self._end(drawn.job, error)
        else:
            self._drawn.append(drawn)

    def _refuse_waiting(self) -> None:
        """Refuse the requests of which nothing is drawn yet; what has begun is finished whole."""
        for job in self._queue.requests():
            if not job.has_begun:
                self._end(job, ClosedError(_ENDING))

    def _let_go(self) -> None:
        """Drop the pictures that nobody waits for any more."""
        gone = [drawn for drawn in self._drawn if drawn.job.is_over]
        self._slots.drop([slot for drawn in gone for slot in drawn.picture.slots])
        self._drawn = [drawn for drawn in self._drawn if not drawn.job.is_over]

    def _show(self, drawn: _Drawn) -> None:
        """Tell who asked for it what a picture looks like."""
        job, number, index = drawn.job, drawn.number, drawn.shown
        if job.is_over or index == job.looks:
            return
        tokens = drawn.picture.seen(self._slots)
        if (index + 1) * len(tokens) <= (job.looks + 1) * int((tokens != FREE).sum()):
            drawn.shown += 1
            look = partial(job.work.look, number, tokens)
            self._tell(job, lambda: Preview(number=number, index=index, step=look()))

    def _hand_over(self, drawn: _Drawn) -> None:
        """Let another thread make a picture of tokens; until then it takes its place here."""
        with self._wake:
            self._finishing.append(drawn)
        self._pixels.submit(self._finish, drawn)

    def _finish(self, drawn: _Drawn) -> None:
        job, number, tokens = drawn.job, drawn.number, drawn.picture.tokens
        is_wanted = not job.is_over
        if is_wanted:
            self._tell(job, lambda: Finished(number=number, output=job.work.finish(number, tokens)))
        with self._wake:
            if is_wanted:
                self._ends.append(time.monotonic())
                job._left -= 1
                job.is_over = job.is_over or not job._left
            self._finishing.remove(drawn)
            self._wake.notify_all()

    def _end_pixels(self) -> None:
        """Wait until all pictures are made, or nobody has the time to wait."""
        with self._wake:
            self._wake.wait_for(lambda: self._is_cut_short or not self._finishing)
        self._pixels.shutdown(cancel_futures=True)
        self._drawn += self._finishing

    def _tell(self, job: Job, make: Callable[[], Event]) -> None:
        """Tell a job what is made now, or that it could not be made."""
        try:
            event = make()
        except SafetyError as error:  # the client is told; a log would quote its prompt
            self._end(job, error)
        except Exception as error:
            _LOG.exception("a picture could not be made")
            self._end(job, error)
        else:
            job.tell(event)

    def _lose_all(self, error: Exception) -> None:
        """Give up what is drawn, and begin with new slots."""
        lost = {drawn.job for drawn in self._drawn}
        if lost and not isinstance(error, ClosedError):
            _LOG.error("drawing failed, %d requests are lost", len(lost), exc_info=error)
        self._drawn = []
        self._slots = self._make_slots()
        for job in lost:
            self._end(job, error)

    def _end(self, job: Job, error: Exception) -> None:
        with self._wake:
            was_over = job.is_over
            self.cancel(job)
        if not was_over:
            job.tell(error)

    def _estimate(self, pictures: int) -> int:
        """Return in how many seconds so many pictures will be drawn, at the pace of the last."""
        if len(self._ends) < 2:
            return 1
        pace = (time.monotonic() - self._ends[0]) / len(self._ends)
        return min(_MOST_SECONDS, max(1, math.ceil(pictures * pace)))
