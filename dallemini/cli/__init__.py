"""The command line: `dallemini generate`, `edit`, `extend`, `convert`, `info`, `train` and others.

`main` turns every expected failure into one sentence and an exit code. The commands are in modules
of their own, which need the `cli` extra and are imported when `main` is called.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TextIO

from ..errors import DalleMiniError, DalleMiniWarning, MissingDependencyError
from .words import UsageError, own_words

__all__ = ["main"]

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
_WRONG = (UsageError, MissingDependencyError)
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # of what was printed


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after `dallemini`; those of this process when None.

    Returns:
        0; 1 where the command failed; 2 where it was not understood or the extra is missing; 130
        where it was interrupted.
    """
    if argv is None:
        wait_asleep(os.environ)
    try:
        from .app import run
    except ImportError as error:
        if error.name != "tyro":
            raise
        _complain('the command line needs its extra; run: pip install ".[cli]"')
        return WRONG_USE
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    with _printable(), _plain_warnings():
        try:
            code = run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
            return code or _tell_what_was_lost()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            _forget_output()
            return FAILED
        except DalleMiniError as error:
            _complain(own_words(str(error)))
            return WRONG_USE if isinstance(error, _WRONG) else FAILED
        except OSError as error:
            lost = error.errno in _LOST and error.filename is None
            if not lost and _can_print():
                raise
            _forget_output()
            _complain(f"the output could not be printed: {error.strerror}")
            return FAILED
        except KeyboardInterrupt:
            _complain("interrupted")
            return INTERRUPTED


def wait_asleep(environment: MutableMapping[str, str]) -> None:
    """Let torch's threads sleep while they wait, unless the environment says otherwise.

    They are OpenMP's, and spin until the other one is there: beside one busy process a picture of
    the bundled model takes twice as long, several calls five times. On idle cores sleeping costs a
    few hundredths. It must be said before torch is loaded, which only an own process can do.
    """
    if "torch" not in sys.modules:
        environment.setdefault("OMP_WAIT_POLICY", "passive")


def _complain(message: str) -> None:
    print("dallemini:", " ".join(message.split()), file=sys.stderr)


@contextlib.contextmanager
def _printable() -> Iterator[None]:
    """Let any text be printed: where an encoding lacks a letter, and where nobody reads."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: a file that is opened must not get this number
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    changed = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _Lost())
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
            changed.append(stream)
    try:
        yield
    finally:
        for stream in changed:
            with contextlib.suppress(OSError):  # it flushes, to a full disk perhaps
                stream.reconfigure(errors="strict")
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if isinstance(getattr(sys, name), _Lost):
                setattr(sys, name, stream)


class _Lost(io.StringIO):
    """What is printed to a stream that was closed before this process began."""


def _tell_what_was_lost() -> int:
    if isinstance(sys.stdout, _Lost) and sys.stdout.getvalue():
        _complain("the output could not be printed: standard output is closed")
        return FAILED
    return 0


def _can_print() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _forget_output() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - python flushes it at exit


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
                _complain(f"warning: {own_words(str(message))}")
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_plainly
        warnings.simplefilter("always", DalleMiniWarning)
        yield
