"""`dallemini app`: what is refused before the page is there, and what is not imported for it."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from patience import patience

HEAVY = """
import sys
from dallemini.cli import main
code = main(sys.argv[1:])
print(sorted({"torch", "gradio"} & set(sys.modules)))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "code"), [("app --help", 0), ("app --no-such-option", 2), ("audit --help", 0)]
)
def test_help_and_wrong_use_need_neither_torch_nor_gradio(words: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAVY, *words.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(120),
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "[]")


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
