"""Where the files of a model lie: in this package, in a local folder, or on the Hugging Face Hub.

`open` finds them, once: the commit is asked for then, and whatever is taken from the `Source` later
is of that commit. `Source.inside` is a folder of it, `Source.fetch` gives local paths.

Knows nothing about what the files hold.
"""

from __future__ import annotations

import abc
import difflib
import functools
import importlib.resources
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import (
    DalleMiniError,
    DalleMiniWarning,
    HubError,
    InputError,
    InputTypeError,
    MissingFileError,
)
from ..files import finish_folder
from .blobs import with_right_bytes
from .packaged import PACKAGED, find_packaged

# Inside the functions that need the Hub, because its client is slow to import and what lies on
# this machine does without.
if TYPE_CHECKING:
    from .client import Repository

BUNDLED_MODEL = "dallemini/emoji"
_NEAR = 0.85  # how like a known name another one is that may be meant for it
"""Name of the model that comes inside the package."""

_SUBFOLDER = re.compile(r"(?!.*(^|/)\.\.?(/|$))[\w.][^\\:\0]*(?<!/)")
_SHOWN = 60  # characters of a name in a list
_FILE_ENDING = re.compile(r".*\.(pt|pth|ckpt|bin|param|safetensors|msgpack|json)")


@dataclass(frozen=True)
class Where:
    """How a model is looked for.

    Attributes:
        revision: branch, tag or commit on the Hub; the default is its main branch.
        cache_dir: the Hub's cache folder; the default is the one of huggingface_hub.
        local_files_only: read the cache only, as `HF_HUB_OFFLINE=1` does. Without it the cache is
            used too, with a warning, when the Hub does not answer.
        token: access token for the Hub; the default is `HF_TOKEN` or the stored login.

    Raises:
        InputTypeError: one is of the wrong type.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_name("revision", self.revision)
        if self.cache_dir is not None and not isinstance(self.cache_dir, str | os.PathLike):
            raise InputTypeError(f"cache_dir must be a string or a path, not {self.cache_dir!r}.")


@dataclass(frozen=True, kw_only=True)
class Source(abc.ABC):
    """The files of one component or pipeline, wherever they lie.

    Attributes:
        name: what the user asked for, for messages: "dalle-mini/dalle-mini", "./my-model".
        where: how it was looked for, and how what it lacks is to be looked for.
        subfolder: the folder inside the model that this is; None for the whole model.
        revision_key: the commit hash on the Hub; None for local files.
        selected: the file name, where the user named one file instead of a folder.
    """

    name: str
    where: Where = field(default_factory=Where)
    subfolder: str | None = None
    revision_key: str | None = None
    selected: str | None = None

    @property
    def label(self) -> str:
        """The name with the subfolder and, from the Hub, the commit: exactly this model."""
        name = _joined(self.name, self.subfolder)
        return f"{name}@{self.revision_key[:12]}" if self.revision_key else name

    @abc.abstractmethod
    def files(self) -> tuple[str, ...]:
        """Return the sorted file names, '/'-joined, at most one folder deep, none hidden."""

    def told_files(self) -> str:
        """Say for a message what lies in the folder, or beside the file that was named."""
        others = list_files([name for name in self.files() if name != self.selected])
        return f"beside it lie {others}" if self.selected else f"it holds {others}"

    def inside(self, folder: str) -> Source:
        """Return a folder of this source, at the same commit.

        Raises:
            InputTypeError: `folder` is not a string.
            InputError: it leads out of the source, or the source is a single file.
            MissingFileError: there is no such folder.
            HubError: offline, nothing of it is in the cache.
        """
        _check_name("subfolder", folder)
        if not _SUBFOLDER.fullmatch(folder):
            raise InputError(f"subfolder must be a folder inside the model, not {folder!r}.")
        if self.selected is not None:
            raise InputError(
                f"{self.name} is a file and has no subfolder {folder!r}: pass its folder."
            )
        return self._inside(folder)

    def cached(self) -> Source:
        """Return the same files without what would have to be downloaded."""
        return self

    def fetch(self, names: Sequence[str]) -> dict[str, Path]:
        """Return the local path of each named file, downloading what is not there yet.

        Raises:
            MissingFileError: the source has no such file; the message lists what it has.
            HubError: a file cannot be downloaded, or is not in the cache while offline.
            StorageError: the cache folder cannot be written.
        """
        known = self.files()
        if absent := [name for name in names if name not in known]:
            raise self._missing(f"{self.name} has no {', '.join(absent)}; {self.told_files()}.")
        return {name: self._locate(name) for name in names}

    @abc.abstractmethod
    def _inside(self, folder: str) -> Source: ...

    @abc.abstractmethod
    def _missing(self, problem: str) -> DalleMiniError: ...

    @abc.abstractmethod
    def _locate(self, name: str) -> Path: ...


@dataclass(frozen=True, kw_only=True)
class LocalSource(Source):
    """Files in a folder on this machine; with `selected`, that file and those beside it."""

    folder: Path

    def files(self) -> tuple[str, ...]:
        """Return the sorted file names that are in the folder now."""
        found = _files_below(self.folder, "*")
        return _visible(found if self.selected else [*found, *_files_below(self.folder, "*/*")])

    def _inside(self, folder: str) -> Source:
        path = self.folder / folder
        finish_folder(path)
        if not path.is_dir():
            raise MissingFileError(
                f"There is no folder {path}. Check {self.name!r} and subfolder=."
            )
        return replace(self, folder=path, subfolder=_joined(self.subfolder, folder))

    def _missing(self, problem: str) -> DalleMiniError:
        return MissingFileError(f"{problem} Check the folder {self.folder.absolute()}.")

    def _locate(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise MissingFileError(
                f"{path} is a link to nothing: if the folder lies in the Hub's cache, the cache is "
                "incomplete. Load the model once with a network connection, by its name on the Hub."
            )
        return path


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """Files of a model on the Hub at one commit, `revision_key`; `offline` means cache only."""

    revision_key: str
    repository: Repository
    names: tuple[str, ...]
    offline: bool = False

    def files(self) -> tuple[str, ...]:
        """Return the sorted file names of this commit; offline, those that are in the cache."""
        prefix = f"{self.subfolder}/" if self.subfolder else ""
        return _visible(n.removeprefix(prefix) for n in self.names if n.startswith(prefix))

    def cached(self) -> Source:
        """Return the same files, of which those that are not in the cache cannot be fetched."""
        return replace(self, offline=True)

    def _inside(self, folder: str) -> Source:
        inner = replace(self, subfolder=_joined(self.subfolder, folder))
        if not inner.files():
            problem = f"{self.name} has no folder {folder}; it holds {list_files(self.files())}."
            raise self._missing(problem)
        return inner

    def _missing(self, problem: str) -> DalleMiniError:
        if self.offline:
            return _not_cached(self.repository, problem)
        return MissingFileError(f"{problem} See {self.repository.page}/tree/{self.revision_key}.")

    def _locate(self, name: str) -> Path:
        filename = _joined(self.subfolder, name)
        path = self.repository.snapshot(self.revision_key) / filename
        if os.path.isfile(path):  # unlike Path.is_file, no error in an unreadable cache
            found = path
        elif self.offline:
            problem = f"the cache is incomplete: it lacks {filename} of {self.name}."
            raise _not_cached(self.repository, problem)
        else:
            found = self.repository.download(filename, self.revision_key)
        found = self._checked(found, filename)
        if not self.offline:
            self.repository.remember(self.revision_key)
        return found

    def _checked(self, path: Path, filename: str) -> Path:
        again = functools.partial(self.repository.download, filename, self.revision_key)
        return with_right_bytes(
            path,
            self.repository.cache / "dallemini" / "blobs",
            name=f"{filename} of {self.name}",
            download=None if self.offline else again,
        )


def list_files(names: Sequence[str], *, most: int = 12) -> str:
    """Name the first files for a message, or say that there are none."""
    shown = [name if len(name) <= _SHOWN else name[: _SHOWN - 3] + "..." for name in names[:most]]
    return ", ".join(shown) + (", ..." if len(names) > most else "") if names else "no files"


def open(
    name: str | os.PathLike[str] | Source,
    where: Where | None = None,
    *,
    subfolder: str | None = None,
) -> Source:
    """Find the files of a model: the bundled one, then a local folder or file, then the Hub.

    Args:
        name: `BUNDLED_MODEL`, a folder, a single weight file, a name in `PACKAGED`, a Hub id
            "owner/name", or one file of it, "owner/name/encoder_mini.pt". A source that was opened
            already is taken as it is.
        where: how to look for it.
        subfolder: folder of the component inside the model, such as "transformer".

    Raises:
        InputTypeError: an argument is of the wrong type.
        InputError: one is malformed, or they do not go together.
        MissingFileError: a path, or the subfolder, does not exist.
        MissingDependencyError: the package of a name in `PACKAGED` is not installed.
        HubError: the Hub cannot be reached, refuses, or has no such model or revision; or offline,
            the model is not in the cache.

    Example:
        >>> import tempfile
        >>> from dallemini import hub
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     hub.open(folder).files()
        ()
    """
    _check_name("subfolder", subfolder)
    if isinstance(name, Source):
        if where not in (None, Where()):
            raise InputError(
                f"{name.name} was opened already: give revision=, cache_dir=, local_files_only= "
                "and token= when it is opened."
            )
        source = name
    else:
        source = _find(name, where or Where())
    return source if subfolder is None else source.inside(subfolder)


def open_source(
    source: str | os.PathLike[str] | Source,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Source:
    """Call `open` with the fields of `Where` as keywords."""
    return open(source, Where(revision, cache_dir, local_files_only, token), subfolder=subfolder)


def _find(asked: str | os.PathLike[str], where: Where) -> Source:
    if not isinstance(asked, str | os.PathLike):
        raise InputTypeError(f"A model is named by a string or a path, not {asked!r}.")
    name = os.fspath(asked)
    path = _bundled_folder() if name == BUNDLED_MODEL else Path(os.path.expanduser(name))
    if not os.path.exists(path):
        path = find_packaged(name) or path
    if name == BUNDLED_MODEL or (name and os.path.exists(path)):
        if where.revision is not None:
            raise InputError(f"{name} is not on the Hub: leave out revision={where.revision!r}.")
        finish_folder(path)
        if path.is_file():
            return LocalSource(name=name, where=where, folder=path.parent, selected=path.name)
        return LocalSource(name=name, where=where, folder=path)
    name, selected = _split_hub_file(name)
    if not isinstance(asked, str) or _looks_like_path(name):
        raise MissingFileError(
            f"There is no file or folder {name!r} (seen from {_here()}). Check the path; a "
            "model on the Hub is written 'owner/name'."
        )
    try:
        return _open_hub(name, where, selected)
    except (HubError, MissingFileError) as error:
        known = [BUNDLED_MODEL, *PACKAGED]
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
        if not near:
            raise
        raise type(error)(
            f"Did you mean {near[0]!r}, which needs no network? On the Hub: {error}"
        ) from error


def _open_hub(name: str, where: Where, selected: str | None) -> Source:
    """Ask the Hub for commit and files; offline, or when it does not answer, ask the cache."""
    from .client import Repository

    repository = Repository.find(
        name, revision=where.revision, cache_dir=where.cache_dir, token=where.token
    )
    commit, names = _list_online(repository, where)
    offline = names is None
    if names is None:
        names = _files_below(repository.snapshot(commit), "**/*")
    source = HubSource(
        name=repository.repo_id,
        where=where,
        revision_key=commit,
        repository=repository,
        names=tuple(names),
        offline=offline,
    )
    if selected and selected not in source.files():
        problem = f"{name} has no file {selected}; it holds {list_files(source.files())}."
        raise source._missing(problem)
    return replace(source, selected=selected)


def _list_online(repository: Repository, where: Where) -> tuple[str, list[str] | None]:
    """Return the commit with its files, or without them where the cache is to be used.

    Raises:
        HubError: the Hub refuses, or has no such model; or the cache is needed and lacks it.
    """
    from .client import OutageError, is_offline

    commit = repository.cached_commit()
    if not (where.local_files_only or is_offline()):
        try:
            return repository.list_files()
        except OutageError as error:
            if commit is None:
                raise
            message = f"{error} Until then the copy in the cache is used, commit {commit}."
            warnings.warn(message, DalleMiniWarning, stacklevel=5)
    if commit is None:
        wanted = f"{repository.repo_id} at revision {repository.revision!r}"
        raise _not_cached(repository, f"{wanted} is not in the cache.")
    return commit, None


def _not_cached(repository: Repository, problem: str) -> HubError:
    return HubError(
        f"Offline: {problem} Load it once with a network connection (without local_files_only and "
        f"HF_HUB_OFFLINE), or point cache_dir= or HF_HOME to its cache (now {repository.cache})."
    )


def _bundled_folder() -> Path:
    folder = Path(str(importlib.resources.files("dallemini"))) / "assets" / "emoji"
    if not folder.is_dir():
        raise MissingFileError(f"The bundled model is not in {folder}. Install dallemini again.")
    return folder


def _files_below(folder: Path, pattern: str) -> list[str]:
    """Name the files, and links to nothing: that a file is meant to be there is worth saying."""
    paths = sorted(folder.glob(pattern))
    found = [path for path in paths if path.is_file() or _leads_nowhere(path)]
    return [path.relative_to(folder).as_posix() for path in found]


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _joined(*folders: str | None) -> str:
    return "/".join(filter(None, folders))


def _check_name(label: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise InputTypeError(f"{label} must be a string, not {value!r}.")


def _visible(names: Iterable[str]) -> tuple[str, ...]:
    """Keep what a component can own: below its folder, not hidden, at most one folder deep."""
    parts = {name: name.split("/") for name in names}
    return tuple(
        sorted(
            name
            for name, path in parts.items()
            if len(path) <= 2
            and all(path)
            and not any(part.startswith(".") for part in path)
            and not {"\\", "\0"}.intersection(name)
        )
    )


def _split_hub_file(name: str) -> tuple[str, str | None]:
    """Split "owner/name/file.pt" into the model and its file, unless it leads into a folder."""
    owner, _, rest = name.partition("/")
    model, _, file = rest.partition("/")
    if not _FILE_ENDING.fullmatch(file) or "/" in file or _looks_like_path(f"{owner}/{model}"):
        return name, None
    return (name, None) if Path(owner).exists() else (f"{owner}/{model}", file)


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that was deleted"


def _looks_like_path(name: str) -> bool:
    marked = name.startswith((".", "~", "/")) or "\\" in name or _FILE_ENDING.fullmatch(name)
    return bool(name and (marked or name.count("/") != 1))
