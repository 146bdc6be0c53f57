"""The only place where the parser is called."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import tyro

from .words import UsageError, checking_usage, sentence_of_box


def parse(kind: Any, words: Sequence[str], *, prog: str, default: Any = None) -> Any:
    """Return the command, or tell in one sentence why the words are none.

    Args:
        kind: a dataclass, whose fields are the options.
        words: the options.
        prog: what stands before them.
        default: an instance of the class, whose values are those of options that are not given.

    Raises:
        UsageError: the words are not understood.
        SystemExit: the help was shown.
    """
    shown = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(shown), checking_usage():
            return tyro.cli(kind, prog=prog, args=list(words), **given)
    except SystemExit as stopped:
        if stopped.code in (0, None):
            raise
        raise UsageError(sentence_of_box(shown.getvalue(), prog)) from None
