"""The app on a port: what it lets in, where its files lie, and its end. Needs the extra `app`."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

# Before Gradio is imported: it tells its makers about every start, unless this says no.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI

from .. import hub
from ..generation.watermark import Watermark
from ..pipeline.guarding import guarded
from ..pipeline.parts import Parts
from ..pipeline.pipeline import Pipeline
from ..pipeline.signing import C2PASigner
from ..safety.checker import SafetyChecker
from .body_limit import BodyLimit
from .gui import Page
from .limits import AppLimits
from .sessions import Sessions
from .studio import Studio
from .widgets import STYLE, theme

_FIELDS = 1 << 20  # bytes of a request besides a picture


def create_app(
    pipe: Pipeline,
    folder: Path,
    *,
    source: hub.Source | None = None,
    limits: AppLimits | None = None,
    safety_checker: SafetyChecker | Literal["usual"] | None = "usual",
    watermark: Watermark | None = None,
    c2pa: C2PASigner | None = None,
) -> FastAPI:
    """Make the ASGI app that draws with a pipeline.

    Args:
        pipe: draws.
        folder: where pictures are saved.
        source: where the pipeline came from: its card tells the model's limits, and a scorer there
            ranks unless told otherwise.
        limits: of what is let in.
        safety_checker: asked about prompts and pictures; "usual" is the pipeline's own, or
            `usual_checker()` where it has none; None is none.
        watermark: a key whose mark all pictures get.
        c2pa: signs the files of all pictures.
    """
    limits = limits or AppLimits()
    parts = None if source is None else Parts(source)
    page = Page(
        Studio(guarded(pipe, safety_checker), folder, limits, watermark=watermark, c2pa=c2pa),
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
