"""What is to be encoded: which shards there are to be, which there are, and which are stale.

A shard that is there stays if its footer says that it was made by the same VQGAN, with the same
settings, from the same pictures. Where only texts changed, it is written again with its codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError
from ..foreign import show
from .dataset import CaptionedImages
from .marks import mark_shard, origin_of, summarize
from .records import DataShard, RawRecord
from .token_shards import TokenShard, numbers_in, rewrite_shard, shard_name

_SAME = ("vqgan", "codebook_size", "image_length", "data", "shard_size")
_MEANINGS = {"vqgan": "another VQGAN", "data": "other settings of the data"}
_REFRESHED = ("origin", "records", "shards", "source", "texts")

State = Literal["done", "other texts", "missing", "stale"]


class Plan:
    """Compares a folder with what it is to hold.

    Args:
        folder: where the shards are.
        dataset: the pictures.
        shards: all that there are to be, of every process.
        common: the part of the footers that all have in common.
        replace: whether shards that do not fit are made again instead of refused.
    """

    def __init__(
        self,
        folder: Path,
        dataset: CaptionedImages,
        shards: Sequence[DataShard],
        common: Mapping[str, Any],
        *,
        replace: bool,
    ) -> None:
        self.folder, self.dataset, self.common = folder, dataset, common
        self.count, self.replace = len(shards), replace

    def missing(self, shards: Sequence[DataShard]) -> tuple[list[DataShard], int]:
        """Return which of some shards are to be encoded, and how many got other texts.

        Those that were made from other pictures are removed first, so that nobody takes a folder
        that is half encoded again for a whole one.

        Raises:
            InputError: a file does not fit, or is damaged; nothing was changed then.
            StorageError: a file cannot be written again.
        """
        surplus = self._surplus()
        states = {shard.number: self._state(shard) for shard in shards}
        for path in surplus:
            path.unlink(missing_ok=True)
        updated = 0
        for shard in shards:
            if states[shard.number] == "other texts":
                states[shard.number] = "done" if self._update(shard) else "stale"
                updated += states[shard.number] == "done"
            if states[shard.number] == "stale":
                self.path(shard).unlink(missing_ok=True)
        return [shard for shard in shards if states[shard.number] != "done"], updated

    def path(self, shard: DataShard) -> Path:
        """Return the file of a shard."""
        return self.folder / shard_name(shard.number)

    def metadata(self, shard: DataShard) -> dict[str, Any]:
        """Return the footer of a shard, less what was found in it."""
        url = (shard.url or "").partition("?")[0]  # the rest may be a signature
        place = {
            "source": [url.rpartition("/")[2], shard.start, shard.stop],
            "shard": shard.number,
            "shards": self.count,
            "origin": origin_of(self.dataset.names if shard.url is None else [url]),
        }
        return {**self.common, **place}

    def drop_if_empty(self) -> bool:
        """Remove all shards if there is no picture in any; tells whether that was so."""
        paths = [self.folder / shard_name(number) for number in range(self.count)]
        if not all(path.exists() and not TokenShard.read(path).rows for path in paths):
            return False
        for path in paths:
            path.unlink(missing_ok=True)
        return True

    def _surplus(self) -> list[Path]:
        """Return files of the same set when it was larger.

        Raises:
            InputError: there are others beyond those that there are to be.
        """
        beyond = sorted(number for number in numbers_in(self.folder) if number >= self.count)
        paths = [self.folder / shard_name(number) for number in beyond]
        origin = origin_of(self.dataset.names)
        for path in paths:
            if self.replace or not path.exists():  # another process may remove it
                continue
            found = TokenShard.read(path).metadata
            if found.get("origin") != origin or self._difference(found):
                raise InputError(
                    f"{self.folder} holds {path.name}, but these data make {self.count} shards; "
                    "choose an empty folder, or the data and shard size of before."
                )
        return paths

    def _difference(self, found: Mapping[str, Any]) -> str | None:
        return next((name for name in _SAME if found.get(name) != self.common[name]), None)

    def _state(self, shard: DataShard) -> State:
        """Compare a file with what it is to hold.

        One that was cut short, by a connection perhaps, or where all was bad, is tried again.

        Raises:
            InputError: it was made by another VQGAN, with other settings, or from other data.
        """
        path = self.path(shard)
        if not path.exists():
            return "missing"
        found = TokenShard.read(path)
        made = found.metadata
        if "pictures" not in made:
            return self._refuse(f"{path} is of an older version, which did not note its pictures.")
        if name := self._difference(made):
            return self._refuse(
                f"{path} was made with {_MEANINGS.get(name, 'another ' + name)}: {name} is "
                f"{show(made.get(name))} there and {show(self.common[name])} now."
            )
        bad = made.get("bad", {})
        if "broken shard" in bad or (bad and not found.rows):
            return "missing"
        wanted = {**self.metadata(shard), **summarize(mark_shard(self.dataset, shard))}
        if made.get("pictures") == wanted["pictures"]:
            is_same = all(made.get(name) == wanted[name] for name in _REFRESHED)
            return "done" if is_same else "other texts"
        if made.get("origin") == wanted["origin"]:
            return "stale"
        return self._refuse(f"{path} was made from other pictures than {self.dataset.name}.")

    def _refuse(self, problem: str) -> State:
        if self.replace:
            return "stale"
        raise InputError(f"{problem} Choose another folder, or delete the old files.")

    def _update(self, shard: DataShard) -> bool:
        """Give a file the texts and the place that its pictures have now, if that is simple."""
        found = TokenShard.read(self.path(shard))
        marks = summarize(mark_shard(self.dataset, shard))
        metadata = {**self.metadata(shard), **marks, "bad": found.metadata.get("bad", {})}
        if found.metadata.get("texts") == marks["texts"]:
            return rewrite_shard(found, metadata, None)
        records = [r for r in self.dataset.raw_records(shard) if isinstance(r, RawRecord)]
        texts = {record.key: (record.captions, record.columns) for record in records}
        return len(texts) == len(records) and rewrite_shard(found, metadata, texts)
