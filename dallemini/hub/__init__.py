"""Where the files of a model lie, and publishing them: sources, the Hub's client, model cards."""

from __future__ import annotations

from .card import model_card, upload_folder, usual_sections
from .conversions import conversion_cache_dir, source_key
from .figures import Figure, read_figures
from .packaged import PACKAGED, find_packaged, packaged_file
from .source import (
    BUNDLED_MODEL,
    HubSource,
    LocalSource,
    Source,
    Where,
    list_files,
    open,
    open_source,
)

__all__ = [
    "BUNDLED_MODEL",
    "Figure",
    "HubSource",
    "LocalSource",
    "PACKAGED",
    "Source",
    "Where",
    "conversion_cache_dir",
    "find_packaged",
    "list_files",
    "model_card",
    "packaged_file",
    "open",
    "open_source",
    "read_figures",
    "source_key",
    "upload_folder",
    "usual_sections",
]
