"""Where records come from: each kind of source gives `RawRecord`, one by number or in a stream."""

from __future__ import annotations

from .base import RowSource, StreamSource
from .find import open_sources
from .joined import Joined, split_weights

__all__ = ["Joined", "RowSource", "StreamSource", "open_sources", "split_weights"]
