"""Where the conversion of a model's files lies in the cache: one folder for the same files.

Knows nothing about what is converted, or into what.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from .source import HubSource, Source

_CONVERSIONS = Path("dallemini", "v1")  # raise the version when the layout of conversions changes


def conversion_cache_dir(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for converted weights in the Hub's cache folder; it may not exist yet."""
    from .client import cache_folder

    return cache_folder(cache_dir) / _CONVERSIONS


def source_key(source: Source, names: Sequence[str]) -> str:
    """Return a folder name that stands for these files: the same files, the same key.

    On the Hub the commit tells files apart and nothing is downloaded. Local files count by their
    path, size and times: a file that was written or replaced since has another key.

    Raises:
        MissingFileError: a local file does not exist.
    """
    if isinstance(source, HubSource):
        label = source.repository.repo_id.replace("/", "--")
        key = _digest([source.revision_key, source.subfolder, *sorted(names)])
        return f"{label}-{source.revision_key[:12]}-{key[:16]}"
    found = {name: os.path.realpath(path) for name, path in source.fetch(names).items()}
    states = {name: os.stat(path) for name, path in found.items()}
    # the last time shows a copy that keeps the time of its original
    facts = {n: (found[n], s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in states.items()}
    return f"local-{_digest(sorted(facts.items()))[:32]}"


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
