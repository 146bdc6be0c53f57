"""What stands before the app: it bounds what is read."""

from __future__ import annotations

import contextlib

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


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
        told = f"The request has more than {self._most} bytes."
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if not said.isdigit() or int(said[:20]) > self._most:
            await PlainTextResponse(told, 413)(scope, receive, send)
            return
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, told)
            return message

        with contextlib.suppress(ClientDisconnect):  # such as a page that is loaded anew
            await self._app(scope, bounded, send)
