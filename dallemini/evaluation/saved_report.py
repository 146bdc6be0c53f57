"""A report as files: figures as JSON, a page for people, and pictures."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from .._version import __version__
from ..files import as_path, replacing_folder, write_text
from ..pipeline.origin import stamp

JSON_NAME, PAGE_NAME, PICTURE_FOLDER = "report.json", "report.md", "images"


class SavedReport(ABC):
    """A dataclass of figures that can be written."""

    _seen: ClassVar[str]  # the field with the pictures

    def to_dict(self) -> dict[str, Any]:
        """Return every figure as plain JSON values; pictures are left out."""
        figures: Any = self
        names = [field.name for field in dataclasses.fields(figures) if field.name != self._seen]
        return {"version": __version__} | {name: plain(getattr(self, name)) for name in names}

    @property
    @abstractmethod
    def markdown(self) -> str:
        """The whole page in Markdown; its links lead to what `save` writes beside it."""

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write `report.json`, `report.md` and the pictures into a folder, over those there.

        Returns:
            The path of the page.

        Raises:
            StorageError: the folder cannot be made or written.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        texts = {JSON_NAME: text + "\n", PAGE_NAME: self.markdown, **self._texts()}
        with replacing_folder(directory) as folder:
            for name, content in texts.items():
                write_text(folder / name, content)
            (folder / PICTURE_FOLDER).mkdir()
            for path, picture in self._pictures():
                encoded = io.BytesIO()
                picture.save(encoded, format="PNG", optimize=True)
                (folder / path).write_bytes(stamp(encoded.getvalue(), {}))  # a model drew it
        return as_path(directory) / PAGE_NAME

    def _texts(self) -> dict[str, str]:
        """Return what else is written."""
        return {}

    @abstractmethod
    def _pictures(self) -> Iterable[tuple[str, Image.Image]]:
        """Return every picture of the page with its path."""


def plain(value: Any) -> Any:
    """Turn figures into JSON values, with six significant digits."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return value
