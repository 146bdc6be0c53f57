"""What curl and other people's programs send: half requests, odd methods, odd types, odd text."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
from typing import Any

import pytest
from PIL import Image

from app_service import GENERATIONS, Served, wait_until

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def part(name: str, value: bytes, file: str = "") -> bytes:
    return (
        f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        + value
        + b"\r\n"
    )


def png(size: tuple[int, int], **how: Any) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, "red").save(written, **{"format": "PNG"} | how)
    return part("image", written.getvalue(), '; filename="x.png"')


BODIES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "not UTF-8": (b'{"prompt": "\xff\xfe"}', {}, "cannot be read; send JSON in UTF-8, or a form"),
    "deep": (b"[" * 15_000, {}, "The request's body "),  # which JSON readers of Python give up
    "no type": (b'{"prompt": "x"}', {"Content-Type": "text/plain"}, "a JSON object with Content-"),
    "a form": (part("prompt", b"x") + b"--b--", FORM, "must be a JSON object with Content-Type"),
    "null": (b"null", {}, "must be a JSON object"),
    "yes or no": (
        b'{"prompt": "x", "n": true}',
        {},
        "n: input should be a valid integer, not true.",
    ),
    "two prompts": (b'{"prompt": ["x", null]}', {}, 'should be a valid string, not ["x", null].'),
    "a number": (
        b'{"prompt": "x", "size": 300}',
        {},
        "size: input should be a valid string, not 300.",
    ),
    "half a size": (b'{"prompt": "x", "size": "300x"}', {}, "not '300x'; leave size out."),
    "other digits": ('{"prompt": "x", "size": "١٦x16"}'.encode(), {}, "leave size out."),
    "enormous": (b'{"prompt": "x", "n": 1%s}' % (b"0" * 40), {}, "n must be at most 4, not 1"),
    "infinite": (b'{"prompt": "x", "seed": 1e999}', {}, "seed: "),
    "quality": (b'{"prompt": "x", "quality": "hd"}', {}, "There is no parameter 'quality'"),
}


@pytest.mark.parametrize("name", BODIES)
def test_odd_bodies_are_answered_in_one_sentence(shared: Served, name: str) -> None:
    body, headers, message = BODIES[name]
    reply = shared.ask(body, headers=headers)
    assert reply.status == 400, reply.body
    assert message in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"


FORMS: dict[str, tuple[bytes, dict[str, str], str]] = {
    "JSON": (b'{"prompt": "x"}', {}, "'image' is missing; send a form, as multipart/form-data"),
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}, "with its boundary."),
    "broken": (b"x", FORM, "or a form as multipart/form-data with its boundary."),
    "cut off": (part("prompt", b"x")[:-9], FORM, "'image' is missing"),
    "no file chosen": (part("image", b"", '; filename=""') + b"--b--", FORM, "'image' is missing"),
    "empty file": (part("image", b"", '; filename="a.png"') + b"--b--", FORM, "read as a picture"),
    "text as .png": (part("image", b"hi", '; filename="a.png"') + b"--b--", FORM, "as a picture"),
    "20 megapixels": (png((5000, 4100)) + b"--b--", FORM, "5000x4100 pixels"),
    "n in words": (
        png((16, 16)) + part("n", b"two") + b"--b--",
        FORM,
        "n: input should be a valid",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_odd_forms_are_answered_in_one_sentence(shared: Served, name: str) -> None:
    body, headers, message = FORMS[name]
    reply = shared.ask(body, path="/v1/images/variations", headers=headers)
    assert reply.status == 400, reply.body
    assert message in reply.error["message"]


def test_odd_requests_that_are_right_are_drawn(shared: Served) -> None:
    for body, headers in (
        (b'{"prompt": "x", "n": 1.0, "size": null}', {}),
        (
            b'\t{"prompt": "y", "prompt": "x"}\r\n',
            {"Content-Type": "APPLICATION/JSON; charset=utf-8"},
        ),
        ('{"prompt": "\u202eяблоко 🍎 <b>"}'.encode(), {"Expect": "100-continue"}),
    ):
        reply = shared.ask(body, headers=headers)
        assert reply.status == 200, reply.body
    told = Image.open(io.BytesIO(base64.b64decode(reply.json["data"][0]["b64_json"]))).info
    assert told["prompt"] == "\u202eяблоко 🍎 <b>"
    for image in (png((1, 1)), png((16, 16), format="GIF", save_all=True), png((2000, 600))):
        reply = shared.ask(image + b"--b--", path="/v1/images/variations", headers=FORM)
        assert reply.status == 200, reply.body


def test_monitors_and_people_find_something(shared: Served) -> None:
    for path in ("/health", "/metrics", "/docs", "/openapi.json"):
        asked = shared.ask(path=path, method="HEAD")
        assert (asked.status, asked.body) == (200, b"")
    assert shared.ask(path="/").headers["location"] == "/docs"
    for method in ("HEAD", "OPTIONS", "PUT", "DELETE"):
        refused = shared.ask(path=GENERATIONS, method=method)
        assert (refused.status, refused.headers["allow"]) == (405, "POST")


def test_a_connection_outlives_its_errors(shared: Served) -> None:
    with contextlib.closing(shared.connect()) as connection:
        used = set()
        for body, status in ((b"{", 400), (b'{"prompt": "x"}', 200)) * 2 + ((b"\xff", 400),) * 2:
            connection.request("POST", GENERATIONS, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == status
            json.loads(answer.read())
            used.add(connection.sock)
    assert len(used) == 1


def test_who_hangs_up_within_a_stream_is_no_longer_drawn_for(shared: Served) -> None:
    body = b'{"prompt": "x", "n": 4, "stream": true, "partial_images": 3}'
    head = f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    shared.gate.open(8)  # of 16 tokens: previews come, and no picture
    with socket.create_connection(("127.0.0.1", shared.port)) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        read = b""
        while b"partial_image" not in read:
            read += client.recv(4096)
    shared.gate.open()
    wait_until(lambda: shared.batcher.drawing == 0)
    assert b"completed" not in read
    assert shared.ask({"prompt": "x"}).status == 200
