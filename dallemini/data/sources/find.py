"""From what a user names to the source that reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError, InputTypeError, MissingFileError
from ...foreign import show
from ..config import DataConfig
from .base import RowSource, StreamSource
from .datasets import HubDataset, is_saved_dataset
from .files import check_regular, expand_pattern, walk
from .joined import Joined, split_weights
from .jsonl import open_json
from .pictures import PictureFolder, find_pictures
from .table import Table
from .tars import TarShards, import_webdataset

_LISTS: tuple[str, ...] = ("metadata.jsonl", "captions.jsonl", "metadata.csv", "metadata.parquet")
_LISTS += ("metadata.json", "captions.json")
_TAR = re.compile(r"\.(tar|tgz|tar\.gz|tar\.bz2|tar\.xz|tar\.zst)(\?.*)?$", re.IGNORECASE)
_TABLE = re.compile(r"\.(parquet|pq|csv|tsv)$", re.IGNORECASE)
_LINES = re.compile(r"\.(jsonl|ndjson|json)$", re.IGNORECASE)
_ADDRESS = re.compile(r"^(pipe:|[a-z0-9]+://)", re.IGNORECASE)
_STREAM = re.compile(f"{_ADDRESS.pattern}|{_TAR.pattern}", re.IGNORECASE)
_NO_TAR = re.compile(
    r"[a-z0-9]+://[^?]*(/|\.(parquet|pq|csv|tsv|jsonl?|ndjson|txt|arrow|zip|rar|7z|png|jpe?g|webp"
    r"|gif))(\?.*)?",
    re.IGNORECASE,
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-]+$")
_SPLIT = re.compile(r"(train|validation|valid|val|dev|test)(?=[-_.]|$)", re.IGNORECASE)


def open_sources(
    source: str | Path | Sequence[str | Path], config: DataConfig
) -> tuple[RowSource | StreamSource, tuple[float, ...] | None]:
    """Open folders, tables or tar shards.

    Returns:
        The source, and how often records of each of several come, where names have weights.

    Raises:
        MissingFileError: a file does not exist, or a pattern fits none.
        InputError: the sources are of no kind, cannot be read, or mix tar shards with others.
        InputTypeError: something else than a name or a list of names came.
        MissingDependencyError: the package that reads this kind is not installed.
    """
    given = [source] if isinstance(source, str | Path) else source
    if not isinstance(given, Sequence) or not all(isinstance(name, str | Path) for name in given):
        raise InputTypeError(f"Data are named by a path, or a list of paths, not {source!r}.")
    entries, weights = split_weights([str(entry) for entry in given])
    groups = [_expand(entry) for entry in entries]
    if not groups:
        raise InputError("Data were asked for with an empty list; name a folder or files.")
    names = [name for group in groups for name in group]
    if weights is None or len(groups) == 1:
        return _open(names, config), None
    return _join([_open(group, config) for group in groups], entries), weights


def _open(names: Sequence[str], config: DataConfig) -> RowSource | StreamSource:
    """Open what is of one kind together, and everything else one by one."""
    is_on_hub = [name.lower().startswith("hf://") for name in names]
    if is_on_hub == [True]:
        return HubDataset(names[0], config)
    if len(names) == 1 and Path(names[0]).is_dir():
        return _open_folder(Path(names[0]), config)
    _check_each(names)
    if len(names) == 1 or (
        not any(is_on_hub) and any(_are_all(kind, names) for kind in (_STREAM, _TABLE))
    ):
        return _open_files(names, config)
    return _join([_open([name], config) for name in names], names)


def _are_all(kind: re.Pattern[str], names: Sequence[str]) -> bool:
    return all(kind.search(name) for name in names)


def _join(sources: Sequence[RowSource | StreamSource], names: Sequence[str]) -> RowSource:
    rows = [source for source in sources if not isinstance(source, StreamSource)]
    if len(rows) < len(sources):
        raise InputError(
            f"{', '.join(names[:3])}: tar shards and addresses are read on their own, without "
            "weights; encode each by `dallemini encode`, and mix the tokens."
        )
    return Joined(rows, names)


def _open_files(names: Sequence[str], config: DataConfig) -> RowSource | StreamSource:
    if _are_all(_STREAM, names):
        if other := [name for name in names if _NO_TAR.fullmatch(name)]:
            raise InputError(
                f"{show(other[0], most=200)[1:-1]} is no tar shard, and other data are not read "
                "from their address: download it, and name the file or its folder."
            )
        return TarShards(tuple(names), config)
    if _are_all(_TABLE, names):
        return Table([Path(name) for name in names], config)
    if _LINES.search(names[0]):
        return open_json(Path(names[0]), config)
    raise InputError(
        f"{names[0]} is none of the data that are read: folders, .jsonl, .json, .parquet and .csv "
        "files, .tar files and addresses of them."
    )


def _open_folder(folder: Path, config: DataConfig) -> RowSource | StreamSource:
    """Open a folder by what lies in it, the most telling kind first."""
    if is_saved_dataset(folder):
        return HubDataset(str(folder), config)
    for name in _LISTS:
        if (folder / name).is_file():
            return _open_files([str(folder / name)], config)
    if tars := sorted(path for path in folder.iterdir() if _TAR.search(path.name)):
        return _open_files([str(path) for path in tars], config)
    _check_no_list_below(folder)
    if any(picture.is_read for picture in find_pictures(folder)):
        return PictureFolder(folder, config)
    below = [parent / name for parent, names in walk(folder) for name in names]
    for ending in (_TAR, _TABLE):
        if files := sorted(path for path in below if ending.search(path.name)):
            _check_one_split(folder, files)
            return _open_files([str(path) for path in files], config)
    if next(find_pictures(folder), None) is not None:
        return PictureFolder(folder, config)  # which says of what kinds they are
    raise InputError(
        f"{folder} holds no data: neither {', '.join(_LISTS)}, nor .tar files, pictures with .txt "
        "files, .parquet or .csv files."
    )


def _check_no_list_below(folder: Path) -> None:
    """Refuse to overlook the captions of a folder that is divided into splits."""
    below = sorted(path for name in _LISTS for path in folder.glob(f"*/{name}"))
    if below:
        raise InputError(
            f"{folder} itself has no list of pictures, but {below[0]} is one; open that folder."
        )


def _check_one_split(folder: Path, files: Sequence[Path]) -> None:
    """Refuse to mix what is held out into what is trained on."""
    splits: dict[str, Path] = {}
    for path in files:
        for part in path.relative_to(folder).parts:
            if found := _SPLIT.match(part):
                splits.setdefault(found[1].lower(), path)
    if len(splits) > 1:
        raise InputError(
            f"{folder} holds several splits ({', '.join(sorted(splits))}); name the files of one, "
            f"such as {str(next(iter(splits.values())))!r}, by a pattern."
        )


def _check_each(names: Sequence[str]) -> None:
    """Refuse what would never end to be read."""
    for name in names:
        if not _ADDRESS.match(name) and not Path(name).is_dir():
            check_regular(Path(name))


def _expand(name: str) -> list[str]:
    """Return the files and addresses that a name stands for: itself, {000..123}, or a pattern."""
    if not name:
        raise InputError("Data were asked for with an empty name; name a folder or files.")
    if Path(name).exists():
        return [name]
    expanded = []
    for entry in _expand_braces(name):
        if _ADDRESS.match(entry) or Path(entry).exists():
            expanded.append(entry)
        elif found := expand_pattern(entry):
            expanded += found
        else:
            hint = f" A data set on the Hub is named hf://{entry}." if _HUB_ID.match(entry) else ""
            raise MissingFileError(f"There is no file or folder {entry!r}.{hint}")
    return expanded


def _expand_braces(name: str) -> list[str]:
    if "{" not in name and "::" not in name:
        return [name]
    import_webdataset()
    from webdataset.shardlists import expand_urls

    try:
        return [str(entry) for entry in expand_urls(name)]
    except (ValueError, AssertionError) as error:  # an unset variable is an AssertionError there
        raise InputError(f"{name!r} cannot be expanded: {error}.") from error
