"""`dallemini serve`: a model answers until the process is interrupted; what is refused before."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dallemini.app.listening import warn_of_strangers
from dallemini.errors import DalleMiniWarning
from patience import patience


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DALLEMINI_API_KEY", "DALLEMINI_WATERMARK_KEY"):
        monkeypatch.delenv(variable, raising=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_model_is_served_until_it_is_interrupted(
    run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALLEMINI_API_KEY", "sesame")
    monkeypatch.setenv("DALLEMINI_WATERMARK_KEY", "secret")
    port, found = free_port(), []

    def ask() -> None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience(30))
            end = time.monotonic() + patience(30)
            while time.monotonic() < end:
                try:
                    connection.connect()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.02)
            headers = {"Content-Type": "application/json", "Authorization": "Bearer sesame"}
            body = json.dumps({"prompt": "a cat", "n": 2})
            connection.request("POST", "/v1/images/generations", body, headers)
            reply = connection.getresponse()
            found.append((reply.status, json.loads(reply.read())))
            connection.close()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    client = threading.Thread(target=ask)
    client.start()
    command = ["serve", "--model", tiny, "--port", port, "--max-batch", 1, "--no-access-log"]
    result = run(*command, "--safety", "words")
    client.join()
    ((status, answer),) = found
    assert (status, len(answer["data"]), answer["size"]) == (200, 2, "16x16")
    assert answer["watermark"] == "dallemini-codes-1"
    assert result.code == 0
    assert result.out == (
        f"{tiny} is served on http://127.0.0.1:{port} (see /docs)\n"
        "safety check: words (refuse); watermark: of your key; C2PA signature: none\n"
    )
    assert "Application shutdown complete" in result.err


def test_port_in_use_is_told_before_the_model_is_loaded(run: Any, taken: int) -> None:
    result = run("serve", "--model", "/no/such/model", "--port", taken)
    assert result.code == 1
    told = f"Nothing can listen on 127.0.0.1 at port {taken} (Address already in use); choose"
    assert told in result.err
    assert "choose another --port or --host" in result.err


def test_port_of_nobody_is_wrong_use(run: Any) -> None:
    result = run("serve", "--host", "0.0.0.0", "--port", 65536)
    assert result.code == 2
    assert "A port is a number from 0 to 65535, not 65536." in result.err


def test_open_doors_are_warned_of() -> None:
    with pytest.warns(DalleMiniWarning, match=r"Everybody who reaches 0\.0\.0\.0 can draw: no key"):
        warn_of_strangers("0.0.0.0", "no key")
    for host in ("127.0.0.1", "::1", "localhost"):
        warn_of_strangers(host, "no key")


def test_empty_key_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLEMINI_API_KEY", "")
    result = run("serve")
    assert result.code == 2
    assert "The API key must be printable ASCII without spaces, and not empty" in result.err


def test_empty_watermark_key_is_refused(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DALLEMINI_WATERMARK_KEY", " ")
    result = run("serve", "--safety", "off")
    assert (result.code, "The key of a watermark is empty" in result.err) == (2, True)


@pytest.mark.parametrize("command", ["serve", pytest.param("app", marks=pytest.mark.thorough)])
def test_half_a_signature_is_refused(run: Any, command: str) -> None:
    result = run(command, "--c2pa-key", "key.pem", "--safety", "off")
    assert (result.code, "Signing needs both --c2pa-cert" in result.err) == (2, True)


def test_limits_are_checked(run: Any) -> None:
    result = run("serve", "--max-images", 300)
    assert result.code == 2
    assert "300 where 256 may wait" in " ".join(result.err.split())


def test_missing_extra_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "dallemini.app.server", raising=False)
    result = run("serve")
    assert result.code == 2
    assert 'run: pip install ".[serve]"' in result.err
