"""The command line: `dallemini generate`, `convert`, `info`, `score`, `encode`, `train`, ...

`main` turns every expected failure into one sentence and an exit code. The commands are in modules
of their own, which need the `cli` extra and are imported when `main` is called.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from ..errors import DalleMiniError, DalleMiniWarning

__all__ = ["main"]

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after `dallemini`; those of this process when None.

    Returns:
        0; 1 where the command failed; 2 where it was not understood or the extra is missing; 130
        where it was interrupted.
    """
    try:
        from .app import run
    except ImportError as error:
        if error.name != "tyro":
            raise
        _complain('the command line needs its extra; run: pip install "dallemini[cli]"')
        return WRONG_USE
    try:
        with _plain_warnings():
            code = run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - python flushes it at exit
        return FAILED
    except DalleMiniError as error:
        _complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED


def _complain(message: str) -> None:
    print("dallemini:", " ".join(message.split()), file=sys.stderr)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show our warnings as one line each, without the place in the code."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_plainly(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DalleMiniWarning):
                _complain(f"warning: {message}")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_plainly
        warnings.simplefilter("always", DalleMiniWarning)
        yield
