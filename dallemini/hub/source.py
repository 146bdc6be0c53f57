"""Where the files of a model lie: in this package, in a local folder, or on the Hugging Face Hub.

`open_source` finds them and `Source.fetch` gives local paths; `upload_folder` and `model_card`
publish. Knows nothing about what the files hold.
"""

from __future__ import annotations

import abc
import hashlib
import importlib.resources
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
from .card import model_card as model_card

# Inside the functions that need the Hub, because its client is slow to import and what lies on
# this machine does without.
if TYPE_CHECKING:
    from .client import Repository

BUNDLED_MODEL = "dallemini/emoji"
"""Name of the model that comes inside the package."""

_CONVERSIONS = Path("dallemini", "v1")  # raise the version when the layout of conversions changes
_SUBFOLDER = re.compile(r"(?!.*(^|/)\.\.?(/|$))[\w.][^\\:\0]*(?<!/)")
_FILE_ENDING = re.compile(r".*\.(pt|pth|ckpt|bin|safetensors|msgpack|json)")


@dataclass(frozen=True, kw_only=True)
class Source(abc.ABC):
    """The files of one component or pipeline, wherever they lie.

    Attributes:
        name: what the user asked for, for messages: "dalle-mini/dalle-mini", "./my-model".
        revision_key: the commit hash on the Hub; None for local files.
        selected: the file name, where the user named one file instead of a folder.
    """

    name: str
    revision_key: str | None = None
    selected: str | None = None

    @abc.abstractmethod
    def files(self) -> tuple[str, ...]:
        """Return the sorted file names, '/'-joined, at most one folder deep, none hidden."""

    def fetch(self, names: Sequence[str]) -> dict[str, Path]:
        """Return the local path of each named file, downloading what is not there yet.

        Raises:
            MissingFileError: the source has no such file; the message lists what it has.
            HubError: a file cannot be downloaded, or is not in the cache while offline.
            StorageError: the cache folder cannot be written.
        """
        known = self.files()
        if absent := [name for name in names if name not in known]:
            problem = f"{self.name} has no {', '.join(absent)}; it holds {list_files(known)}."
            raise self._missing(problem)
        return {name: self._locate(name) for name in names}

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

    def _missing(self, problem: str) -> DalleMiniError:
        return MissingFileError(f"{problem} Check the folder {self.folder.absolute()}.")

    def _locate(self, name: str) -> Path:
        return self.folder / name


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """Files of a model on the Hub at one commit, `revision_key`; `offline` means cache only."""

    revision_key: str
    repository: Repository
    subfolder: str | None = None
    names: tuple[str, ...]
    offline: bool = False

    def files(self) -> tuple[str, ...]:
        """Return the sorted file names of this commit; offline, those that are in the cache."""
        return self.names

    def _missing(self, problem: str) -> DalleMiniError:
        if self.offline:
            return _not_cached(self.repository, problem)
        return MissingFileError(f"{problem} See {self.repository.page}/tree/{self.revision_key}.")

    def _locate(self, name: str) -> Path:
        filename = f"{self.subfolder}/{name}" if self.subfolder else name
        path = self.repository.snapshot(self.revision_key) / filename
        if not os.path.isfile(path):  # unlike Path.is_file, no error in an unreadable cache
            path = self.repository.download(filename, self.revision_key)
        if not self.offline:
            self.repository.remember(self.revision_key)
        return path


def list_files(names: Sequence[str], *, most: int = 12) -> str:
    """Name the first files for a message, or say that there are none."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") if names else "no files"


def open_source(
    source: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Source:
    """Find the files of a model: the bundled one, then a local folder or file, then the Hub.

    Args:
        source: `BUNDLED_MODEL`, a folder, a single weight file, a Hub id "owner/name", or one
            file of it, "owner/name/encoder_mini.pt".
        subfolder: folder of the component inside the model, such as "transformer".
        revision: branch, tag or commit on the Hub; the default is its main branch.
        cache_dir: the Hub's cache folder; the default is the one of huggingface_hub.
        local_files_only: read the cache only, as `HF_HUB_OFFLINE=1` does. Without it the cache is
            used too, with a warning, when the Hub does not answer.
        token: access token for the Hub; the default is `HF_TOKEN` or the stored login.

    Raises:
        InputTypeError: `source` or another argument is of the wrong type.
        InputError: `source`, `subfolder` or `revision` is malformed, or they do not go together.
        MissingFileError: a path, or the subfolder, does not exist.
        HubError: the Hub cannot be reached, refuses, or has no such model or revision; or offline,
            the model is not in the cache.

    Example:
        >>> import tempfile
        >>> from dallemini.hub import open_source
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     open_source(folder).files()
        ()
    """
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"A model is named by a string or a path, not {source!r}.")
    for label, value in (("subfolder", subfolder), ("revision", revision)):
        if value is not None and not isinstance(value, str):
            raise InputTypeError(f"{label} must be a string, not {value!r}.")
    if cache_dir is not None and not isinstance(cache_dir, str | os.PathLike):
        raise InputTypeError(f"cache_dir must be a string or a path, not {cache_dir!r}.")
    name = os.fspath(source)
    if subfolder is not None and not _SUBFOLDER.fullmatch(subfolder):
        raise InputError(f"subfolder must be a folder inside the model, not {subfolder!r}.")
    path = _bundled_folder() if name == BUNDLED_MODEL else Path(os.path.expanduser(name))
    if name == BUNDLED_MODEL or (name and os.path.exists(path)):
        if revision is not None:
            raise InputError(f"{name} is not on the Hub: leave out revision={revision!r}.")
        return _open_local(path, name, subfolder)
    name, selected = _split_hub_file(name)
    if not isinstance(source, str) or _looks_like_path(name):
        raise MissingFileError(
            f"There is no file or folder {name!r} (seen from {_here()}). Check the path; a "
            "model on the Hub is written 'owner/name'."
        )
    repository = _repository(name, revision, cache_dir=cache_dir, token=token)
    return _open_hub(repository, subfolder, selected, offline=local_files_only)


def conversion_cache_dir(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for converted weights in the Hub's cache folder; it may not exist yet."""
    from .client import cache_folder

    return cache_folder(cache_dir) / _CONVERSIONS


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_key(
    source: Source, names: Sequence[str], *, digest_of: Callable[[Path], str] = file_digest
) -> str:
    """Return a folder name that stands for these files: the same files, the same key.

    On the Hub the commit tells files apart and nothing is downloaded. Local files count by their
    content: a copy of a folder has its key, a changed file has another.

    Args:
        source: where the files lie.
        names: those that count.
        digest_of: tells the content of a local file, by default reading it.

    Raises:
        MissingFileError: a local file does not exist.
    """
    digest = hashlib.sha256()
    if isinstance(source, HubSource):
        label = source.repository.repo_id.replace("/", "--")
        digest.update(json.dumps([source.revision_key, source.subfolder, *sorted(names)]).encode())
        return f"{label}-{source.revision_key[:12]}-{digest.hexdigest()[:16]}"
    for name, path in sorted(source.fetch(names).items()):
        digest.update(json.dumps([name, digest_of(path)]).encode())
    return f"local-{digest.hexdigest()[:32]}"


