"""Encoded pictures: captions with their image tokens, read back from the shards of `encode_images`.

Knows positions and arrays, not models, pixels or files. A set is kept as a few flat arrays, so that
15 million pairs are a handful of objects: in memory while small, and mapped from one copy on disk,
which all processes of a machine share, from `LARGE` bytes up.

Shapes: N pairs, B pairs of a batch, L image tokens.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoints.cache import convert_once
from ..errors import InputError
from .captions import choose_caption
from .order import batch_positions, check_split, make_order, random_at
from .sources import split_weights
from .token_shards import TokenShard, find_shards, read_arrays, token_dtype

PathName = str | os.PathLike[str]
Arrays = Mapping[str, NDArray[Any]]
_T = TypeVar("_T")

LARGE = 2**30  # bytes of tokens from which they are mapped instead of loaded
_LAYOUT = "layout.json"
_SAME = ("codebook_size", "image_length", "vqgan")
_TYPES = {"key_bytes": "u1", "key_ends": "i8", "text_bytes": "u1", "text_ends": "i8"}
_TYPES["caption_ends"] = "i8"


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImage:
    """One picture as codes.

    Attributes:
        key: name of the record that it was.
        captions: all that it has.
        image_tokens: i64[L].
    """

    key: str
    captions: tuple[str, ...]
    image_tokens: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenBatch:
    """B pictures as codes, each with one caption.

    Attributes:
        captions: B captions; "" where it was dropped.
        image_tokens: i64[B,L].
        keys: names of the records.
    """

    captions: tuple[str, ...]
    image_tokens: Tensor
    keys: tuple[str, ...]


class EncodedImages:
    """Captions and image tokens of N pictures, by number.

    Attributes:
        codebook_size: number of codes that there can be.
        grid: rows and columns of tokens; None where older shards do not say it.
        fingerprint: of the image tokenizer whose codes they are; None likewise.

    Example:
        >>> from dallemini.data.tokens import EncodedImages
        >>> EncodedImages.open("no-such-folder")
        Traceback (most recent call last):
        ...
        dallemini.errors.MissingFileError: There is no file or folder no-such-folder.
    """

    def __init__(
        self,
        arrays: Arrays,
        *,
        codebook_size: int,
        grid: tuple[int, int] | None = None,
        fingerprint: str | None = None,
        folder: Path | None = None,
        lengths: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._arrays, self._folder = arrays, folder
        self.codebook_size, self.grid, self.fingerprint = codebook_size, grid, fingerprint
        self.lengths = [len(self)] if lengths is None else list(lengths)  # of each set
        self.weights = weights  # how often pictures of each set come; all alike when None

    @classmethod
    def open(
        cls, source: PathName | Sequence[PathName], *, cache_dir: PathName | None = None
    ) -> EncodedImages:
        """Open what `encode_images` wrote.

        A folder must be complete; shards that are named one by one, or by a pattern, need not be.

        Args:
            source: the folder, or files, or several of either; with weights as in
                ["a:0.7", "b:0.3"], or each picture as often as every other one.
            cache_dir: where a set of `LARGE` bytes or more is copied to for mapping, once; beside
                its first shard when None.

        Raises:
            MissingFileError: there is nothing of that name.
            InputError: a folder is not complete, holds no picture, or a file is no shard or does
                not belong to the others.
            StorageError: the copy for mapping does not fit on the disk.
            MissingDependencyError: pyarrow is not installed.
        """
        given = [source] if isinstance(source, str | os.PathLike) else list(source)
        names, weights = split_weights([os.fspath(name) for name in given])
        sets = [find_shards(Path(name)) for name in names]
        lengths = [sum(shard.rows for shard in shards) for shards in sets]
        shards = [shard for several in sets for shard in several]
        _check_same(shards)
        if not sum(shard.rows for shard in shards):
            raise InputError(
                f"There is no picture in {_listed(names)}: all records were bad or left out."
            )
        metadata = shards[0].metadata
        codebook_size, length = metadata["codebook_size"], metadata["image_length"]
        about: dict[str, Any] = {
            "codebook_size": codebook_size,
            "grid": _first(shard.grid for shard in shards),
            "fingerprint": _first(shard.fingerprint for shard in shards),
            "lengths": lengths,
            "weights": weights,
        }
        dtype = token_dtype(codebook_size)
        if sum(shard.rows for shard in shards) * length * dtype.itemsize < LARGE:
            return cls(_load(shards), **about)
        folder = _mapped_folder(shards, cache_dir)
        return cls(_map(folder), **about, folder=folder)

    def __len__(self) -> int:
        """Return the number of pictures N."""
        return len(self._arrays["tokens"])

    @property
    def image_length(self) -> int:
        """Tokens of a picture, L."""
        return int(self._arrays["tokens"].shape[1])

    @property
    def is_mapped(self) -> bool:
        """Whether the arrays lie on disk, not in memory."""
        return self._folder is not None

    def __getitem__(self, index: int) -> EncodedImage:
        """Return a picture.

        Raises:
            IndexError: there is none of this number.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no picture {index} among these {len(self)}.")
        row = index % len(self)
        return EncodedImage(
            key=self.key(row),
            captions=self.captions(row),
            image_tokens=self.image_tokens([row])[0],
        )

    def __iter__(self) -> Iterator[EncodedImage]:
        """Yield every picture, in order."""
        return (self[index] for index in range(len(self)))

    def key(self, row: int) -> str:
        """Return the name of the record in a row."""
        return self._string("key", row)

    def captions(self, row: int) -> tuple[str, ...]:
        """Return all captions of a row."""
        first, end = _span(self._arrays["caption_ends"], row)
        return tuple(self._string("text", index) for index in range(first, end))

    def image_tokens(self, rows: Sequence[int]) -> Tensor:
        """Return the codes of some rows, i64[B,L]."""
        chosen = self._arrays["tokens"][np.asarray(rows, dtype=np.int64)]
        return torch.from_numpy(chosen.astype(np.int64))

    def _string(self, column: str, index: int) -> str:
        first, end = _span(self._arrays[f"{column}_ends"], index)
        return self._arrays[f"{column}_bytes"][first:end].tobytes().decode("utf-8")

    def __getstate__(self) -> dict[str, Any]:
        """Leave mapped arrays out: another process maps them again."""
        state = self.__dict__.copy()
        if self._folder is not None:
            state["_arrays"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            self._arrays = _map(self._folder)


class TokenBatches:
    """Batches of encoded pictures by number, as trainers ask for them.

    A batch is fixed by its number and the seed, and together the processes take what one alone
    would: the same positions as `Batches` of pictures.

    Args:
        dataset: the pictures.
        batch_size: pictures of this process, B.
        seed: of the order, the captions and which of them are dropped.
        rank: number of this process.
        world_size: number of processes.
        caption_dropout: share of captions replaced by the empty one, from 0 to 1.
        caption_choice: "random" draws one of several captions each time, "first" takes the first.

    Raises:
        InputError: a size, the rank or the share is out of range.
    """

    def __init__(
        self,
        dataset: EncodedImages,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        caption_dropout: float = 0.0,
        caption_choice: Literal["first", "random"] = "random",
    ) -> None:
        check_split(batch_size=batch_size, rank=rank, world_size=world_size)
        if not 0 <= caption_dropout <= 1:
            raise InputError(f"caption_dropout is a share from 0 to 1, not {caption_dropout}.")
        if caption_choice not in ("first", "random"):
            raise InputError(f"caption_choice must be 'first' or 'random', not {caption_choice!r}.")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.caption_dropout, self.caption_choice = caption_dropout, caption_choice
        self._order = make_order(dataset.lengths, dataset.weights, seed=seed)

    def __call__(self, index: int) -> TokenBatch:
        """Return this process's part of global batch `index`, counted from 0.

        Raises:
            InputError: `index` is negative.
            InputTypeError: `index` is not a whole number.
        """
        positions = batch_positions(
            index, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size
        )
        rows = [self._order[position] for position in positions]
        return TokenBatch(
            captions=tuple(map(self._caption, rows, positions)),
            image_tokens=self.dataset.image_tokens(rows),
            keys=tuple(self.dataset.key(row) for row in rows),
        )

    def _caption(self, row: int, position: int) -> str:
        return choose_caption(
            self.dataset.captions(row),
            random_at(self.seed, position),
            choice=self.caption_choice,
            dropout=self.caption_dropout,
        )


def _span(ends: NDArray[Any], index: int) -> tuple[int, int]:
    return (int(ends[index - 1]) if index else 0), int(ends[index])


def _listed(names: Sequence[PathName]) -> str:
    shown = ", ".join(str(name) for name in names[:3])
    return shown + (", ..." if len(names) > 3 else "") if names else "an empty list of files"


def _check_same(shards: Sequence[TokenShard]) -> None:
    """Refuse shards whose codes mean different things.

    Raises:
        InputError: another VQGAN or another picture size made one of them.
    """
    for shard in shards:
        first = shards[0]
        different = [n for n in _SAME if shard.metadata[n] != first.metadata[n]]
        if None not in (shard.grid, first.grid) and shard.grid != first.grid:
            different.append("grid")
        if different:
            what = "VQGAN" if different[0] == "vqgan" else different[0]
            raise InputError(
                f"{shard.path} was encoded with another {what} than {first.path}; open each "
                "set alone, or encode one of them again."
            )


def _first(values: Iterable[_T | None]) -> _T | None:
    return next((value for value in values if value is not None), None)


def _load(shards: Sequence[TokenShard]) -> Arrays:
    chunks: dict[str, list[NDArray[Any]]] = collections.defaultdict(list)
    _collect(shards, lambda name, values: chunks[name].append(values))
    return {name: np.concatenate(chunks.pop(name)) for name in list(chunks)}


def _mapped_folder(shards: Sequence[TokenShard], cache_dir: PathName | None) -> Path:
    """Return the folder with the arrays of these shards as plain files, made where missing."""
    names = [(str(shard.path.resolve()), os.stat(shard.path)) for shard in shards]
    about = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in names]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    parent = shards[0].path.parent if cache_dir is None else Path(cache_dir)
    return convert_once(
        parent / f"mapped-{digest}",
        _is_whole,
        lambda folder: _copy(shards, folder),
        name=f"The set of {len(shards)} shards beside {shards[0].path}",
    )


