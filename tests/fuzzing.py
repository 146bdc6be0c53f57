"""Mutations of authentic files, and the rule that every reader keeps.

Whatever a file holds, a reader returns or raises an error of `dallemini.errors`, in a message of
less than 1,000 characters, with 2 seconds of processor time and 200 MB of memory beyond what the
process had.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import resource
import signal
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dallemini.errors import DalleMiniError, DalleMiniWarning

Search = Callable[[Callable[[Any], object], st.SearchStrategy[Any]], None]
FEW, MANY = 4, 300  # examples in the suite, and in each round of a longer search
_SECONDS, _BYTES = 2.0, 200 << 20
_HANGS_AFTER = {signal.ITIMER_PROF: 10.0, signal.ITIMER_REAL: 600.0}  # computing; waiting
_LONGEST = 1000  # characters of a message

_NUMBERS = (-1, 0, 1, 2, 255, 1 << 31, 10**12, (1 << 63) - 1, 1 << 64, 10**30, 10**400)
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e308)
_AGAIN = "\ue000"  # in JSON, a key that is there already
_DEEP = {  # lists in lists that Python does not parse, and objects in objects that it does
    "\ue001": "[" * 3000 + "]" * 3000,
    "\ue002": '{"a":' * 500 + "1" + "}" * 500,
}
_WORDS = ("", "..", "/etc/passwd", "a/b", "module.", "x" * 5000, "\0", "é", "ÿ", "null", *_DEEP)
_MARKS = (
    *(b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 8, b"\x80\x02", b"PK\x01\x02", b"\xc9", b"[" * 99),
    *(
        b"{" * 200,
        b"\n" * 9,
        b"\r",
        b"\t",
        b'"',
        b"\\",
        b"\xe2\x80\xa8",
        b"\xef\xbb\xbf",
        b"9" * 50,
    ),
    *(b"e999", b"NaN", b"..", b"/dev/zero", b"\x7fELF"),
)
_NUDGES: tuple[Callable[[Any], Any], ...] = (
    lambda n: n + 1,
    lambda n: n - 1,
    lambda n: n * 2,
    lambda n: n * 10**6,
    lambda n: -n,
    lambda n: [n],
    str,
)
_PNG_START = b"\x89PNG\r\n\x1a\n"

simple = st.sampled_from([None, True, False, *_NUMBERS, *_FLOATS, *_WORDS])
_letters = st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=5)
values = st.recursive(
    simple,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_letters, inner, max_size=3),
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
        st.sampled_from(("replace", "delete", "rename", "add", "wrap", "nudge", "again")),
        st.integers(0, 1 << 40),
        values,
    ),
    min_size=1,
    max_size=4,
)


def file_edits(name: str) -> st.SearchStrategy[Any]:
    """Return edits of a file: of its bytes, or of what its format holds."""
    suffix = PurePath(name).suffix
    inside = tree_edits if suffix in _TREES else byte_edits
    edits = st.tuples(st.just("bytes"), byte_edits)
    return edits | st.tuples(st.just("inside"), inside) if suffix in _INSIDE else edits


def edit_file(name: str, content: bytes, edit: tuple[str, Any]) -> bytes:
    """Change a file: its bytes, or what it holds, which is packed again as it should be."""
    place, edits = edit
    change = _INSIDE[PurePath(name).suffix] if place == "inside" else edit_bytes
    return change(content, edits)


def edit_bytes(content: bytes, edits: list[tuple[str, int, int]]) -> bytes:
    """Change bytes as accidents and attackers do."""
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
                data[at:at] = data[at : at + byte] * (1 + place % 9)
            case "mark":
                mark = _MARKS[byte % len(_MARKS)]
                data[at : at + len(mark)] = mark
    return bytes(data)


def edit_tree(tree: Any, edits: list[tuple[str, int, Any]]) -> Any:
    """Change nested containers and objects: replace, remove, rename, add and wrap entries."""
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
            case "again" if isinstance(parent, dict) and isinstance(key, str):
                parent[key + _AGAIN] = value
            case "nudge" if type(parent[key]) in (int, float):
                parent[key] = _NUDGES[place % len(_NUDGES)](parent[key])
            case "wrap":
                parent[key] = {"module": parent[key]}
    return tree


def _slots(tree: Any) -> Iterator[tuple[Any, Any]]:
    tree = tree if isinstance(tree, dict | list) else getattr(tree, "__dict__", None)
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _slots(tree[key])


def json_text(tree: Any) -> str:
    """Write JSON, with what no Python value stands for: deep lists and a key that comes twice."""
    text = json.dumps(tree, ensure_ascii=False)
    for word, value in _DEEP.items():
        text = text.replace(f'"{word}"', value)
    return text.replace(_AGAIN, "")


def _edit_json(content: bytes, edits: Any) -> bytes:
    return json_text(edit_tree(json.loads(content), edits)).encode("utf-8", "surrogatepass")


def _edit_yaml(content: bytes, edits: Any) -> bytes:
    return yaml.safe_dump(edit_tree(yaml.safe_load(content), edits)).encode()


def _edit_safetensors(content: bytes, edits: Any) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = _edit_json(content[8 : 8 + length], edits)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _edit_gzip(content: bytes, edits: Any) -> bytes:
    return gzip.compress(edit_bytes(gzip.decompress(content), edits), 1)


def _edit_zip(content: bytes, edits: Any) -> bytes:
    """Change an entry of an archive, mostly the first, in which torch has the structure."""
    if not content.startswith(b"PK"):
        return edit_bytes(content, edits)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        names = old.namelist()
        chosen = names[0 if edits[0][2] % 4 else edits[0][1] % len(names)]
        for name in names:
            entry = old.read(name)
            new.writestr(name, edit_bytes(entry, edits) if name == chosen else entry)
    return file.getvalue()


def _edit_png(content: bytes, edits: Any) -> bytes:
    """Change a chunk; its length and its sum are right again."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append(content[at + 4 : at + 8 + length])
        at += 12 + length
    chosen = edits[0][1] % len(chunks)
    chunks[chosen] = edit_bytes(chunks[chosen], edits)
    packed = (
        struct.pack(">I", max(len(chunk) - 4, 0)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )
    return content[:8] + b"".join(packed)


_TREES: dict[str, Callable[[bytes, Any], bytes]] = {
    ".json": _edit_json,
    ".yaml": _edit_yaml,
    ".safetensors": _edit_safetensors,
}
_ZIPS = (".pt", ".pth", ".ckpt", ".pkl")
_INSIDE: dict[str, Callable[[bytes, Any], bytes]] = {
    **_TREES,
    **dict.fromkeys(_ZIPS, _edit_zip),
    ".gz": _edit_gzip,
    ".png": _edit_png,
}


def search(check: Callable[[Any], object], edits: st.SearchStrategy[Any], seconds: float) -> int:
    """Run a check with many edits; the rule is kept in each, or the smallest one is shown.

    Args:
        check: reads what an edit gives.
        edits: to choose from.
        seconds: of processor time; 0 for the first few edits only.

    Returns:
        How many edits were tried.
    """
    tried, first = 0, time.time_ns() % (1 << 40) if seconds else 0  # others each time, or the same
    number = first

    def keeps_the_rule(edit: Any) -> None:
        nonlocal tried
        tried += 1
        with ruled():
            check(edit)

    end = time.process_time() + seconds
    while number == first or time.process_time() < end:
        examples = settings(
            max_examples=MANY if seconds else FEW,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],  # explaining would trace every line
            suppress_health_check=list(HealthCheck),
        )
        seed(number)(examples(given(edits)(keeps_the_rule)))()
        number += 1
    return tried


@contextlib.contextmanager
def ruled() -> Iterator[None]:
    """Fail where a block breaks the rule."""

    def hang(*_: Any) -> None:
        raise AssertionError("it hangs")

    before, start, message = _peak(anew=True), time.process_time(), ""
    signal.signal(signal.SIGPROF, hang)
    signal.signal(signal.SIGALRM, hang)
    for timer, seconds in _HANGS_AFTER.items():
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
    except DalleMiniError as error:
        message = str(error)
    finally:
        for timer in _HANGS_AFTER:
            signal.setitimer(timer, 0)
    ours = [str(one.message) for one in warned if issubclass(one.category, DalleMiniWarning)]
    for text in (message, *ours):
        assert len(text) < _LONGEST, f"a message of {len(text)} characters"
        assert "weights_only" not in text
    assert time.process_time() - start < _SECONDS, "too slow"
    assert _peak() - before < _BYTES, "too much memory"


def _peak(*, anew: bool = False) -> int:
    """Return the most memory that this process has had, or had since it was asked for `anew`."""
    with contextlib.suppress(OSError):
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
