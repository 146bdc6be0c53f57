"""What stands before the service, asked in this process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from dallemini.app.guards import Guard


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(
    messages: list[Any], *, headers: list[tuple[bytes, bytes]] | None = None, **options: Any
) -> tuple[int, bytes]:
    """Send messages of a body one by one, then nothing; return status and body of the answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    limits: dict[str, Any] = {"api_key": None, "max_upload": 20, "max_body": 10} | options
    scope = {"type": "http", "path": "/v1/x", "method": "POST", "headers": headers or []}
    asyncio.run(Guard(echo, **limits)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_comes_whole_however_it_was_sent() -> None:
    assert ask([part(b"abc"), part(b""), part(b"def", more=False)]) == (200, b"abcdef")


def test_a_body_without_a_length_is_counted_as_it_comes() -> None:
    status, body = ask([part(b"123456"), part(b"123456")])
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


def test_a_body_that_says_that_it_is_too_large_is_not_read() -> None:
    assert ask([], headers=[(b"content-length", b"11")])[0] == 413
    form = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"11")]
    assert ask([part(b"x", more=False)], headers=form) == (200, b"x")


def test_a_body_that_does_not_come_is_given_up() -> None:
    status, body = ask([part(b"1")], read_seconds=0.02)
    assert status == 408
    assert "did not come whole within 0.02 seconds" in json.loads(body)["error"]["message"]


def test_who_hangs_up_before_the_end_is_not_served() -> None:
    assert ask([part(b"1"), {"type": "http.disconnect"}])[0] == 499
