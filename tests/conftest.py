"""Fixtures for every test: the recorded files, a local model hub, a guard against the network."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules beside this file

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch counts the cores for itself
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before the Hub's client is imported: plain HTTP, nothing about the user's login or this test run.
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_TOKEN_PATH"] = os.devnull

from huggingface_hub import constants as constants  # read now, not while a test is offline

from hub_server import LARGE, HubServer
from patience import busy_note

# Compiled once, and not by each worker and each process that a test starts (as .ci/run has it).
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

FIXTURES = Path(__file__).parent / "fixtures"
_CLIENT_VARIABLES = ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_HOME")


def pytest_report_header() -> str | None:
    """Say at the beginning that the cores are busy."""
    return busy_note()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end, too, that the cores are busy, beside what failed for it."""
    if note := busy_note():
        terminalreporter.write_line(note, yellow=True)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the rest of a family: those whose id begins as nothing that `..._except` names."""
    for name in ("slow", "thorough"):
        kept = item.get_closest_marker(f"{name}_except")
        if kept:
            found = f"{item.callspec.id}-"  # type: ignore[attr-defined]
            if not any(found.startswith(f"{begin}-") for begin in kept.args):
                item.add_marker(name)


def pytest_collection_finish() -> None:
    """Take what is there now out of every later garbage collection: it stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _no_power_cut() -> Iterator[None]:
    """Wait for no disk: a save would, for each of its files, and no test switches the power off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def fixtures() -> Path:
    """The folder with recorded checkpoints and vectors."""
    return FIXTURES


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A local model hub that `HF_ENDPOINT` points to, with an empty `HF_HOME`."""
    for variable in _CLIENT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with HubServer(tmp_path / "hub-storage") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        yield server


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder laid out as a pipeline: small and large files, a hidden and a deep one."""
    folder = tmp_path / "tiny-model"
    for name, content in {
        "model_index.json": b"{}",
        "transformer/config.json": b'{"d_model": 8}',
        "transformer/model.safetensors": os.urandom(5 * LARGE),
        "vqgan/config.json": b"{}",
        "deep/er/file.txt": b"too deep",
        ".gitattributes": b"*.safetensors filter=lfs",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that talks to another machine; loopback and local sockets are allowed."""
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _refuse_unless_local(address[0])
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_unless_local(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


def _refuse_unless_local(host: str | bytes | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    if name not in ("localhost", "::1") and not name.startswith("127."):
        pytest.fail(f"a test tried to reach {name}; only the loopback address is allowed")
