"""Running the service, with an end that finishes what is drawn."""

from __future__ import annotations

import logging
import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Uvicorn, which tells the batcher at once when it is to end.

    Args:
        app: made by `create_service`.
        timeout: seconds in which what is drawn may be finished at the end.
        access_log: write a line for each request.
    """

    def __init__(self, app: FastAPI, *, timeout: float, access_log: bool = True) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                access_log=access_log,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(timeout)),
            )
        )
        self._batcher = app.state.batcher
        # which writes a line of its own for each form that it cannot read
        logging.getLogger("python_multipart").setLevel(logging.ERROR)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what waits, finish what is drawn, and end."""
        self._batcher.drain()
        await super().shutdown(sockets)
