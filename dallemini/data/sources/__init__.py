"""Where records come from: each kind of source gives `RawRecord`, one by number or in a stream."""

from __future__ import annotations

from .base import RowSource, StreamSource
from .find import open_source

__all__ = ["RowSource", "StreamSource", "open_source"]
