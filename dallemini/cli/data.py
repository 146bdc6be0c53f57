"""`dallemini data`: what a run would see of pictures with captions, before it costs hours."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ..data.config import DataConfig
from ..files import as_path, replacing
from ..hub.source import BUNDLED_MODEL
from .encode import Settings
from .options import OptionalInt, OptionalPath, Where
from .words import UsageError

if TYPE_CHECKING:
    from ..data.dataset import CaptionedImages
    from ..data.report import DataReport
    from ..text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Data:
    """Tell what a run would see: counts, sizes, what is bad or double, captions, a sheet.

    Attributes:
        source: folders, tables, tar shards, hf://owner/name; with weights as a:0.7 b:0.3.
        filters: such as "width >= 256" or "lang == en"; a record passes all of them or is left out;
            may be repeated.
        settings: of the data.
        sheet: PNG file for some of the pictures with their captions.
        limit: records to look at, from the beginning; all when not given.
        download: first fetch the pictures of a table of addresses, beside it. What is there already
            is not fetched again.
        model: whose tokenizer counts the tokens of captions.
        progress: whether to show bars.
        json: print one line of JSON.
        where: of the model.
    """

    source: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE")]
    filters: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="where")] = ()
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    sheet: OptionalPath = None
    limit: OptionalInt = None
    download: bool = False
    model: str = BUNDLED_MODEL
    progress: bool = True
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Print a line for each thing.

        Raises:
            DalleMiniError: there is nothing to read, or the sheet cannot be written.
        """
        if not self.source:
            raise UsageError("There is nothing to look at; try: dallemini data pictures.")
        from ..data.dataset import CaptionedImages  # here, because torch takes seconds
        from ..data.report import look_at

        settings: dict[str, Any] = dict(self.settings)
        config = DataConfig(where=self.filters, **settings)
        with _told_below():
            dataset = CaptionedImages.open(self.source, config=config)
            if self.download:
                self._download(dataset)
            report = look_at(dataset, limit=self.limit, progress=self.progress)
        self._tell(report)
        if self.sheet is not None:
            with replacing(as_path(self.sheet)) as file:
                report.sheet().save(file, format="PNG")
            if not self.json:
                print(f"  {'sheet':<9} {self.sheet}")

    def _tell(self, report: DataReport) -> None:
        tokenizer = self._tokenizer()
        count_tokens, most = None, 0
        if tokenizer is not None:
            count_tokens, most = (
                lambda text: len(tokenizer.tokenize(text)) + 2,
                tokenizer.max_length,
            )
        if self.json:
            long = count_tokens and report.too_long(count_tokens, most)
            print(dumps({"source": self.source, **report.to_dict(), "too_long_captions": long}))
            return
        print(", ".join(self.source))
        for name, text in report.lines(count_tokens, most):
            print(f"  {name:<9} {text}")

    def _download(self, dataset: CaptionedImages) -> None:
        from ..data.download import download_images

        done = download_images(dataset, progress=self.progress)
        failed = "; ".join(f"{count} {reason}" for reason, count in done.failed.items())
        print(
            f"{done.images} pictures fetched, {done.there} were there"
            + (f"; failed: {failed}" if failed else ""),
            file=sys.stderr if self.json else sys.stdout,
        )

    def _tokenizer(self) -> Tokenizer | None:
        from ..pipeline.parts import Parts
        from ..text.tokenizer import Tokenizer

        place = Parts(self.where.open(self.model)).all().get("tokenizer")
        return None if place is None else Tokenizer.from_pretrained(place)


@contextlib.contextmanager
def _told_below() -> Iterator[None]:
    """Keep bad records out of the program's log: they are in what is printed."""
    logger = logging.getLogger("dallemini.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
