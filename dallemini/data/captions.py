"""Captions: what counts as one, and which of several a batch shows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from ..foreign import HEAD, other_content

_LINE_ENDS = re.compile(r"\r\n|\n|\r")  # str.splitlines knows others, which may stand in a caption


class NotTextError(TypeError):
    """A value is no caption and no list of captions."""


def read_captions(value: object) -> tuple[str, ...]:
    """Return the captions in a column's value: a text, or a list of texts; blank ones do not count.

    Raises:
        NotTextError: the value, or one of a list, is something else.

    Example:
        >>> read_captions(["a cat ", "", None, "a grey cat"])
        ('a cat', 'a grey cat')
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, bytes):
        try:
            return read_captions(value.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise NotTextError(f"it is not UTF-8 from byte {error.start} on") from error
    if isinstance(value, list | tuple):
        return tuple(caption for entry in value for caption in _read_entry(entry))
    raise NotTextError(f"it is {type(value).__name__}: {str(value)[:40]}")


def read_caption_lines(content: bytes, *, joined: bool = False) -> tuple[str, ...]:
    r"""Return the captions in a text file, one a line, or all lines as one.

    Raises:
        NotTextError: the file is not UTF-8, a pointer of Git LFS or a web page.

    Example:
        >>> read_caption_lines(b"a cat\na grey cat\n")
        ('a cat', 'a grey cat')
    """
    if content and (problem := other_content(content[:HEAD])):
        raise NotTextError(f"it {problem.rstrip('.')}")
    try:
        lines = read_captions(_LINE_ENDS.split(content.decode("utf-8-sig")))
        return read_captions(" ".join(lines)) if joined else lines
    except UnicodeDecodeError as error:
        raise NotTextError(f"it is not UTF-8 from byte {error.start} on") from error


def choose_caption(
    captions: Sequence[str],
    chance: random.Random,
    *,
    choice: Literal["first", "random"] = "random",
    dropout: float = 0.0,
) -> str:
    """Choose what a batch shows of the captions of one record.

    Args:
        captions: any number; none gives the empty caption.
        chance: decides, always by two of its numbers.
        choice: "first", or one at "random".
        dropout: share of the calls that give the empty caption.

    Example:
        >>> choose_caption(["a cat", "a grey cat"], random.Random(0), choice="first")
        'a cat'
    """
    kept, place = chance.random() >= dropout, chance.random()
    if not kept or not captions:
        return ""
    return captions[0 if choice == "first" else int(place * len(captions))]


def _read_entry(entry: object) -> tuple[str, ...]:
    if isinstance(entry, list | tuple):
        raise NotTextError("it is a list inside a list")
    return read_captions(entry)
