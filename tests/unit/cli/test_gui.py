"""`dallemini app`: what is refused before the page is there."""

from __future__ import annotations

import socket
import sys
from typing import Any

import pytest


def test_missing_extra_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "dallemini.app.web", raising=False)
    result = run("app")
    assert result.code == 2
    assert "needs its extra" in result.err
    assert 'pip install ".[app]"' in result.err


@pytest.mark.thorough
def test_address_that_cannot_be_used_is_told(run: Any) -> None:
    pytest.importorskip("gradio", reason="needs the extra app")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("app", "--port", port)
        assert result.code == 1
        assert f"Nothing can listen on 127.0.0.1 at port {port}" in result.err
    assert "A port is a number from 0 to 65535" in run("app", "--port", 70000).err