def _copy(shards: Sequence[TokenShard], folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / name).open("wb")) for name in ("tokens", *_TYPES)
        }
        _collect(shards, lambda name, values: files[name].write(values.tobytes()))
    metadata = shards[0].metadata
    layout = {
        "dtype": token_dtype(metadata["codebook_size"]).str,
        "image_length": metadata["image_length"],
        "sizes": {name: (folder / name).stat().st_size for name in files},
    }
    (folder / _LAYOUT).write_text(json.dumps(layout), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _LAYOUT).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _map(folder: Path) -> Arrays:
    layout = json.loads((folder / _LAYOUT).read_text(encoding="utf-8"))
    types = {"tokens": layout["dtype"], **_TYPES}
    arrays = {
        # an empty file cannot be mapped
        name: np.memmap(folder / name, dtype=dtype, mode="r")
        if layout["sizes"][name]
        else np.empty(0, dtype)
        for name, dtype in types.items()
    }
    arrays["tokens"] = arrays["tokens"].reshape(-1, layout["image_length"])
    return arrays


def _collect(shards: Sequence[TokenShard], add: Callable[[str, NDArray[Any]], Any]) -> None:
    """Give the rows of every shard to `add`, array by array, some thousand at a time."""
    ends: dict[str, int] = collections.defaultdict(int)
    for shard in shards:
        for arrays in read_arrays(shard):
            for name, values in arrays.items():
                if name.endswith("_ends") and len(values):
                    values = values + ends[name]
                    ends[name] = int(values[-1])
                add(name, np.ascontiguousarray(values))
