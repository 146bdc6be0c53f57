"""What stands before the service: it counts requests, asks for the key, and bounds what is read."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .body_limit import TooLargeError, bounded
from .errors import ServiceError, answer

_GUARDED = "/v1/"
_READ_SECONDS = 30.0  # for a whole request; who dribbles it holds memory


class Counting:
    """Tells how each request was answered.

    Args:
        app: answers.
        count: called with path, status and seconds. Paths that the app does not have are "other",
            so that nobody can make up new ones.
        paths: that the app has.
    """

    def __init__(
        self, app: ASGIApp, *, count: Callable[[str, int, float], object], paths: frozenset[str]
    ) -> None:
        self._app, self._count, self._paths = app, count, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"] if scope["path"] in self._paths else "other"
        try:
            await self._app(scope, receive, noting)
        finally:
            self._count(path, status, time.monotonic() - start)


class Guard:
    """Lets pass who has the key, and no request that is too large or too slow to come.

    Args:
        app: answers.
        api_key: must be given as `Authorization: Bearer KEY` for the paths under /v1/; None asks
            for none.
        max_upload: bytes of a form, which carries pictures.
        max_body: bytes of any other body.
        read_seconds: in which a body must have come.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        max_upload: int,
        max_body: int,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        self._app, self._key = app, None if api_key is None else api_key.encode()
        self._max_upload, self._max_body, self._read_seconds = max_upload, max_body, read_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"].startswith(_GUARDED):
                self._check_key(Headers(scope=scope))
            body = await self._read(scope, receive)
        except ServiceError as error:
            await answer(error)(scope, receive, send)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    def _check_key(self, headers: Headers) -> None:
        if self._key is None:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(key.strip().encode(), self._key)
        if scheme.lower() != "bearer" or not same:
            raise ServiceError(
                401,
                "This service asks for a key: send it as 'Authorization: Bearer KEY'.",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the whole body."""
        kind = Headers(scope=scope).get("content-type", "").lower()
        most = self._max_upload if kind.startswith("multipart/form-data") else self._max_body
        try:
            async with asyncio.timeout(self._read_seconds):
                return await _collect(bounded(scope, receive, most))
        except TooLargeError as error:
            raise ServiceError(413, error.detail, headers={"Connection": "close"}) from error
        except TimeoutError as error:
            raise ServiceError(
                408, f"The request did not come whole within {self._read_seconds:g} seconds."
            ) from error


async def _collect(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ServiceError(499, "The client hung up.")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
