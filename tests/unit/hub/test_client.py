"""Tests of `dallemini.hub.client`: how a Hub, a network or a cache can fail."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from dallemini.errors import (
    DalleMiniWarning,
    HubError,
    InputError,
    StorageError,
)
from dallemini.hub import open as open_once
from dallemini.hub import open_source
from hub_server import TOKEN, HubServer

REPO = "someone/tiny-model"
WEIGHTS = "transformer/model.safetensors"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the seconds that the Hub's client waits before it tries again."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


# Refusals of the Hub


def test_unknown_model_is_an_error(hub: HubServer) -> None:
    with pytest.raises(HubError, match=rf"has no model {REPO}, or it is private. Check the name"):
        open_source(REPO)


def test_unknown_model_with_a_token_is_an_error(hub: HubServer) -> None:
    with pytest.raises(HubError, match=rf"has no model {REPO}"):
        open_source(REPO, token=TOKEN)


def test_refused_token_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    with pytest.raises(HubError, match=r"refused the access token \(401\). Renew it"):
        open_source(REPO, token="hf_expired")


def test_gated_model_says_where_to_accept_its_terms(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder, gated=True)
    with pytest.raises(HubError, match=rf"is gated. Accept its terms at {hub.endpoint}/{REPO}"):
        open_source(REPO).fetch(["model_index.json"])
    hub.fail("/resolve/", status=403, code="GatedRepo")
    with pytest.raises(HubError, match=r"is gated. Accept its terms"):
        open_source(REPO, token=TOKEN).fetch(["model_index.json"])


def test_forbidden_model_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    hub.fail("/api/models", status=403)
    with pytest.raises(HubError, match=rf"forbids the list of files for {REPO} \(403\)"):
        open_source(REPO)


def test_unknown_revision_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    with pytest.raises(HubError, match=r"has no revision 'v9'. See http"):
        open_source(REPO, revision="v9")


@pytest.mark.parametrize("revision", ["", "../../x", "a:b"])
def test_malformed_revision_is_an_error(hub: HubServer, revision: str) -> None:
    with pytest.raises(InputError, match="revision must be a branch, tag or commit"):
        open_source(REPO, revision=revision)
    assert hub.requests == []


def test_file_that_vanished_from_the_hub_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    source = open_source(REPO)
    hub.fail("/resolve/", status=404, code="EntryNotFound")
    with pytest.raises(HubError, match=r"does not have: the download of model_index.json failed"):
        source.fetch(["model_index.json"])


@pytest.mark.parametrize("status", [400, 503])
def test_failing_hub_is_an_error(hub: HubServer, model_folder: Path, status: int) -> None:
    hub.add(REPO, model_folder)
    hub.fail("/api/models", status=status)
    with pytest.raises(
        HubError, match=rf"failed with status {status} during the list of files .* again later"
    ):
        open_source(REPO)


@pytest.mark.usefixtures("no_waiting")
def test_failing_download_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    hub.fail("/resolve/", status=500)
    with pytest.raises(
        HubError, match=r"failed with status 500 during the download of model_index.json"
    ):
        open_source(REPO).fetch(["model_index.json"])


@pytest.mark.parametrize("body", ["<html>please log in</html>", '{"id": "x"}'])
def test_answer_that_is_no_hub_is_an_error(hub: HubServer, body: str) -> None:
    hub.fail("/api/models", body=body)
    with pytest.raises(HubError, match=r"does not answer as a Hub does .* Check HF_ENDPOINT"):
        open_source(REPO)


# Broken connections


@pytest.mark.usefixtures("no_waiting")
def test_connection_cut_half_way_heals(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    hub.fail("GET /blobs/", cut=0.5, times=2)
    source = open_source(REPO)
    for _ in range(2):  # new versions of the client go on by themselves, old ones when called again
        with contextlib.suppress(HubError):
            source.fetch([WEIGHTS])
    path = source.fetch([WEIGHTS])[WEIGHTS]
    assert path.read_bytes() == (model_folder / WEIGHTS).read_bytes()
    assert sum(request.startswith("GET /blobs/") for request in hub.requests) == 3


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [{"cut": 0.0}, {"shorten": 7}, {"status": 410}])
def test_interrupted_download_succeeds_on_the_next_call(
    hub: HubServer, model_folder: Path, fault: dict[str, float]
) -> None:
    hub.add(REPO, model_folder)
    source = open_source(REPO)
    hub.fail("GET /blobs/", **fault)
    with pytest.raises(HubError, match=r"download of transformer/model\.safetensors"):
        source.fetch([WEIGHTS])
    hub.reset()
    path = source.fetch([WEIGHTS])[WEIGHTS]
    assert path.read_bytes() == (model_folder / WEIGHTS).read_bytes()


@pytest.mark.usefixtures("no_waiting")
def test_interrupted_download_says_to_call_again(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    hub.fail("GET /blobs/", shorten=1)
    with pytest.raises(HubError, match=r"broke off .*Consistency.* Call again to repeat it"):
        open_source(REPO).fetch([WEIGHTS])


def test_no_network_and_no_cache_is_an_error(hub: HubServer) -> None:
    hub.stop()
    with pytest.raises(HubError, match=r"cannot be reached for the list of files .* Check network"):
        open_source(REPO)


@pytest.mark.usefixtures("no_waiting")
def test_network_lost_before_a_download_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    source = open_source(REPO)
    hub.stop()
    with pytest.raises(HubError, match=r"cannot be reached for the download of model_index.json"):
        source.fetch(["model_index.json"])


@pytest.mark.parametrize("outage", ["stopped", "login page"])
def test_outage_with_a_warm_cache_warns_once_and_works(
    hub: HubServer, model_folder: Path, outage: str
) -> None:
    commit = hub.add(REPO, model_folder)
    open_source(REPO).fetch([WEIGHTS])
    if outage == "stopped":
        hub.stop()
    hub.fail("/api/models", **({"status": 500} if outage == "status 500" else {"body": "<html>"}))
    with pytest.warns(
        DalleMiniWarning, match=rf"copy in the cache is used, commit {commit}"
    ) as seen:
        source = open_once(REPO, subfolder="transformer")
    path = source.fetch(["model.safetensors"])["model.safetensors"]  # without a second warning
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert path.read_bytes() == (model_folder / WEIGHTS).read_bytes()
    assert source.revision_key == commit


def test_refusal_is_not_hidden_by_a_warm_cache(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])
    del hub.models[REPO]
    with pytest.raises(HubError, match="has no model"):
        open_source(REPO)


# Offline


@contextlib.contextmanager
def offline(how: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Ask for offline mode in one of the three ways; give the value of local_files_only."""
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if how == "variable before import":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    yield how == "argument"


