"""The app on a port: what it lets in, where its files lie, and its end. Needs the extra `app`."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Before Gradio is imported: it tells its makers about every start, unless this says no.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import hub
from ..pipeline.parts import Parts
from ..pipeline.pipeline import Pipeline
from .gui import Page
from .limits import AppLimits
from .sessions import Sessions
from .studio import Studio
from .widgets import STYLE, theme

_FIELDS = 1 << 20  # bytes of a request besides a picture


class BodyLimit:
    """Refuses requests that are too large, before they are read.

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

        await self._app(scope, bounded, send)


def create_app(
    pipe: Pipeline,
    folder: Path,
    *,
    source: hub.Source | None = None,
    limits: AppLimits | None = None,
) -> FastAPI:
    """Make the ASGI app that draws with a pipeline.

    Args:
        pipe: draws.
        folder: where pictures are saved.
        source: where the pipeline came from: its card tells the model's limits, and a scorer there
            ranks unless told otherwise.
        limits: of what is let in.
    """
    limits = limits or AppLimits()
    parts = None if source is None else Parts(source)
    page = Page(
        Studio(pipe, folder, limits),
        Sessions(limits),
        card="" if parts is None else parts.notes().get("README.md", ""),
        ranks=parts is not None and parts.find("scorer") is not None,
    )
    blocks = page.build()
    blocks.queue(max_size=limits.max_waiting, api_open=False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BodyLimit, most=limits.max_upload + _FIELDS)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        show_error=False,
        max_file_size=limits.max_upload,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        mcp_server=False,
        footer_links=[],
        theme=theme(),
        css=STYLE,
    )
    blocks.has_launched = True  # from here on Gradio looks where files that a client names lie
    return app


@contextmanager
def workplace() -> Iterator[Path]:
    """Make a folder for the pictures, and let Gradio keep its own beside it; both go at the end."""
    with tempfile.TemporaryDirectory(prefix="dallemini-app-") as name:
        folder = Path(name, "pictures")
        folder.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(Path(name, "sent"))
        yield folder


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listener])