def upload_folder(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload the files of a folder as a model, creating model and branch where needed.

    Args:
        directory: folder whose files are added; files that are only on the Hub stay there.
        repo_id: "owner/name".
        private: whether a model that is newly created is private.
        token: access token that may write; the default is `HF_TOKEN` or the stored login.
        revision: branch to upload to; the default is the main branch.
        commit_message: the default names this library.

    Returns:
        The address of the commit.

    Raises:
        MissingFileError: `directory` is not a folder.
        InputError: `repo_id` or `revision` is malformed.
        HubError: the Hub cannot be reached or refuses, or `HF_HUB_OFFLINE` is set.
    """
    if not os.path.isdir(directory):
        raise MissingFileError(
            f"There is no folder {os.fspath(directory)!r} to upload: save first."
        )
    from .client import is_offline

    repository = _repository(repo_id, revision, token=token)
    if is_offline():
        raise HubError(f"Offline: {repo_id} cannot be uploaded. Unset HF_HUB_OFFLINE first.")
    message = commit_message or "Upload with dallemini"
    return repository.upload(directory, private=private, message=message)


def _open_local(path: Path, name: str, subfolder: str | None) -> LocalSource:
    finish_folder(path / (subfolder or ""))
    if path.is_file():
        if subfolder is not None:
            raise InputError(
                f"{name} is a file and has no subfolder {subfolder!r}: pass its folder."
            )
        return LocalSource(name=name, folder=path.parent, selected=path.name)
    folder = path / (subfolder or "")
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}. Check {name!r} and subfolder=.")
    return LocalSource(name=name, folder=folder)


def _open_hub(
    repository: Repository, subfolder: str | None, selected: str | None, *, offline: bool
) -> HubSource:
    """Ask the Hub for commit and files; offline, or when it does not answer, ask the cache."""
    from .client import OutageError, is_offline

    commit, names = repository.cached_commit(), None
    if not (offline or is_offline()):
        try:
            commit, names = repository.list_files()
        except OutageError as error:
            if commit is None:
                raise
            message = f"{error} Until then the copy in the cache is used, commit {commit}."
            warnings.warn(message, DalleMiniWarning, stacklevel=3)
    if commit is None:
        wanted = f"{repository.repo_id} at revision {repository.revision!r}"
        raise _not_cached(repository, f"{wanted} is not in the cache.")
    offline = names is None
    if names is None:
        names = _files_below(repository.snapshot(commit), "**/*")
    prefix = f"{subfolder}/" if subfolder else ""
    inside = _visible(name.removeprefix(prefix) for name in names if name.startswith(prefix))
    if subfolder and not inside:
        problem = f"{repository.repo_id} has no folder {subfolder}; it holds {list_files(names)}."
        raise (_not_cached(repository, problem) if offline else MissingFileError(problem))
    if selected and selected not in inside:
        problem = f"{repository.repo_id} has no file {selected}; it holds {list_files(inside)}."
        raise (_not_cached(repository, problem) if offline else MissingFileError(problem))
    return HubSource(
        name=repository.repo_id,
        revision_key=commit,
        selected=selected,
        repository=repository,
        subfolder=subfolder,
        names=inside,
        offline=offline,
    )


def _repository(
    repo_id: str,
    revision: str | None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
) -> Repository:
    from .client import Repository, cache_folder, endpoint

    return Repository(
        repo_id=repo_id,
        revision="main" if revision is None else revision,
        endpoint=endpoint(),
        cache=cache_folder(cache_dir),
        token=token,
    )


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
    paths = sorted(folder.glob(pattern))
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


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
    """Split "owner/name/file.pt" into the model and its file; a path from a folder here is none."""
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
