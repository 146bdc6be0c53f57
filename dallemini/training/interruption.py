"""Ending between two steps when asked to: by Ctrl-C, or SIGTERM of Slurm and Kubernetes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, Self

from .distributed import is_connected

SIGNALS = signal.SIGINT, signal.SIGTERM
_logger = logging.getLogger("dallemini.training")


class Interruption:
    """Remembers a signal for the length of a block, instead of ending the process at once.

    A second Ctrl-C ends at once as ever, in a process alone: torchrun sends its own after the
    terminal's. Only the main thread of Python hears signals; elsewhere nothing changes, and what
    the process ignores (nohup) goes on being ignored.
    """

    def __init__(self) -> None:
        self.heard: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *raised: object) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked worker: its parent decides
            return
        if self.heard == number == signal.SIGINT and not is_connected():
            self._restore()
            raise KeyboardInterrupt
        self.heard = number
        _logger.warning(
            "Interrupted: the run ends after this step, with a checkpoint%s.",
            "" if number == signal.SIGTERM else " (Ctrl-C again ends it at once, without)",
        )

    def end(self, number: int) -> None:
        """End as the signal would have, now that all is written.

        Raises:
            KeyboardInterrupt: for SIGINT.
            SystemExit: for SIGTERM, with the code 143.
        """
        before = self._before.get(number)
        self._restore()
        if callable(before) and before is not signal.default_int_handler:
            before(number, None)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
