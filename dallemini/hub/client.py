"""One model on the Hugging Face Hub: the calls to its client, its cache, words for its failures.

The only module that imports huggingface_hub; `hub` is its only user. Cache layout and variables
(`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`) are those of the client,
but they are read when a function is called, so that setting them after the import works too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import DalleMiniError, HubError, InputError, StorageError
from ..files import make_folder, write_text
from ..foreign import show

_LIBRARY = "dallemini"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_ID = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*/\w([\w.-]{0,94}\w)?(?<!\.git)", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)\w[^\s\\:*?~^\[\0]*(?<!/)")  # what git allows, and a safe path
# The client's base class is httpx's or requests', by its version; broken connections belong to it.
_FAILURES: tuple[type[BaseException], ...] = (OSError, RuntimeError, *HfHubHTTPError.__bases__)
_NO_HUB_ANSWER = (LookupError, TypeError, ValueError, AttributeError)
_FAILED_LISTS: tuple[type[BaseException], ...] = (*_FAILURES, *_NO_HUB_ANSWER)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

# Most special first: a gated model is also "not found" to the client.
_REFUSALS: dict[type[Exception], str] = {
    GatedRepoError: "{repo} is gated. Accept its terms at {page}, then give token= or HF_TOKEN.",
    RepositoryNotFoundError: "{hub} has no model {repo}, or it is private. Check the name, or give "
    "a token that may read it with token= or HF_TOKEN.",
    RevisionNotFoundError: "{repo} has no revision {revision!r}. See {page}/commits/main.",
    EntryNotFoundError: "{page} lists a file that it does not have: {doing} failed. Call again to "
    "read the new list.",
}
_STATUSES = {
    None: "{hub} cannot be reached for {doing} ({error}). Check network, proxy and HF_ENDPOINT.",
    401: "{hub} refused the access token (401). Renew it, in token= or HF_TOKEN.",
    403: "{hub} forbids {doing} for {repo} (403). Give a token that may, with token= or HF_TOKEN.",
}
_OTHER_STATUS = "{hub} failed with status {status} during {doing} ({error}). Try again later."


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One model on one Hub.

    Attributes:
        repo_id: "owner/name".
        revision: branch, tag or commit.
        endpoint: address of the Hub, without a slash at the end.
        cache: the Hub's cache folder.
        token: access token; None for `HF_TOKEN` or the stored login.

    Raises:
        InputError: `repo_id` or `revision` is malformed.
    """

    repo_id: str
    revision: str
    endpoint: str
    cache: Path
    token: str | bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not _REPO_ID.fullmatch(self.repo_id):
            raise InputError(
                f"{self.repo_id!r} is neither a file or folder here nor a model on the Hub: that "
                "is written 'owner/name' in letters, digits, '-', '_' and '.'."
            )
        if not _REVISION.fullmatch(self.revision):
            raise InputError(f"revision must be a branch, tag or commit, not {self.revision!r}.")

    @classmethod
    def find(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
    ) -> Self:
        """Return a model of the Hub that the client's variables name now."""
        return cls(
            repo_id=repo_id,
            revision=constants.DEFAULT_REVISION if revision is None else revision,
            endpoint=endpoint(),
            cache=cache_folder(cache_dir),
            token=token,
        )

    @property
    def page(self) -> str:
        """Address of the model's page."""
        return f"{self.endpoint}/{self.repo_id}"

    @property
    def _folder(self) -> Path:
        return self.cache / f"models--{self.repo_id.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """Return the cache folder with the files of a commit; it may not exist."""
        return self._folder / "snapshots" / commit

    def cached_commit(self) -> str | None:
        """Return the commit that the revision stood for when it was last asked, if it is cached."""
        commit = self.revision
        if not _COMMIT.fullmatch(commit):
            try:
                commit = (self._folder / "refs" / commit).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                return None
        found = _COMMIT.fullmatch(commit) and os.path.isdir(self.snapshot(commit))
        return commit if found else None

    def remember(self, commit: str) -> None:
        """Note for offline use which commit the revision stands for, where the client does too.

        Call it when files of the commit are there: until then an older commit stays of use.
        """
        ref = self._folder / "refs" / self.revision
        # A cache that cannot be written is reported where it matters: when a file is downloaded.
        with contextlib.suppress(StorageError):
            if commit not in (self.revision, self.cached_commit()):
                make_folder(ref.parent)
                write_text(ref, commit)

    def list_files(self) -> tuple[str, list[str]]:
        """Ask the Hub for the commit of the revision and the names of its files.

        Raises:
            OutageError: the Hub does not answer now.
            HubError: it refuses, or has no such model or revision.
        """
        try:
            info = self._api().model_info(
                self.repo_id, revision=self.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
            commit, names = str(info.sha), [file.rfilename for file in info.siblings or ()]
            if not _COMMIT.fullmatch(commit):
                raise ValueError(f"the commit is {info.sha!r}")
        except _FAILED_LISTS as error:
            if isinstance(error, _NO_HUB_ANSWER) and _status(error) is None:
                raise OutageError(
                    f"{self.endpoint} does not answer as a Hub does ({_brief(error)}). Check "
                    "HF_ENDPOINT, and whether the network asks for a login."
                ) from error
            kind = OutageError if _is_outage(error) else HubError
            raise kind(self._explain(error, "the list of files")) from error
        return commit, names

    def download(self, filename: str, commit: str) -> Path:
        """Download one file into the cache.

        Raises:
            HubError: the Hub cannot be reached, refuses, or the connection breaks.
            StorageError: the cache folder cannot be written.
        """
        try:
            path = hf_hub_download(
                self.repo_id,
                filename,
                revision=commit,
                cache_dir=self.cache,
                endpoint=self.endpoint,
                token=self.token,
                library_name=_LIBRARY,
            )
        except _FAILURES as error:
            raise self._explain_download(error, filename) from error
        return Path(path)

    def upload(
        self,
        directory: str | os.PathLike[str],
        *,
        private: bool,
        message: str,
        keep: Sequence[str] = (),
    ) -> str:
        """Add the files of a folder in one commit, creating model and branch; return its address.

        Args:
            directory: whose files are added.
            private: whether a model that is newly created is private.
            message: of the commit.
            keep: names of files that are left out where the branch has them already.

        Raises:
            HubError: the Hub cannot be reached or refuses.
        """
        api = self._api()
        try:
            api.create_repo(self.repo_id, private=private, exist_ok=True)
            if self.revision != constants.DEFAULT_REVISION:
                api.create_branch(self.repo_id, branch=self.revision, exist_ok=True)
            there = [
                name for name in keep if api.file_exists(self.repo_id, name, revision=self.revision)
            ]
            commit = api.upload_folder(
                repo_id=self.repo_id,
                ignore_patterns=there,
                folder_path=os.fspath(directory),
                revision=self.revision,
                commit_message=message,
            )
        except ValueError as error:
            raise HubError(
                f"{self.endpoint} refused the upload ({_brief(error)}). Correct that, upload again."
            ) from error
        except _FAILURES as error:
            raise HubError(self._explain(_reason(error), "the upload")) from error
        return str(commit.commit_url)

    def _api(self) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self.token, library_name=_LIBRARY)

    def _explain(self, error: BaseException, doing: str) -> str:
        """Say what the Hub's refusal or silence means, with the next step."""
        matches = (message for kind, message in _REFUSALS.items() if isinstance(error, kind))
        status = _status(error)
        return next(matches, _STATUSES.get(status, _OTHER_STATUS)).format(
            hub=self.endpoint,
            page=self.page,
            repo=self.repo_id,
            revision=self.revision,
            doing=doing,
            status=status,
            error=_brief(error),
        )

    def _explain_download(self, error: BaseException, filename: str) -> DalleMiniError:
        """Say whether the disk, the connection or the Hub's answer made a download fail."""
        elsewhere = "choose another folder with cache_dir= or the variable HF_HOME."
        number = error.errno if isinstance(error, OSError) else None
        if number in _DISK_FULL:
            return StorageError(
                f"The disk of {self.cache} is full. Free some space, or {elsewhere}"
            )
        if number in _NOT_WRITABLE:
            return StorageError(
                f"The Hub's cache {self.cache} cannot be written ({_brief(error)}): {elsewhere}"
            )
        if not isinstance(error, LocalEntryNotFoundError) and _status(error) is None:
            return HubError(
                f"The download of {filename} from {self.page} broke off ({_brief(error)}). Call "
                "again to repeat it; no incomplete file is used."
            )
        return HubError(self._explain(_reason(error), f"the download of {filename}"))


