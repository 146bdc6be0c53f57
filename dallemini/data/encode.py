"""Pictures to image tokens, shard by shard: the work that a transformer's training needs once.

Knows batches and codes; `plan` knows what is done already, `pieces` reads, `token_shards` writes.
Every batch carries its place in its shard, and the order in which batches arrive plays no part.

Shapes: N pictures, L image tokens, S pixels.
"""

from __future__ import annotations

import collections
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from .._version import __version__
from ..errors import InputError
from ..files import PathName, make_folder
from ..models.image_tokenizer import ImageTokenizer
from ..models.vqgan import VQGAN
from .dataset import CaptionedImages
from .marks import Mark, summarize
from .order import check_split
from .pieces import Pictures, Piece, PieceEnd, Pieces
from .plan import Plan
from .records import DataShard
from .token_shards import TokenRows, import_parquet, token_dtype, write_shard

_WRITTEN = {"caption_column": "caption", "image_column": "image"}  # what stood for the usual names
_OF_TRAINING = ("mirror", "caption_choice", "caption_dropout", "shuffle_buffer")


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """What one process did.

    Attributes:
        images: pictures encoded now.
        bad: records left out now, by reason.
        shards: files written now.
        skipped_shards: files that were there already.
        updated_shards: those of them that got other captions or columns, with the codes they had.
        seconds: the time it took.
    """

    images: int
    bad: Mapping[str, int]
    shards: int
    skipped_shards: int
    updated_shards: int = 0
    seconds: float


def encode_images(
    vqgan: ImageTokenizer,
    dataset: CaptionedImages,
    output: PathName,
    *,
    shard_size: int = 10_000,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    progress: bool = True,
    replace: bool = False,
) -> EncodeReport:
    """Encode every picture and write `output/tokens-00000.parquet` and so on.

    A shard is whole or not there, so that a run that was killed goes on where it was: the same call
    again skips what is written. Each process writes its own shards and none waits for another.

    A shard knows the pictures and texts that it was made from. Where pictures changed since, it is
    encoded again; where only texts did, it gets these and keeps its codes.

    The rows of a shard do not depend on `workers`, `rank` and `world_size`. Neither do they on
    `batch_size`, except where two codes are equally near to within the rounding of floats: a
    convolution may be summed in another order in a batch of another size, on another device or
    with another number of threads.

    Args:
        vqgan: encodes, where its weights are; any `ImageTokenizer`.
        dataset: pictures with captions. All captions are kept, nothing is mirrored, and what is
            cropped is cropped in the middle, whatever its settings draw at random in training.
        output: folder, made if missing.
        shard_size: records of a file; a stream has one file for each of its tars.
        batch_size: pictures that are encoded together.
        rank: number of this process; it makes shards `rank`, `rank + world_size` and so on.
        world_size: number of processes that share the work.
        workers: processes that decode pictures ahead; 0 decodes in this one.
        progress: whether the first process shows a bar with pictures per second.
        replace: whether files that were made by another VQGAN, with other settings or from other
            pictures are made again, and those too many removed, instead of refused: for a folder
            that nothing else is kept in.

    Returns:
        What this process did.

    Raises:
        InputError: a size or the rank is out of range; the VQGAN does not take pictures of this
            size; a file in `output` was made by another VQGAN, with other settings or from other
            data; or no record can be used, of which no file is left.
        InputTypeError: `output` is no path.
        UnsupportedOperationError: the VQGAN only decodes.
        StorageError: `output` cannot be written.
        MissingDependencyError: pyarrow is not installed.
        DalleMiniError: as reading `dataset` raises.
    """
    check_split(batch_size=batch_size, rank=rank, world_size=world_size, workers=workers)
    if shard_size < 1:
        raise InputError(f"shard_size must be at least 1, not {shard_size}.")
    import_parquet()
    folder = make_folder(output)
    shards = dataset.shards(shard_size)
    common = {**_describe(vqgan, dataset), "shard_size": shard_size}
    plan = Plan(folder, dataset, shards, common, replace=replace)
    work = _Work(vqgan, plan, batch_size=batch_size, is_first=rank == 0, progress=progress)
    return work.share(shards[rank::world_size], workers)


