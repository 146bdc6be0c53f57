"""For tests of the service: one on a port of this machine, and a sampler that can be held up."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dallemini import Pipeline
from dallemini.app.config import ServiceConfig
from dallemini.app.listening import open_socket
from dallemini.app.server import Server
from dallemini.app.service import create_service
from dallemini.generation import SamplerState, TopSampler
from patience import patience

GENERATIONS = "/v1/images/generations"


class Gate:
    """The pipeline's own sampler, which can be held up before a token, or made to fail."""

    def __init__(self) -> None:
        self._sampler, self._open = TopSampler(), threading.Event()
        self._tokens_left = -1
        self.error: Exception | None = None
        self.open()

    def __call__(self, logits: Tensor, state: SamplerState) -> Tensor:
        assert self._open.wait(patience(30)), "nobody opened the gate"
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self._tokens_left -= 1
        if not self._tokens_left:
            self.shut()
        return self._sampler(logits, state)

    def open(self, tokens: int = -1) -> None:
        """Let everything pass, or so many tokens."""
        self._tokens_left = tokens
        self._open.set()

    @property
    def is_shut(self) -> bool:
        return not self._open.is_set()

    def shut(self) -> None:
        self._open.clear()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does soon."""
    end = time.monotonic() + patience(20)
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@dataclass
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass
class Served:
    """A running service."""

    server: Server
    port: int
    gate: Gate
    thread: threading.Thread | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def batcher(self) -> Any:
        return self.server._batcher

    def ask(
        self,
        body: Any = None,
        *,
        path: str = GENERATIONS,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send a request, JSON unless it is bytes, and return the answer."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(self.connect()) as connection:
            connection.request(
                method or ("GET" if body is None else "POST"),
                path,
                content,
                {"Content-Type": "application/json"} | self.headers | (headers or {}),
            )
            found = connection.getresponse()
            return Reply(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())

    def ask_later(self, body: Any) -> Callable[[], Reply]:
        """Send a request from another thread; what is returned waits for the answer."""
        found: list[Reply] = []
        thread = threading.Thread(target=lambda: found.append(self.ask(body)))
        thread.start()

        def wait() -> Reply:
            thread.join(patience(30))
            return found[0]

        return wait

    def hang_up_later(self, body: Any) -> Callable[[], None]:
        """Send a request and return what hangs up without having read the answer."""
        content = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(
            f"POST {GENERATIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        return connection.close

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience(30))

    def end(self) -> None:
        """Ask the service to end, as SIGTERM does."""
        self.server.should_exit = True

    def join(self) -> None:
        assert self.thread is not None
        self.thread.join(patience(30))
        assert not self.thread.is_alive()


@contextlib.contextmanager
def serving(pipe: Pipeline, **options: Any) -> Iterator[Served]:
    """Run a service of a pipeline on a free port."""
    gate = Gate()
    app = create_service(pipe, sampler=gate, **{"safety_checker": None, **options})
    config = options.get("config") or ServiceConfig()
    with open_socket("127.0.0.1", 0) as listener:
        server = Server(app, timeout=config.timeout, access_log=False)
        served = Served(server, listener.getsockname()[1], gate)
        served.thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        served.thread.start()
        wait_until(lambda: server.started)
        try:
            yield served
        finally:
            gate.open()
            served.end()
            served.join()
