"""Which prompts a command draws: words of the command line, a file, or standard input."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import DalleMiniWarning, InputError

_STDIN = "-"
_LITTLE_WORDS = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "the", "to", "with"}


def read_all(
    words: Sequence[str], file: Path | None, *, keep_empty: bool = False, mixed: bool = False
) -> list[str]:
    """Return the prompts of a command.

    Args:
        words: prompts; "-" alone for those of standard input.
        file: a file of prompts, or "-".
        keep_empty: as in `read_prompts`.
        mixed: as in `check_words`.

    Raises:
        InputError: there is none, one is empty, both are given, or quotes were forgotten.
        MissingFileError: the file does not exist.
    """
    if words and file is not None:
        raise InputError("Give prompts or --prompts, not both.")
    if list(words) == [_STDIN] or file is not None:
        return _read(None if file is None or str(file) == _STDIN else file, keep_empty)
    check_words(words, "dallemini generate", mixed=mixed)
    return list(words)


def check_words(words: Sequence[str], command: str, *, mixed: bool = False) -> None:
    """Look whether words of the command line are prompts that were meant.

    Args:
        words: prompts.
        command: what stands before them, for the messages.
        mixed: they are mixed into one picture, and may well be single words.

    Raises:
        InputError: there is none, one is empty, or quotes were forgotten. Where they may have been,
            a `DalleMiniWarning` says so.
    """
    if not words:
        raise InputError(f'There is no prompt; try: {command} "a red apple".')
    for number, prompt in enumerate(words, start=1):
        if not prompt.strip():
            raise InputError(f"Prompt {number} is empty; say in words what to draw.")
    if len(words) > 1 and not mixed and not any(" " in word for word in words):
        told = f"These are {len(words)} prompts of one word"
        quoted = f'{command} "{" ".join(words)}"'
        if _LITTLE_WORDS & {*words}:
            raise InputError(f"{told}; put one prompt in quotes: {quoted}.")
        warnings.warn(
            f"{told}, drawn one by one; for a single prompt put it in quotes: {quoted}.",
            DalleMiniWarning,
            stacklevel=2,
        )


def _read(file: Path | None, keep_empty: bool) -> list[str]:
    from ..data.prompts import parse_prompts, read_prompts  # here: torch comes with it

    if file is not None:
        return read_prompts(file, keep_empty=keep_empty)
    stream = getattr(sys.stdin, "buffer", None)
    return parse_prompts(b"" if stream is None else stream.read(), "standard input")
