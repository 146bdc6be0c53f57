"""What comes from outside: looked at before it is read, shortened before it is shown.

`check_file` tells a file of weights or settings from what is often found in its place: a pointer of
Git LFS, a web page, a pipe. `show` puts any value into a message, however large or deep it is.
Knows no format.
"""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import CheckpointError, DalleMiniError, MissingFileError

_MOST = 100  # characters of one value
_ENTRIES = 8  # of a list or an object
_DEPTH = 3
_DIGITS = 40
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_POINTER = b"version https://git-lfs.github.com/"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")
HEAD = 512
"""Bytes that tell what a file is."""
_GZIP = b"\x1f\x8b"


def show(value: object, *, most: int = _MOST) -> str:
    """Return what `repr` would say, in at most `most` characters and in bounded time.

    Numbers of many digits, long strings, lists with themselves inside and objects whose `repr`
    fails are shortened or named by their type.

    Example:
        >>> from dallemini.foreign import show
        >>> show([1, "two", (3.0,)]), show("a" * 500, most=12), show(10**5000)
        ("[1, 'two', (3.0,)]", "'aaaaaaaa...", 'a number of about 5001 digits')
    """
    text = _brief(value, most, _DEPTH)
    return text if len(text) <= most else text[: most - 3] + "..."


def _brief(value: object, most: int, depth: int) -> str:
    if isinstance(value, str | bytes):
        return repr(value[:most]) if len(value) <= most else repr(value[:most])[: most - 3] + "..."
    if isinstance(value, int) and value.bit_length() > _DIGITS * 3:
        return f"a number of about {math.ceil(value.bit_length() * 0.30103)} digits"
    if type(value) in (list, tuple, dict, set, frozenset):
        return _entries(value, most, depth)
    try:
        return repr(value)
    except Exception:  # foreign code: a message must not fail for it
        return f"a {type(value).__name__}"


def _entries(value: Any, most: int, depth: int) -> str:
    """Show the first entries of a container."""
    opening = "[" if isinstance(value, list) else "(" if isinstance(value, tuple) else "{"
    closing = {"[": "]", "(": ")", "{": "}"}[opening]
    if depth == 0 and value:
        return f"{opening}...{closing}"
    shown: list[str] = []
    for entry in value:
        if len(shown) == _ENTRIES:
            shown.append("...")
            break
        text = _brief(entry, most, depth - 1)
        if isinstance(value, Mapping):
            text += f": {_brief(value[entry], most, depth - 1)}"
        shown.append(text)
    if isinstance(value, tuple) and len(value) == 1:
        shown.append("")
    return f"{opening}{', '.join(shown).rstrip(' ')}{closing}"


def is_finite(value: object) -> bool:
    """Tell whether a value is a number that a float can hold; a truth value is none.

    Example:
        >>> from dallemini.foreign import is_finite
        >>> is_finite(3), is_finite(float("inf")), is_finite(10**400), is_finite("3")
        (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def with_article(name: str) -> str:
    """Return a name with "a" or "an" before it.

    Example:
        >>> from dallemini.foreign import with_article
        >>> with_article("VQGAN"), with_article("Upscaler")
        ('a VQGAN', 'an Upscaler')
    """
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def show_names(names: Sequence[object], *, most: int = 3, length: int = _MOST) -> str:
    """Name the first few of several things: "'a', 'b', 'c' and 7 more".

    Args:
        names: the things.
        most: how many are named.
        length: characters of one.
    """
    text = ", ".join(show(name, most=length) for name in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def show_tensors(shapes: Mapping[str, object], *, most: int = 3) -> str:
    """Name the first few of several tensors with their shapes."""
    text = ", ".join(f"{show(name)} {show(shapes[name])}" for name in list(shapes)[:most])
    return text + (f" and {len(shapes) - most} more" if len(shapes) > most else "")


def check_file(
    path: str | os.PathLike[str],
    *,
    error: type[DalleMiniError] = CheckpointError,
    largest: int | None = None,
    may_be_empty: bool = False,
    packed: bool = False,
) -> int:
    """Return the size of a file that can be read, without waiting for pipes and devices.

    Args:
        path: the file.
        error: what is raised for a file that is something else.
        largest: bytes that it may have.
        may_be_empty: whether a file without content is one, too.
        packed: whether it is meant to be packed with gzip.

    Raises:
        MissingFileError: it does not exist or cannot be opened.
        DalleMiniError: it is not a regular file, empty, too large, a pointer of Git LFS, a web
            page or packed with gzip; of the class `error`.
    """
    name = show(os.fspath(path), most=300)[1:-1]
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            kind = next((kind for test, kind in _KINDS if test(found.st_mode)), "not a file")
            raise error(f"{name} is {kind}, where a file is needed; name the file itself.")
        with Path(path).open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError as failure:
        raise MissingFileError(f"There is no file {name}.") from failure
    except (OSError, ValueError) as failure:
        if isinstance(failure, DalleMiniError):
            raise
        reason = failure.strerror if isinstance(failure, OSError) else failure
        raise MissingFileError(f"{name} cannot be read: {reason}.") from failure
    if (head or not may_be_empty) and (problem := other_content(head, packed=packed)):
        raise error(f"{name} {problem}")
    if largest is not None and found.st_size > largest:
        raise error(
            f"{name} has {found.st_size} bytes, but such a file has at most {largest}. It is "
            "something else; download it again."
        )
    return found.st_size


def other_content(head: bytes, *, packed: bool = False) -> str | None:
    """Say what the first bytes of a file show that it is, where it is not what it is called.

    Args:
        head: the first `HEAD` bytes, or all that there are.
        packed: whether the file is meant to be packed with gzip.

    Returns:
        The end of a sentence that begins with its name; None where nothing strange is seen.

    Example:
        >>> from dallemini.foreign import other_content
        >>> other_content(b"<!DOCTYPE html>")
        'is a web page, not the file itself: download it from its address for raw files.'
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "is empty. Delete it and download it again."
    if start.startswith(_POINTER):
        return "is a Git LFS pointer: run git lfs pull in its folder."
    if start.startswith(_PAGES):
        return "is a web page, not the file itself: download it from its address for raw files."
    if head.startswith(_GZIP) and not packed:
        return "is packed with gzip: unpack it first."
    return None
