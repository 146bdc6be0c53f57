"""The files of encoded pictures: Parquet shards whose footers say what their codes mean.

Knows rows and files, not models. A shard is written beside its place and renamed, so that a file
with its name is whole; the footer holds, as JSON under `METADATA_KEY`, what `encode_images` notes.

Columns: `key` string, `captions` list<string>, `image_tokens` list<uint16 or int32>, then the
columns of the source that hold a number, a truth value or a text.

Shapes: N pictures, L image tokens.
"""

from __future__ import annotations

import glob
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DalleMiniError, InputError, MissingDependencyError, MissingFileError
from ..files import replacing
from ..foreign import show
from .sources.arrow import UNREADABLE, check_footer, open_parquet, repeated_texts, short
from .sources.files import check_content, check_regular

METADATA_KEY = b"dallemini"
_COLUMNS = ("key", "captions", "image_tokens")
_PATTERN = "tokens-*.parquet"
_LARGEST_TEXTS = 2**28  # bytes of the texts of a group of rows
_LARGEST = 2**1000  # of whole numbers that are stored as floats
_MOST = 2**31  # codes of a codebook, or tokens of a picture


def _is_count(first: int, end: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and first <= value < end


_NEEDED: Mapping[str, Callable[[object], bool]] = {  # names in a footer, and what they can be
    "codebook_size": _is_count(1, _MOST),
    "image_length": _is_count(1, _MOST),
    "shard": _is_count(0, 2**63),
    "shards": _is_count(1, 2**63),
    "vqgan": lambda value: isinstance(value, str),
}
_ROWS_OF_A_GROUP = 10_000


@dataclass(frozen=True, kw_only=True)
class TokenShard:
    """What the footer of a shard says.

    Attributes:
        path: the file.
        rows: pictures in it.
        metadata: the VQGAN, the data, and the shard's place among the others.
    """

    path: Path
    rows: int
    metadata: Mapping[str, Any]

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of a picture's tokens; None where an older shard does not say it."""
        match self.metadata.get("grid"):
            case [int(rows), int(columns)] if rows * columns == self.metadata["image_length"]:
                return rows, columns
        return None

    @property
    def fingerprint(self) -> str | None:
        """That of the image tokenizer whose codes they are; None likewise."""
        found = self.metadata.get("codes")
        return found if isinstance(found, str) else None

    @classmethod
    def read(cls, path: Path) -> TokenShard:
        """Read the footer of a file.

        Raises:
            InputError: it is not a whole Parquet file, or not one of `encode_images`.
            MissingDependencyError: pyarrow is not installed.
        """
        import_parquet()
        try:
            check_regular(path)
            check_content(path)
            with open_parquet(path) as file:
                footer, columns = file.metadata, file.schema_arrow.names
            check_footer(path, footer, columns)
            metadata = json.loads((footer.metadata or {}).get(METADATA_KEY, b"null"))
        except (*UNREADABLE, RecursionError) as error:
            if isinstance(error, DalleMiniError):
                raise
            raise InputError(
                f"{path} cannot be read as Parquet ({short(error)}); delete it and encode again."
            ) from error
        if not isinstance(metadata, dict) or not set(_NEEDED) <= metadata.keys():
            raise InputError(
                f"{path} was not written by `dallemini encode`; name the folder that it wrote."
            )
        for name, is_right in _NEEDED.items():
            if not is_right(metadata[name]):
                raise InputError(
                    f"{path} says that its {name} is {show(metadata[name])}, which cannot "
                    "be; delete it and encode again."
                )
        if metadata["shard"] >= metadata["shards"]:
            raise InputError(
                f"{path} says that it is shard {metadata['shard']} of {metadata['shards']}, which "
                "cannot be; delete it and encode again."
            )
        return cls(path=path, rows=footer.num_rows, metadata=metadata)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows:
    """N rows to write.

    Attributes:
        keys: N names.
        captions: N times any number of captions.
        image_tokens: integers[N,L].
        columns: N times the other columns; a column may be missing in some rows.
    """

    keys: Sequence[str]
    captions: Sequence[Sequence[str]]
    image_tokens: NDArray[Any]
    columns: Sequence[Mapping[str, object]]


def import_parquet() -> Any:
    """Return `pyarrow.parquet`.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            'Encoded pictures are Parquet files, which need pyarrow; run: pip install ".[train]"'
        ) from error
    return pyarrow.parquet


def shard_name(index: int) -> str:
    """Return the file name of a shard.

    Example:
        >>> from dallemini.data.token_shards import shard_name
        >>> shard_name(7)
        'tokens-00007.parquet'
    """
    return f"tokens-{index:05}.parquet"


def token_dtype(codebook_size: int) -> np.dtype[Any]:
    """Return the small type that codes of a codebook are stored in.

    Example:
        >>> from dallemini.data.token_shards import token_dtype
        >>> token_dtype(16_384)
        dtype('uint16')
    """
    return np.dtype(np.uint16 if codebook_size <= 2**16 else np.int32)


def is_encoded(path: Path) -> bool:
    """Tell whether a name stands for encoded pictures: a folder of shards, or shards by name."""
    if path.is_dir():
        return any(path.glob(_PATTERN))
    return path.match(_PATTERN) and (path.exists() or bool(glob.glob(str(path))))


def find_shards(path: Path) -> list[TokenShard]:
    """Return the shards that a name stands for, in order.

    Args:
        path: a folder, which must be complete, or a file, or a pattern of files.

    Raises:
        MissingFileError: there are none.
        InputError: a folder lacks some, or a file is no shard.
    """
    if path.is_dir():
        shards = [TokenShard.read(file) for file in path.glob(_PATTERN)]
        if not shards:
            raise MissingFileError(
                f"There are no encoded pictures ({shard_name(0)} ...) in {path}; "
                "write them with `dallemini encode`."
            )
        _check_complete(path, shards)
        return sorted(shards, key=lambda shard: int(shard.metadata["shard"]))
    files = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path)))]
    if not files:
        raise MissingFileError(f"There is no file or folder {path}.")
    return [TokenShard.read(file) for file in files]


def numbers_in(folder: Path) -> set[int]:
    """Return the numbers of the shards whose files lie in a folder."""
    stems = (path.stem.partition("-")[2] for path in folder.glob(_PATTERN))
    return {int(stem) for stem in stems if stem.isdecimal()}


def write_shard(path: Path, rows: TokenRows, metadata: Mapping[str, Any]) -> None:
    """Write a shard so that it is whole or not there, whenever this process is killed.

    Args:
        path: its place.
        rows: what to write.
        metadata: JSON values for the footer.

    Raises:
        StorageError: it cannot be written.
    """
    parquet, table = import_parquet(), _table(rows, metadata)
    with replacing(path) as file:
        parquet.write_table(table, file, row_group_size=_ROWS_OF_A_GROUP, compression="zstd")


def rewrite_shard(
    shard: TokenShard,
    metadata: Mapping[str, Any],
    texts: Mapping[str, tuple[Sequence[str], Mapping[str, object]]] | None,
) -> bool:
    """Write a shard again with the codes that it has; tells whether that could be done.

    Args:
        shard: what there is.
        metadata: JSON values for the new footer.
        texts: key to the captions and other columns of a picture; None keeps those that there are.

    Raises:
        InputError: the file is damaged.
        StorageError: it cannot be written.
    """
    try:
        with _open(shard.path) as file:
            table = file.read(use_threads=False)
        keys = table.column("key").to_pylist()
        captions = table.column("captions").to_pylist()
        columns = table.drop_columns(list(_COLUMNS)).to_pylist()
        dtype = token_dtype(shard.metadata["codebook_size"])
        none = np.empty((0, shard.metadata["image_length"]), dtype)
        codes = np.concatenate([none, *(arrays["tokens"] for arrays in read_arrays(shard))])
        if texts is not None:
            if len(set(keys)) < len(keys) or not set(keys) <= texts.keys():
                return False
            captions, columns = [texts[key][0] for key in keys], [texts[key][1] for key in keys]
    except UNREADABLE as error:
        if isinstance(error, DalleMiniError):
            raise
        raise InputError(
            f"{shard.path} cannot be read ({short(error)}); delete it and encode again."
        ) from error
    rows = TokenRows(keys=keys, captions=captions, image_tokens=codes, columns=columns)
    write_shard(shard.path, rows, metadata)
    return True


def read_arrays(shard: TokenShard) -> Iterator[dict[str, NDArray[Any]]]:
    """Read a shard as flat arrays, some thousand rows at a time.

    Yields:
        tokens: uint16 or int32 [n,L].
        key_bytes, key_ends: UTF-8 u8[m], and where each of n keys ends in it, i64[n].
        text_bytes, text_ends: likewise for all captions of these rows.
        caption_ends: where the captions of each row end among them, i64[n].

    Raises:
        InputError: the file is damaged, or holds codes that its footer does not allow.
    """
    rows = 0
    try:
        with _open(shard.path) as file:
            _check_columns(file.schema_arrow, shard)
            for batch in file.iter_batches(
                batch_size=_ROWS_OF_A_GROUP, columns=list(_COLUMNS), use_threads=False
            ):
                rows += len(batch)
                yield _flat(batch, shard)
        if rows != shard.rows:
            raise ValueError(f"its footer says that it has {shard.rows} rows, but it has {rows}")
    except UNREADABLE as error:
        if isinstance(error, DalleMiniError):
            raise
        raise InputError(
            f"{shard.path} cannot be read ({short(error)}); delete it and encode again."
        ) from error


def _open(path: Path) -> Any:
    with open_parquet(path) as file:
        repeated = list(repeated_texts(file.metadata))
    return open_parquet(path, read_dictionary=repeated)


def _check_columns(schema: Any, shard: TokenShard) -> None:
    """Refuse columns of another kind than `write_shard` writes.

    Raises:
        InputError: one is, or is missing.
    """
    from pyarrow import types

    kinds: dict[str, tuple[str, Callable[[Any], bool]]] = {
        "key": ("texts", _is_text),
        "captions": ("lists of texts", lambda kind: _is_list(kind, _is_text)),
        "image_tokens": (
            "lists of whole numbers",
            lambda kind: _is_list(kind, types.is_integer),
        ),
    }
    for name, (what, is_right) in kinds.items():
        if schema.names.count(name) != 1 or not is_right(schema.field(name).type):
            raise InputError(
                f"{shard.path} cannot be read: it has no column {name!r} of {what}; delete it and "
                "encode again."
            )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind.value_type if types.is_dictionary(kind) else kind))


def _is_list(kind: Any, is_value: Callable[[Any], bool]) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) and is_value(kind.value_type))


def _check_complete(folder: Path, shards: Sequence[TokenShard]) -> None:
    wanted = max(shard.metadata["shards"] for shard in shards)
    found = {shard.metadata["shard"] for shard in shards}
    missing = (shard_name(index) for index in range(wanted) if index not in found)
    if shown := list(itertools.islice(missing, 4)):
        raise InputError(
            f"{folder} holds {len(found)} of {wanted} shards; missing: {', '.join(shown[:3])}"
            f"{', ...' if len(shown) > 3 else ''}. Run the same `dallemini encode` again to make "
            f"them, or name files to use these alone, such as {shards[0].path}."
        )


def _table(rows: TokenRows, metadata: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    codes = rows.image_tokens
    starts = pa.array(np.arange(len(codes) + 1, dtype=np.int32) * codes.shape[1])
    captions = [[_clean(caption) for caption in several] for several in rows.captions]
    columns = {
        "key": pa.array([_clean(key) for key in rows.keys], pa.string()),
        "captions": pa.array(captions, pa.list_(pa.string())),
        "image_tokens": pa.ListArray.from_arrays(starts, pa.array(codes.reshape(-1))),
    }
    names = dict.fromkeys(name for row in rows.columns for name in row)
    for name in names:
        values = [row.get(name) for row in rows.columns]
        if any(value is not None for value in values):
            columns.setdefault(_clean(name), _column(values))
    note = json.dumps(metadata, sort_keys=True).encode()
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: note})


def _column(values: Sequence[Any]) -> Any:
    """Return values of one kind as they are, numbers of two kinds as floats, others as text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(v is None or -(2**63) <= v < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and all(map(_is_float, values)):
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    texts = [None if value is None else _clean(str(value)) for value in values]
    return pa.array(texts, pa.string())


def _is_float(value: Any) -> bool:
    return not isinstance(value, int) or abs(value) < _LARGEST


def _clean(text: str) -> str:
    """Replace the halves of surrogate pairs that JSON lets through and UTF-8 does not."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _flat(batch: Any, shard: TokenShard) -> dict[str, NDArray[Any]]:
    key_bytes, key_ends = _strings(batch.column("key"))
    captions = batch.column("captions")
    text_bytes, text_ends = _strings(captions.flatten())
    return {
        "tokens": _codes(batch.column("image_tokens"), shard),
        "key_bytes": key_bytes,
        "key_ends": key_ends,
        "text_bytes": text_bytes,
        "text_ends": text_ends,
        "caption_ends": np.cumsum(_lengths(captions), dtype=np.int64),
    }


def _lengths(column: Any) -> NDArray[Any]:
    lengths: NDArray[Any] = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return lengths


def _codes(column: Any, shard: TokenShard) -> NDArray[Any]:
    length, codebook_size = shard.metadata["image_length"], shard.metadata["codebook_size"]
    if (_lengths(column) != length).any() or column.flatten().null_count:
        raise InputError(f"{shard.path} holds pictures of other than {length} tokens.")
    codes: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    if len(codes) and not 0 <= codes.min() <= codes.max() < codebook_size:
        raise InputError(f"{shard.path} holds codes outside 0 to {codebook_size - 1}.")
    return codes.astype(token_dtype(codebook_size), copy=False).reshape(-1, length)


def _strings(column: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the UTF-8 bytes of a column of strings, and where each ends in them."""
    if not len(column):
        return np.empty(0, np.uint8), np.empty(0, np.int64)
    if hasattr(column, "indices"):
        column = _repeat(column)
    column = column.cast("large_string")
    column.validate(full=True)  # or a text may be no UTF-8
    _, ends, data = column.buffers()
    offsets = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]]
    return text, offsets[1:] - offsets[0]


def _repeat(column: Any) -> Any:
    """Return the texts that a column of numbers stands for, unless they are gigabytes."""
    from pyarrow import compute

    lengths = compute.binary_length(column.dictionary).take(column.indices)
    if (compute.sum(lengths).as_py() or 0) > _LARGEST_TEXTS:
        raise ValueError(f"some rows of it have more than {_LARGEST_TEXTS} bytes of text")
    return column.dictionary_decode()
