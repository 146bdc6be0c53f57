"""Data sets of the package `datasets`: from the Hugging Face Hub, or written by `save_to_disk`.

The package reads and caches them; pictures stay encoded until they are asked for. Code that comes
with a data set is never run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from ...errors import DalleMiniError, InputError, MissingDependencyError
from ...foreign import show, show_names
from ..config import DataConfig
from ..records import BadRecord, BadRecordError, RawRecord
from .base import Fields, all_filters, check_any_left, check_filters

_NAME = re.compile(
    r"hf://(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:\?(?P<options>.*))?", re.IGNORECASE
)
_OPTIONS = ("split", "config", "revision")


class HubDataset:
    """Records of one split.

    Args:
        name: `hf://owner/name`, with `?split=...`, `config=...` or `revision=...`; or a folder that
            `save_to_disk` wrote, one split of it where it has several.
        config: columns and filters.

    Raises:
        InputError: it cannot be read, has several splits and none called "train", lacks a column,
            or nothing passes the filters.
        MissingDependencyError: `datasets` is not installed.
    """

    blocks = None
    skipped: tuple[BadRecord, ...] = ()

    def __init__(self, name: str, config: DataConfig) -> None:
        self.name = name
        datasets = _import()
        try:
            self.data = _one_split(_load(datasets, name), name)
            self.fields = Fields.choose(self.data.column_names, config, name=name)
            if isinstance(self.data.features[self.fields.image], datasets.Image):
                # or a broken picture would end everything instead of being counted
                undecoded = datasets.Image(decode=False)
                self.data = self.data.cast_column(self.fields.image, undecoded)
            self._filter(config)
        except DalleMiniError:
            raise
        except Exception as error:  # of the package, its readers and the network: anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(f"{name} cannot be read: {lines[0][:300]}.") from error

    def __len__(self) -> int:
        return len(self.data)

    def row(self, index: int) -> RawRecord:
        """Return a record.

        Raises:
            BadRecordError: `Fields.record` refuses the row, or it cannot be read.
        """
        place = f"{self.name.rpartition('/')[2]}:{index}"
        try:
            row = self.data[index]
        except (OSError, ValueError, KeyError, OverflowError) as error:
            bad = BadRecord(place, "broken metadata", f"{type(error).__name__}: {error}")
            raise BadRecordError(bad) from error
        # a picture's path is of the machine that the set was made on: only its name tells
        return self.fields.record(row, folder=Path(), place=place)

    def _filter(self, config: DataConfig) -> None:
        filters = all_filters(config)
        check_filters(filters, self.data.column_names, name=self.name)
        if not filters:
            return
        columns = self.data.select_columns(list({f.column for f in filters}))
        rows = [n for n, row in enumerate(columns) if all(f.passes(row[f.column]) for f in filters)]
        check_any_left(len(rows), len(self.data), filters, name=self.name)
        self.data = self.data.select(rows)


def is_saved_dataset(folder: Path) -> bool:
    """Tell whether `save_to_disk` of `datasets` wrote a folder."""
    names = ("state.json", "dataset_info.json")
    is_one = all((folder / name).is_file() for name in names)
    return is_one or (folder / "dataset_dict.json").is_file()


def _load(datasets: Any, name: str) -> Any:
    found = _NAME.fullmatch(name)
    if found is None and "://" in name:
        raise InputError(
            f"{name}: a data set on the Hub is named hf://owner/name, with ?split=test where it "
            "has several; single files of it are not read."
        )
    if found is None:
        return datasets.load_from_disk(os.fspath(name))
    options = dict(parse_qsl(found["options"] or ""))
    if unknown := options.keys() - set(_OPTIONS):
        raise InputError(
            f"{name}: there is no option {min(unknown)!r}, only {', '.join(_OPTIONS)}."
        )
    return datasets.load_dataset(
        found["name"],
        options.get("config"),
        split=options.get("split"),
        revision=options.get("revision"),
    )


def _one_split(data: Any, name: str) -> Any:
    if not isinstance(data, dict):
        return data
    if len(data) > 1 and "train" not in data:
        first = next(iter(data))
        way = f"{name}?split={first}" if "://" in name else str(Path(name) / first)
        listed = show_names(list(data), most=8, length=40)
        raise InputError(
            f"{name} has several splits ({listed}); name one, such as {show(way)[1:-1]}."
        )
    return data["train"] if "train" in data else next(iter(data.values()))


def _import() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "Data sets of the Hugging Face Hub, and those of save_to_disk, need datasets, which is "
            'not installed; run: pip install ".[datasets]"'
        ) from error
    return datasets
