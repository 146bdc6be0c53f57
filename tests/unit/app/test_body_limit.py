"""What the app reads of a request: no more than it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra app or serve")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dallemini.app.body_limit import BodyLimit


async def count(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def post(pieces: Iterable[bytes], *, length: str | None = None, hangs_up: bool = False) -> Any:
    """Send a request in pieces; return status and body of the answer, None where none came."""
    app = Starlette(routes=[Route("/", count, methods=["POST"])])
    app.add_middleware(BodyLimit, most=10)
    headers = [] if length is None else [(b"content-length", length.encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
    coming: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": True} for piece in pieces
    ]
    coming.append({"type": "http.disconnect" if hangs_up else "http.request"})
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return (sent[0]["status"], sent[1]["body"]) if sent else None


def test_small_request_is_answered() -> None:
    assert post([b"12345", b"67890"], length="10") == (200, b"10")


def test_large_request_is_refused_whether_it_says_its_length_or_not() -> None:
    refused = 413, b"The request has more than 10 bytes."
    assert post([], length="11") == refused
    assert post([], length="9" * 30) == refused
    assert post([], length="many") == refused
    assert post([b"123456"] * 2) == refused


def test_client_that_hangs_up_is_no_error() -> None:
    assert post([b"1"], hangs_up=True) is None
