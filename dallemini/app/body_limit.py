"""The bound on what is read of a request, for the app and the service alike."""

from __future__ import annotations

import contextlib

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TooLargeError(HTTPException):
    """A request has more bytes than it may have.

    Args:
        most: that it may have.
    """

    def __init__(self, most: int) -> None:
        super().__init__(413, f"The request has more than {most} bytes.")


def bounded(scope: Scope, receive: Receive, most: int) -> Receive:
    """Return what receives a request and raises where it has more bytes than `most`.

    Raises:
        TooLargeError: it says so itself, before anything is read.
    """
    said = Headers(scope=scope).get("content-length", "0")
    if not said.isdecimal() or int(said[:20]) > most:
        raise TooLargeError(most)
    read = 0

    async def receive_bounded() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise TooLargeError(most)
        return message

    return receive_bounded


class BodyLimit:
    """Refuses requests that are too large, before they are read; who hangs up is no error.

    Args:
        app: answers the others.
        most: bytes of a request.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            receive = bounded(scope, receive, self._most)
        except TooLargeError as error:
            await PlainTextResponse(error.detail, 413)(scope, receive, send)
            return
        with contextlib.suppress(ClientDisconnect):  # such as a page that is loaded anew
            await self._app(scope, receive, send)