def _describe_nothing(bad: collections.Counter[str]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
    return (
        f"None of the records can be used ({counts or 'none passes the filters'}); the log of "
        "dallemini.data names bad ones. Mend them, or change the settings of the data."
    )


def _describe(vqgan: ImageTokenizer, dataset: CaptionedImages) -> dict[str, Any]:
    """Return what all shards of a set have in common, trying the VQGAN on a picture of its size."""
    height, width = dataset.config.size
    blank = torch.zeros(1, 3, height, width, dtype=torch.float32, device="cpu")
    length, factor = vqgan.encode(blank).shape[1], vqgan.downsample_factor
    data = dataset.config.to_dict()
    data["crop"] = "pad" if data["crop"] == "pad" else "center"  # `read` is never random
    return {
        "version": __version__,
        "vqgan": digest_encoder(vqgan),
        "vqgan_config": vqgan.config.to_dict(),
        "codebook_size": vqgan.codebook_size,
        "image_length": length,
        "grid": [height // factor, width // factor],
        "codes": vqgan.fingerprint,
        "data": {
            name: _WRITTEN.get(name) if value is None else value
            for name, value in data.items()
            if name not in _OF_TRAINING
        },
        "records": None if dataset.is_stream else len(dataset),
    }


def digest_encoder(vqgan: ImageTokenizer) -> str:
    """Return a digest of all that makes the codes: the decoder has no part in it.

    Unlike `fingerprint`, which tells what the codes mean, it tells who wrote them.
    """
    facts: list[object] = [type(vqgan).__name__]
    if isinstance(vqgan, VQGAN):
        facts = [vqgan.config.value_range, vqgan.config.pixel_shuffle]
        facts += [vqgan.config.quantizer] if vqgan.config.quantizer != "nearest" else []
    digest = hashlib.sha256()
    digest.update(json.dumps(facts).encode())
    for name, weight in sorted(vqgan.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.")):
            digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
            values = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(values.numpy())
    return digest.hexdigest()[:32]


class _Draft:
    """A shard whose pieces are still coming in, in any order."""

    def __init__(self, parts: int) -> None:
        self.left = parts
        self.bad: collections.Counter[str] = collections.Counter()
        self.batches: dict[tuple[int, int], TokenRows] = {}
        self.marks: dict[int, Sequence[Mark]] = {}

    def rows(self, length: int, dtype: np.dtype[Any]) -> TokenRows:
        """Return everything in the order of the source."""
        batches = [self.batches[place] for place in sorted(self.batches)]
        codes = [np.empty((0, length), dtype), *(batch.image_tokens for batch in batches)]
        return TokenRows(
            keys=[key for batch in batches for key in batch.keys],
            captions=[several for batch in batches for several in batch.captions],
            image_tokens=np.concatenate(codes),
            columns=[columns for batch in batches for columns in batch.columns],
        )


class _Work:
    """Encodes what is read and writes the shards that are full."""

    def __init__(
        self,
        vqgan: ImageTokenizer,
        plan: Plan,
        *,
        batch_size: int,
        is_first: bool,
        progress: bool,
    ) -> None:
        self.vqgan, self.plan, self.batch_size = vqgan, plan, batch_size
        self.is_first, self.progress = is_first, progress and is_first
        self.images = 0
        self.bad: collections.Counter[str] = collections.Counter()
        self._dtype = token_dtype(vqgan.codebook_size)
        self._drafts: dict[int, _Draft] = {}

    def share(self, mine: Sequence[DataShard], workers: int) -> EncodeReport:
        """Encode those of some shards that are not there.

        Raises:
            InputError: a file does not fit, or no record of all shards can be used.
            DalleMiniError: as reading, encoding and writing raise.
        """
        started = time.monotonic()
        missing, updated = self.plan.missing(mine)
        self.run(Pieces(self.plan.dataset, missing, self.batch_size), workers)
        if self.is_first:
            self.bad.update(record.reason for record in self.plan.dataset.skipped)
        if not self.images and self.plan.drop_if_empty():
            raise InputError(_describe_nothing(self.bad))
        return EncodeReport(
            images=self.images,
            bad=dict(self.bad),
            shards=len(missing),
            skipped_shards=len(mine) - len(missing),
            updated_shards=updated,
            seconds=time.monotonic() - started,
        )

    def run(self, pieces: Pieces, workers: int) -> None:
        """Encode all pieces.

        Raises:
            DalleMiniError: as reading, encoding and writing raise.
        """
        if not pieces.shards:
            return
        items: Iterable[Pictures | PieceEnd] = (
            DataLoader(pieces, batch_size=None, num_workers=workers) if workers else pieces
        )
        bar = tqdm(total=pieces.records, desc="encode", unit=" images", disable=not self.progress)
        with bar:
            for item in items:
                if isinstance(item, Pictures):
                    self._encode(item)
                    bar.update(len(item.keys))
                else:
                    self._end(item)
                    bar.update(sum(item.bad.values()))

    def _encode(self, pictures: Pictures) -> None:
        codes = self.vqgan.encode(pictures.images()).cpu().numpy().astype(self._dtype)
        batches = self._draft(pictures.piece).batches
        batches[pictures.piece.part, pictures.number] = TokenRows(
            keys=pictures.keys,
            captions=pictures.captions,
            image_tokens=codes,
            columns=pictures.columns,
        )
        self.images += len(codes)

    def _end(self, end: PieceEnd) -> None:
        if end.error is not None:
            raise end.error
        draft = self._draft(end.piece)
        draft.bad.update(end.bad)
        draft.marks[end.piece.part] = end.marks
        self.bad.update(end.bad)
        draft.left -= 1
        if not draft.left:
            self._write(end.piece.shard)

    def _draft(self, piece: Piece) -> _Draft:
        return self._drafts.setdefault(piece.shard.number, _Draft(piece.parts))

    def _write(self, shard: DataShard) -> None:
        draft = self._drafts.pop(shard.number)
        marks = summarize(mark for part in sorted(draft.marks) for mark in draft.marks[part])
        metadata = {**self.plan.metadata(shard), **marks, "bad": dict(draft.bad)}
        rows = draft.rows(metadata["image_length"], self._dtype)
        write_shard(self.plan.path(shard), rows, metadata)
