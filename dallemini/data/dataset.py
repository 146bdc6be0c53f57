"""`CaptionedImages`: one interface over folders, tables and tar shards."""

from __future__ import annotations

import dataclasses
import logging
import random
import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import InputError, InputTypeError
from .config import DEFAULT_SIZE, DataConfig
from .images import decode_image, fit_image
from .order import EpochOrder, MixedOrder, make_order
from .records import BadRecord, BadRecordError, CaptionedImage, DataShard, RawRecord
from .sources import Joined, RowSource, StreamSource, open_sources
from .sources.base import NotDownloadedError

_DEFAULT = DataConfig()
_logger = logging.getLogger("dallemini.data")


class CaptionedImages:
    """Pictures with captions, wherever they are.

    A record that cannot be used is never the end: it is counted in `bad`, named in the log
    "dallemini.data", and skipped.

    Args:
        source: where records come from; `open` finds it.
        config: how they are read.
        name: for messages.
        names: what the source was opened by; `name` alone when None.
    """

    def __init__(
        self,
        source: RowSource | StreamSource,
        config: DataConfig = _DEFAULT,
        *,
        name: str = "data",
        names: Sequence[str | Path] | None = None,
    ) -> None:
        size = config.image_size or DEFAULT_SIZE
        self.config, self.name = dataclasses.replace(config, image_size=size), name
        self.names = (name,) if names is None else tuple(names)
        self._stream = source if isinstance(source, StreamSource) else None
        self._numbered = None if isinstance(source, StreamSource) else source
        self.weights: tuple[float, ...] | None = None  # how often records of each source come
        self._bad: Counter[str] = Counter()
        self._reported: set[tuple[str, str]] = set()
        for record in self.skipped:
            self.report(record)

    @classmethod
    def open(
        cls, source: str | Path | Sequence[str | Path], *, config: DataConfig = _DEFAULT
    ) -> CaptionedImages:
        """Open a folder, tables or tar shards.

        Args:
            source: a folder with `metadata.jsonl` or with a .txt file beside each picture; .jsonl,
                .parquet, .csv or .tsv files; .tar files, http(s):// addresses or pipe: commands.
                Several by a list, by a pattern such as `a-*.tar`, or by {000..123}; with weights
                as in ["a:0.7", "b:0.3"], or each record as often as every other one.
            config: which columns are read, which records pass, and how pictures are cropped.

        Raises:
            MissingFileError: a file does not exist, or a pattern fits none.
            InputError: there is nothing to read, or without the columns asked for; tar shards are
                named with something else, or with weights; or no record passes the filters.
            InputTypeError: `source` is neither a name nor a list of names.
            MissingDependencyError: the package that reads this kind is not installed.
        """
        found, weights = open_sources(source, config)
        names = [source] if isinstance(source, str | Path) else list(source)
        dataset = cls(found, config, name=", ".join(map(str, names[:3])), names=names)
        dataset.weights = weights
        return dataset

    @property
    def is_stream(self) -> bool:
        """Whether records are only reached one after the other, shard by shard."""
        return self._stream is not None

    @property
    def stream(self) -> StreamSource:
        """The source, if it is a stream.

        Raises:
            InputTypeError: it is not.
        """
        if self._stream is None:
            raise InputTypeError(f"{self.name} is no stream; its records have numbers.")
        return self._stream

    def order(self, seed: int) -> EpochOrder | MixedOrder:
        """Return which record comes at each position of the endless sequence of a seed.

        Raises:
            InputTypeError: it is a stream.
        """
        rows, window = self._rows(), self.config.shuffle_buffer
        lengths, blocks = [len(rows)], [rows.blocks]
        if isinstance(rows, Joined):
            lengths, blocks = rows.lengths, rows.part_blocks
        return make_order(lengths, self.weights, seed=seed, blocks=blocks, window=window)

    @property
    def skipped(self) -> Sequence[BadRecord]:
        """What was found when the data were opened and can be no record, such as broken rows."""
        return () if self._numbered is None else self._numbered.skipped

    @property
    def bad(self) -> Mapping[str, int]:
        """How many records turned out bad so far, by reason; each counts once."""
        return types.MappingProxyType(self._bad)

    def report(self, record: BadRecord) -> None:
        """Count and log a bad record, the first time that it is met."""
        if (record.key, record.reason) not in self._reported:
            self._reported.add((record.key, record.reason))
            self._bad[record.reason] += 1
            _logger.warning("skipped %s: %s (%s)", record.key, record.reason, record.detail)

    def __len__(self) -> int:
        """Return the number of records that pass the filters, the bad ones included.

        Raises:
            InputTypeError: it is a stream; how many there are is known after they were read.
        """
        return len(self._rows())

    def __getitem__(self, index: int) -> CaptionedImage:
        """Return a record, cropped in the middle and not mirrored.

        Raises:
            BadRecordError: it cannot be used; `bad` does not count it.
            IndexError: there is none of this number.
            InputTypeError: it is a stream.
        """
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"There is no record {index} among the {length} of {self.name}.")
        return self.prepare(self._rows().row(index % length))

    def prepare(self, record: RawRecord, chance: random.Random | None = None) -> CaptionedImage:
        """Decode the picture of a record.

        Args:
            record: as the source gives it.
            chance: decides on place and mirroring, where the configuration wants that.

        Raises:
            BadRecordError: the picture cannot be used.
        """
        image = decode_image(record.image, key=record.key, config=self.config)
        return CaptionedImage(
            key=record.key,
            image=fit_image(image, config=self.config, chance=chance),
            captions=record.captions,
            columns=record.columns,
        )

    def shards(self, size: int = 10_000) -> list[DataShard]:
        """Divide the records into consecutive parts of `size`; of a stream, every tar is one.

        Raises:
            InputError: `size` is below 1.
        """
        if size < 1:
            raise InputError(f"A shard holds at least 1 record, not {size}.")
        if self._stream is None:
            parts = [(start, min(start + size, len(self))) for start in range(0, len(self), size)]
            return [
                DataShard(number, f"rows {start} to {stop - 1}", start=start, stop=stop)
                for number, (start, stop) in enumerate(parts)
            ]
        return [DataShard(number, url, url=url) for number, url in enumerate(self._stream.urls)]

    def read(self, shard: DataShard) -> Iterator[CaptionedImage]:
        """Yield the records of a shard in order, cropped in the middle; bad ones are skipped.

        Raises:
            InputError: a file cannot be read any more.
        """
        for record in self.raw_records(shard):
            outcome = self.try_to_prepare(record)
            if isinstance(outcome, BadRecord):
                self.report(outcome)
            else:
                yield outcome

    def raw(self, index: int) -> RawRecord | BadRecord:
        """Return a record before decoding, or what is wrong with it."""
        try:
            return self._rows().row(index)
        except BadRecordError as error:
            return error.record

    def missing_download(self, index: int) -> NotDownloadedError | None:
        """Return the address of a record's picture, if it is one that was not fetched yet."""
        try:
            self._rows().row(index)
        except NotDownloadedError as error:
            return error
        except BadRecordError:
            pass
        return None

    def raw_records(self, shard: DataShard) -> Iterator[RawRecord | BadRecord]:
        """Yield the records of a shard before decoding, or what is wrong with them.

        Raises:
            InputError: a file cannot be read any more.
        """
        if shard.url is not None:
            yield from self.stream.records(shard.url)
        else:
            for index in range(shard.start, shard.stop):
                yield self.raw(index)

    def try_to_prepare(self, record: RawRecord | BadRecord) -> CaptionedImage | BadRecord:
        """Decode the picture of a record, or return what is wrong with it."""
        if isinstance(record, BadRecord):
            return record
        try:
            return self.prepare(record)
        except BadRecordError as error:
            return error.record

    def _rows(self) -> RowSource:
        if self._numbered is not None:
            return self._numbered
        raise InputTypeError(
            f"{self.name} is a stream: its records have no numbers and are counted by reading. "
            "Use Batches, or read() with its shards()."
        )