class OutageError(HubError):
    """The Hub does not answer now; what is in the cache is still good."""


def endpoint() -> str:
    """Return the address of the Hub."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Return whether the user asked never to use the network."""
    asked = os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES
    return asked or constants.HF_HUB_OFFLINE


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the Hub's cache folder: `cache_dir`, or what the client's variables say now.

    Raises:
        InputError: the name has a zero byte.
        StorageError: it is seen from the current folder, which was deleted.
    """
    chosen: str | os.PathLike[str] | None = cache_dir
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        chosen = chosen or os.environ.get(variable)
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
        chosen = os.path.join(os.environ.get("HF_HOME") or os.path.join(base, "huggingface"), "hub")
    folder = os.path.expandvars(os.path.expanduser(chosen))
    if "\0" in folder:
        raise InputError(f"{show(folder)} is not the name of a folder: it has a zero byte.")
    try:
        return Path(folder).absolute()
    except OSError as error:
        raise StorageError(
            f"{folder} is seen from a folder that was deleted. Change into another one, or give "
            "a whole path with cache_dir= or HF_HOME."
        ) from error


def _reason(error: BaseException) -> BaseException:
    """Return the failure that the client wrapped in a vaguer one."""
    wrapped = isinstance(error, LocalEntryNotFoundError | RuntimeError)
    return error.__cause__ if wrapped and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_outage(error: BaseException) -> bool:
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
