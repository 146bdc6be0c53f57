"""Mutations of authentic files, and the rule that every reader keeps.

Whatever a file holds, a reader returns or raises an error of `dallemini.errors`, in a message of
less than 1,000 characters, with 2 seconds of processor time and 200 MB of memory beyond what the
process had.
"""

from __future__ import annotations

import contextlib
import copy
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from dallemini.errors import DalleMiniError

FEW, MANY = 12, 300  # examples in the suite, and in each round of a longer search
_SECONDS, _BYTES = 2.0, 200 << 20
_HANGS_AFTER = 20

_NUMBERS = (-1, 0, 1, 2, 255, 1 << 31, (1 << 63) - 1, 1 << 64, 10**30)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e308)
_WORDS = ("", "..", "/etc/passwd", "a/b", "module.", "x" * 5000, "\0", "é", "ÿ", "null")
_MARKS = (
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\0" * 8,
    b"\x80\x02",
    b"PK\x01\x02",
    b"\xc9",
    b"[" * 99,
)

simple = st.sampled_from([None, True, False, *_NUMBERS, *_FLOATS, *_WORDS])
values = st.recursive(
    simple,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
byte_edits = st.lists(
    st.tuples(
        st.sampled_from(("flip", "insert", "delete", "cut", "repeat", "mark")),
        st.integers(0, 1 << 40),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)
tree_edits = st.lists(
    st.tuples(
        st.sampled_from(("replace", "delete", "rename", "add", "wrap")),
        st.integers(0, 1 << 40),
        values,
    ),
    min_size=1,
    max_size=4,
)


def edit_bytes(content: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    """Change a file as accidents and attackers do."""
    data = bytearray(content)
    for kind, place, byte in edits:
        at = place % (len(data) + 1)
        match kind:
            case "flip" if at < len(data):
                data[at] ^= byte or 1
            case "insert":
                data[at:at] = bytes([byte])
            case "delete":
                del data[at : at + byte]
            case "cut":
                del data[max(at, 1) :]
            case "repeat":
                data[at:at] = data[at : at + byte]
            case "mark":
                mark = _MARKS[byte % len(_MARKS)]
                data[at : at + len(mark)] = mark
    return bytes(data)


def edit_tree(tree: Any, edits: list[tuple[str, int, Any]]) -> Any:
    """Change a nested dict: replace, remove, rename, add and wrap entries anywhere in it."""
    tree = copy.copy(tree) if isinstance(tree, dict) else tree
    for kind, place, value in edits:
        slots = list(_slots(tree))
        if not slots:
            return value
        parent, key = slots[place % len(slots)]
        match kind:
            case "replace":
                parent[key] = value
            case "delete":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                parent[str(value)] = parent.pop(key)
            case "add" if isinstance(parent, dict):
                parent[str(value)] = value
            case "wrap":
                parent[key] = {"module": parent[key]}
    return tree


def _slots(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _slots(tree[key])


def search(check: Callable[[Any], None], edits: st.SearchStrategy[Any], seconds: float) -> None:
    """Run a check with many edits; the rule is kept in each, or the smallest one is shown."""

    def keeps_the_rule(edit: Any) -> None:
        with ruled():
            check(edit)

    end, number = time.monotonic() + seconds, 0
    while number == 0 or time.monotonic() < end:
        examples = settings(
            max_examples=MANY if seconds else FEW,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(examples(given(edits)(keeps_the_rule)))()
        number += 1


@contextlib.contextmanager
def ruled() -> Iterator[None]:
    """Fail where a block breaks the rule."""

    def hang(*_: Any) -> None:
        raise AssertionError(f"still busy after {_HANGS_AFTER} seconds")

    before, start, message = _peak(), time.process_time(), ""
    signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, _HANGS_AFTER)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DalleMiniError as error:
        message = str(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(message) < 1000, f"a message of {len(message)} characters"
    assert "weights_only" not in message
    assert time.process_time() - start < _SECONDS, "too slow"
    assert _peak() - before < _BYTES, "too much memory"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