OFFLINE = pytest.mark.parametrize("how", ["argument", "variable", "variable before import"])


@OFFLINE
def test_offline_with_a_warm_cache_asks_nothing(
    hub: HubServer, model_folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    commit = hub.add(REPO, model_folder)
    open_source(REPO).fetch(["transformer/config.json", "transformer/model.safetensors"])
    hub.reset()
    with offline(how, monkeypatch) as local, warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(REPO, subfolder="transformer", local_files_only=local)
        assert source.files() == ("config.json", "model.safetensors")
        path = source.fetch(["model.safetensors"])["model.safetensors"]
    assert path.read_bytes() == (model_folder / WEIGHTS).read_bytes()
    assert source.revision_key == commit
    assert hub.requests == []


def test_offline_with_a_dead_endpoint_works(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])
    hub.stop()
    assert open_source(REPO, local_files_only=True).fetch(["model_index.json"])


def test_offline_uses_the_last_commit_that_was_loaded(hub: HubServer, model_folder: Path) -> None:
    commit = hub.add(REPO, model_folder)
    open_source(REPO).fetch([WEIGHTS])
    hub.add(REPO, model_folder / "transformer")
    newer = open_source(REPO)
    hub.fail("/resolve/", status=403)
    with pytest.raises(HubError, match="forbids the download"):
        newer.fetch(["config.json"])
    source = open_source(REPO, local_files_only=True)
    assert source.revision_key == commit
    assert source.fetch([WEIGHTS])


@OFFLINE
def test_offline_without_the_model_is_an_error(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, how: str, tmp_path: Path
) -> None:
    message = (
        f"Offline: {REPO} at revision 'main' is not in the cache.* network connection .*"
        f"cache_dir= or HF_HOME to its cache .now {tmp_path}/hf-home/hub"
    )
    with offline(how, monkeypatch) as local, pytest.raises(HubError, match=message):
        open_source(REPO, local_files_only=local)
    assert hub.requests == []


def test_offline_revision_that_was_never_loaded_is_an_error(
    hub: HubServer, model_folder: Path
) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])
    with pytest.raises(HubError, match=r"Offline: .* at revision 'v2' is not in the cache"):
        open_source(REPO, revision="v2", local_files_only=True)


def test_offline_file_that_is_not_cached_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["vqgan/config.json"])
    source = open_source(REPO, local_files_only=True)
    assert source.files() == ("vqgan/config.json",)
    with pytest.raises(
        HubError, match=r"Offline: .* has no model_index.json; it holds vqgan/config"
    ):
        source.fetch(["model_index.json"])
    with pytest.raises(HubError, match=r"Offline: .* has no folder transformer"):
        open_source(REPO, subfolder="transformer", local_files_only=True)


# Caches that cannot be written


def test_cache_below_a_file_is_an_error(hub: HubServer, model_folder: Path, tmp_path: Path) -> None:
    hub.add(REPO, model_folder)
    (tmp_path / "occupied").write_text("a file")
    for cache_dir in (tmp_path / "occupied", tmp_path / "occupied" / "deeper"):
        source = open_source(REPO, cache_dir=cache_dir)
        with pytest.raises(StorageError, match=rf"{cache_dir} cannot be written .*cache_dir= or"):
            source.fetch(["model_index.json"])


@contextlib.contextmanager
def plain_user() -> Iterator[None]:
    """Take from this thread root's right to write everywhere, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    set_user = ctypes.CDLL(None).setfsuid
    set_user(65534)
    try:
        yield
    finally:
        set_user(0)


@pytest.mark.skipif(sys.platform != "linux", reason="drops root's rights in the way of Linux")
def test_read_only_cache_is_an_error_that_names_the_way_out(
    hub: HubServer, model_folder: Path
) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch(["model_index.json"])  # as root, so that every module is imported
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with plain_user():
            source = open_source(REPO, cache_dir=folder)
            message = rf"cache {folder} cannot be written .PermissionError.*: choose another folder"
            with pytest.raises(StorageError, match=message):
                source.fetch(["model_index.json"])
        assert os.listdir(folder) == []


def test_full_disk_is_an_error_that_names_the_cache(
    hub: HubServer, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, model_folder)
    source = open_source(REPO)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "makedirs", full)
    with pytest.raises(StorageError, match=r"disk of .*hf-home/hub is full. Free some space, or"):
        source.fetch(["model_index.json"])
