"""Where the files of a model lie, and publishing them: sources, the Hub's client, model cards."""

from __future__ import annotations

from .card import model_card
from .source import (
    BUNDLED_MODEL,
    HubSource,
    LocalSource,
    Source,
    conversion_cache_dir,
    file_digest,
    list_files,
    open_source,
    source_key,
    upload_folder,
)

__all__ = [
    "BUNDLED_MODEL",
    "HubSource",
    "LocalSource",
    "Source",
    "conversion_cache_dir",
    "file_digest",
    "list_files",
    "model_card",
    "open_source",
    "source_key",
    "upload_folder",
]
