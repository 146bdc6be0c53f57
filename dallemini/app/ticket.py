"""One request at the batcher, seen from the event loop: events in, answers out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from ..pipeline.outputs import Pictures
from ..pipeline.signing import C2PASigner
from ..sheets import png_bytes
from .api import FINISHED_EVENT, PREVIEW_EVENT, Image, ImageEvent, ImagesResponse
from .batcher import Batcher, Event, Finished, Job, Preview
from .errors import ServiceError, describe, translate
from .metrics import Metrics
from .order import Order


class Ticket:
    """What a client holds while its pictures are drawn; `close` it in any case.

    Args:
        batcher: draws.
        metrics: count.
        timeout: seconds from now after which the request is given up.
        kind: what its events are called: "image_generation" or "image_edit".
        c2pa: signs finished pictures.
    """

    def __init__(
        self,
        batcher: Batcher,
        metrics: Metrics,
        *,
        timeout: float,
        kind: str = "image_generation",
        c2pa: C2PASigner | None = None,
    ) -> None:
        self._batcher, self._metrics, self._kind, self._c2pa = batcher, metrics, kind, c2pa
        self._loop = asyncio.get_running_loop()
        self._timeout, self._end = timeout, self._loop.time() + timeout
        self._told: asyncio.Queue[Event] = asyncio.Queue()
        self._job: Job | None = None
        self._seeds: tuple[int, ...] = ()
        self._is_complete = False

    def submit(self, pictures: Order, *, client: str, looks: int) -> None:
        """Let the pictures wait for their turns.

        Raises:
            BusyError: too many wait, or the service is ending.
        """
        self._seeds = pictures.request.seeds
        self._job = self._batcher.submit(pictures, client=client, tell=self._tell, looks=looks)

    def close(self) -> None:
        """Let go what is not finished yet."""
        if self._job is not None:
            self._batcher.cancel(self._job)
            if not self._is_complete:
                self._metrics.given_up.labels("hung up").inc()
            self._job = None

    async def collect(self) -> ImagesResponse:
        """Return the answer with all pictures, in their order.

        Raises:
            BusyError: the service is ending.
            ServiceError: the time was up, or drawing failed.
        """
        found: dict[int, Image] = {}
        size, mark = "", None
        async for event in self._events():
            if isinstance(event, Finished):
                content = await asyncio.to_thread(event.output.png, 0, c2pa=self._c2pa)
                size, mark = _size(event.output.images[0]), event.output.watermark
                found[event.number] = Image(
                    b64_json=_text(content),
                    seed=event.output.seeds[0],
                    safety=_safety(event.output),
                )
        data = [found[number] for number in sorted(found)]
        return ImagesResponse(created=int(time.time()), data=data, size=size, watermark=mark)

    async def events(self) -> AsyncIterator[str]:
        """Yield server-sent events: previews and pictures as they come, or an error at the end."""
        try:
            async for event in self._events():
                described = await asyncio.to_thread(self._describe, event)
                yield _event(described.type, described.model_dump_json(exclude_none=True))
        except Exception as error:
            yield _event("error", json.dumps({"error": describe(translate(error))}))

    async def _events(self) -> AsyncIterator[Preview | Finished]:
        left = len(self._seeds)
        while left:
            event = await self._next()
            if isinstance(event, Exception):
                self._is_complete = True
                raise event
            if isinstance(event, Finished):
                self._metrics.pictures.inc()
                left -= 1
            self._is_complete = not left
            yield event

    async def _next(self) -> Event:
        try:
            async with asyncio.timeout_at(self._end):
                return await self._told.get()
        except TimeoutError as error:
            self._is_complete = True
            self._metrics.given_up.labels("time-out").inc()
            raise ServiceError(
                503,
                f"The pictures were not drawn within {self._timeout:g} seconds; ask for fewer, or "
                "again when less is to be done.",
                code="timeout",
                headers={"Retry-After": "60"},
            ) from error

    def _tell(self, event: Event) -> None:
        """Pass on what the batcher's thread says; nobody listens after the end of the loop."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._told.put_nowait, event)

    def _describe(self, event: Preview | Finished) -> ImageEvent:
        pictures: Pictures = event.output if isinstance(event, Finished) else event.step
        image = pictures.images[0]
        finished = isinstance(event, Finished)
        content = pictures.png(0, c2pa=self._c2pa) if finished else png_bytes(image)
        return ImageEvent(
            type=f"{self._kind}.{FINISHED_EVENT if finished else PREVIEW_EVENT}",
            b64_json=_text(content),
            index=event.number,
            seed=self._seeds[event.number],
            partial_image_index=event.index if isinstance(event, Preview) else None,
            created_at=int(time.time()),
            size=_size(image),
            safety=_safety(pictures),
            watermark=pictures.watermark,
        )


def _safety(pictures: Pictures) -> str | None:
    """Return what was done to the first picture, if it was flagged."""
    flag = pictures.safety_flags[0] if pictures.safety_flags else None
    return None if flag is None else str(flag)


def _event(kind: str, data: str) -> str:
    return f"event: {kind}\ndata: {data}\n\n"


def _size(image: Any) -> str:
    return f"{image.width}x{image.height}"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
