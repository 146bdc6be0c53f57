"""Who drew what: the pictures of each browser, for as long as the app runs.

Knows files and settings, neither pages nor models.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from .limits import AppLimits
from .wish import Wish


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture that was saved.

    Attributes:
        path: of the PNG file.
        wish: what was asked for; its seed is that of this picture.
        score: how well it fits its prompt, if that was asked.
        flag: what the safety check did to it for which reason, "" where it passed.
    """

    path: Path
    wish: Wish
    score: float | None = None
    flag: str = ""

    @property
    def caption(self) -> str:
        """Its seed, its score if it has one, and whether it was flagged."""
        told = [f"seed {self.wish.seed}"]
        told += [] if self.score is None else [f"{self.score:.2f}"]
        return " · ".join([*told, "flagged"] if self.flag else told)


class Sessions:
    """The pictures of each session, newest click first; several threads may ask.

    A session is known by a key that only its browser has. What is beyond the limits is deleted,
    the oldest first.

    Args:
        limits: how much is remembered.
    """

    def __init__(self, limits: AppLimits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._sessions: OrderedDict[str, list[Drawn]] = OrderedDict()
        self._last: dict[str, Wish] = {}

    def open(self, key: object) -> str:
        """Return the key of a session: this one if it is known, else that of a new one."""
        with self._lock:
            if not isinstance(key, str) or key not in self._sessions:
                key = secrets.token_urlsafe(16)
                self._sessions[key] = []
            self._sessions.move_to_end(key)
            while len(self._sessions) > self._limits.max_sessions:
                oldest, drawn = self._sessions.popitem(last=False)
                self._last.pop(oldest, None)
                _delete(drawn)
            return key

    def add(self, key: str, wish: Wish, drawn: list[Drawn]) -> None:
        """Remember the pictures of one click; those of a session that is forgotten are deleted."""
        with self._lock:
            known = self._sessions.get(key)
            if known is None:
                _delete(drawn)
                return
            self._last[key] = wish
            known[:0] = drawn
            _delete(known[self._limits.max_history :])
            del known[self._limits.max_history :]

    def drawn(self, key: object) -> list[Drawn]:
        """Return the pictures of a session, the newest click first; none where it is unknown."""
        with self._lock:
            return list(self._sessions.get(key, ())) if isinstance(key, str) else []

    def last_wish(self, key: object) -> Wish | None:
        """Return what was asked for last in a session, with its seed; None before."""
        with self._lock:
            return self._last.get(key) if isinstance(key, str) else None


def _delete(drawn: list[Drawn]) -> None:
    for picture in drawn:
        picture.path.unlink(missing_ok=True)
