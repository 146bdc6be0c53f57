"""The socket on which the app and the service listen, opened before a model is loaded."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import warnings
from collections.abc import Iterator

from ..errors import DalleMiniWarning, InputError

_HIGHEST_PORT = 65535


@contextlib.contextmanager
def open_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Open a socket on which clients may already knock; port 0 is any free one.

    Raises:
        InputError: the address cannot be used.
    """
    check_port(port)
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise InputError(
            f"Nothing can listen on {host} at port {port} ({reason}); choose another --port or "
            "--host."
        ) from error
    with listener:
        yield listener


def check_port(port: int) -> None:
    """Look whether this can be a port; some systems would take another one.

    Raises:
        InputError: it cannot.
    """
    if not 0 <= port <= _HIGHEST_PORT:
        raise InputError(f"A port is a number from 0 to {_HIGHEST_PORT}, not {port}.")


def url_of(listener: socket.socket) -> str:
    """Return the address of a socket as clients on this machine write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def warn_of_strangers(host: str, why: str) -> None:
    """Warn where more than this machine reaches an address, and nothing keeps others out."""
    if not is_loopback(host):
        warnings.warn(
            f"Everybody who reaches {host} can draw: {why}.", DalleMiniWarning, stacklevel=3
        )
