"""What a run would see of a data set: how many pictures of what sizes, what is bad, what is double.

Every picture is decoded once, as a run decodes it.
"""

from __future__ import annotations

import collections
import hashlib
import io
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from tqdm import tqdm

from ..images import tensor_to_images
from ..sheets import make_grid
from .dataset import CaptionedImages
from .records import BadRecord, CaptionedImage, RawRecord

if TYPE_CHECKING:
    from PIL.Image import Image

_NAMED = 3  # of each kind of trouble
_SHOWN, _COLUMNS = 48, 8  # pictures on the sheet


@dataclass
class DataReport:
    """What was found.

    Attributes:
        records: those that were looked at, the bad ones included.
        bad: reason to the keys of records that cannot be used.
        sizes: width and height of each usable picture, as its file has them.
        doubles: the keys of pictures that are the same to a run, for each that comes more than
            once.
        captions: all of them.
        shown: some of the pictures f32[3,S,S], from all over the set, each with a caption.
    """

    records: int = 0
    bad: dict[str, list[str]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    doubles: list[list[str]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    shown: list[tuple[Tensor, str]] = field(default_factory=list)

    def sheet(self) -> Image:
        """Return a sheet of some pictures with their captions.

        Raises:
            InputError: there is no picture.
        """
        pictures = [tensor_to_images(image[None])[0] for image, _ in self.shown]
        captions = {place: caption for place, (_, caption) in enumerate(self.shown)}
        return make_grid(pictures, columns=_COLUMNS, captions=captions)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the keys of what is bad or double, as plain JSON values."""
        sizes = collections.Counter(self.sizes)
        return {
            "records": self.records,
            "usable": len(self.sizes),
            "bad": self.bad,
            "sizes": {f"{w}x{h}": count for (w, h), count in sizes.most_common()},
            "doubles": self.doubles,
            "captions": len(self.captions),
            "different_captions": len(set(self.captions)),
        }

    def too_long(self, count_tokens: Callable[[str], int], most: int) -> int:
        """Return how many captions have more tokens than a model reads."""
        return sum(count_tokens(caption) > most for caption in self.captions)

    def lines(self, count_tokens: Callable[[str], int] | None, most: int) -> list[tuple[str, str]]:
        """Return what to print: a name and a text each.

        Args:
            count_tokens: how many tokens a caption has, if a model is to read it.
            most: tokens that the model reads.
        """
        bad = [f"{len(keys)} {reason} ({_some(keys)})" for reason, keys in self.bad.items()]
        lines = [("records", f"{self.records:,}, of which {len(self.sizes):,} can be used")]
        lines += [("left out", "; ".join(bad) or "none")]
        if self.sizes:
            widths, heights = zip(*self.sizes, strict=True)
            pixels = sorted(self.sizes, key=lambda size: size[0] * size[1])
            small, middle, large = (f"{w}x{h}" for w, h in _three(pixels))
            others = sum(w != h for w, h in zip(widths, heights, strict=True))
            lines += [("sizes", f"{small} to {large}, median {middle}; {others:,} are not square")]
        doubles = "; ".join(" = ".join(keys[:_NAMED]) for keys in self.doubles[:_NAMED])
        lines += [("doubles", f"{len(self.doubles):,}{f' ({doubles})' if doubles else ''}")]
        if self.captions:
            words = [len(caption.split()) for caption in self.captions]
            told = f"{len(words):,}, of {min(words)} to {max(words)} words, median "
            told += f"{statistics.median(words):g}; {len(set(self.captions)):,} different"
            if count_tokens is not None:
                long = self.too_long(count_tokens, most)
                told += f"; {long:,} longer than the {most} tokens that the model reads"
            lines += [("captions", told)]
        return lines


def look_at(dataset: CaptionedImages, *, limit: int | None = None, progress: bool) -> DataReport:
    """Read a data set once, as a run would.

    Args:
        dataset: any.
        limit: records to look at, from the beginning; all when None.
        progress: whether to show a bar.
    """
    report, chance = DataReport(), random.Random(0)
    pixels: dict[bytes, list[str]] = collections.defaultdict(list)
    for skipped in dataset.skipped:
        report.bad.setdefault(skipped.reason, []).append(skipped.key)
    report.records = len(dataset.skipped)
    records = (record for shard in dataset.shards() for record in dataset.raw_records(shard))
    total = None if dataset.is_stream else len(dataset)
    shown: list[tuple[int, CaptionedImage]] = []
    for number, record in enumerate(
        tqdm(records, "read", total, unit=" records", disable=None if progress else True)
    ):
        if number == limit:
            break
        report.records += 1
        outcome = dataset.try_to_prepare(record)
        if isinstance(outcome, BadRecord):
            report.bad.setdefault(outcome.reason, []).append(outcome.key)
            continue
        assert isinstance(record, RawRecord)
        report.sizes.append(_size(record.image))
        report.captions += outcome.captions
        pixels[hashlib.blake2b(outcome.image.numpy().tobytes()).digest()].append(outcome.key)
        _sample(shown, (number, outcome), chance, len(report.sizes))
    report.doubles = [keys for keys in pixels.values() if len(keys) > 1]
    report.shown = [
        (image.image, image.captions[0] if image.captions else image.key)
        for _, image in sorted(shown, key=lambda pair: pair[0])
    ]
    return report


def _sample(
    kept: list[tuple[int, CaptionedImage]],
    new: tuple[int, CaptionedImage],
    chance: random.Random,
    seen: int,
) -> None:
    """Keep each picture seen so far with the same chance."""
    if len(kept) < _SHOWN:
        kept.append(new)
    elif (place := int(chance.random() * seen)) < _SHOWN:
        kept[place] = new


def _size(image: bytes | Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
        return opened.size


def _three(ordered: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
