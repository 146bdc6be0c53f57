"""The page of what was found names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "findings.md"
ROW = re.compile(r"^\| (?!what went wrong)(?!-)(.+) \| (.+) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`((?:unit|integration|parity|fuzz)/[\w/]+\.py)(?:::(\w+))?`")


def missing(text: str) -> list[str]:
    """Return the tests that a page names and that there are not."""
    absent = []
    for file, name in NAMED.findall(text):
        path = TESTS / file
        content = path.read_text() if path.exists() else ""
        if not content or (name and f"\ndef {name}(" not in content):
            absent.append(f"{file}::{name}")
    return absent


def test_every_test_that_is_named_exists() -> None:
    assert missing(PAGE.read_text()) == []
    assert missing("`unit/test_findings.py::test_nobody_wrote`, `unit/nowhere.py`") == [
        "unit/test_findings.py::test_nobody_wrote",
        "unit/nowhere.py::",
    ]


def test_every_row_names_a_test_or_a_reason() -> None:
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) > 100
    for row in rows:
        assert NAMED.search(row[2]) or row[2].startswith("no test: "), row
