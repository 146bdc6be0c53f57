"""The log of a run: JSON lines, one row for each time that a loop reports.

Knows rows of numbers by their names, not what they mean.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import MissingFileError
from ..files import as_path, write_text
from ..foreign import is_finite

LOG_NAME = "log.jsonl"

_logger = logging.getLogger("dallemini.training")


def read_log(folder: str | os.PathLike[str]) -> Iterator[dict[str, float]]:
    """Yield the rows of a run's log; a last row that is still being written is left out.

    Raises:
        MissingFileError: the folder has none.
    """
    path = as_path(folder) / LOG_NAME
    if not path.exists():
        raise MissingFileError(f"There is no {path}; give the folder of a training run.")
    for number, line in enumerate(_lines(path), 1):
        row = _parse(line)
        if row is not None:
            yield row
        elif line.endswith("\n"):
            _logger.warning("Line %d of %s is no row of a log and is left out.", number, path)


def past_judgements(
    folder: Path, judge: Callable[[Mapping[str, float]], float | None]
) -> dict[str, Any]:
    """Return how good the best evaluation in a log was, and how many came after it.

    Args:
        folder: of the run.
        judge: what was measured to how good that is, lower is better.

    Returns:
        best: None where there is none.
        waited: evaluations after it.
    """
    rows = read_log(folder) if (folder / LOG_NAME).exists() else iter(())
    found = [value for row in rows if (value := judge(row)) is not None]
    judged = [math.inf if math.isnan(value) else value for value in found]
    if not judged:
        return {"best": None, "waited": 0}
    return {"best": min(judged), "waited": len(judged) - 1 - judged.index(min(judged))}


def forget_later_rows(path: Path, start_step: int) -> None:
    """Drop the rows that the run will write again, and what is no row, atomically."""
    if not path.exists():
        return
    lines = list(_lines(path))
    rows = [(line, _parse(line)) for line in lines]
    # a run from the start has no row yet, not even of step 0
    kept = [line for line, row in rows if row is not None and 0 < start_step >= row["step"]]
    if kept == lines and all(line.endswith("\n") for line in lines):
        return
    write_text(path, "".join(line.rstrip("\n") + "\n" for line in kept))


def _lines(path: Path) -> Iterator[str]:
    if not path.is_file():  # a device has no end
        return
    with path.open(encoding="utf-8", errors="replace") as log:
        yield from log


def _parse(line: str) -> dict[str, float] | None:
    """Return a row; None if the line holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    if type(step) is not int or not 0 <= step < 1 << 62:
        return None
    numbers = {name: math.nan if value is None else value for name, value in row.items()}
    return {
        name: value
        for name, value in numbers.items()
        if isinstance(value, float) or is_finite(value)
    }
