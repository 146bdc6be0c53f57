"""Tests of `dallemini.hub.upload_folder`, and of the guard of this test suite."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dallemini.errors import (
    HubError,
    InputError,
    MissingFileError,
)
from dallemini.hub import model_card, open_source, upload_folder
from hub_server import TOKEN, HubServer

REPO = "someone/tiny-model"
WEIGHTS = "transformer/model.safetensors"


# Uploads: the client itself passes bytes to httpx in a way that httpx calls deprecated.

CLIENT_WARNS = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@CLIENT_WARNS
def test_upload_creates_the_model_and_can_be_loaded(hub: HubServer, model_folder: Path) -> None:
    (model_folder / "README.md").write_text(model_card("Tiny"))
    url = upload_folder(model_folder, REPO, token=TOKEN, private=True)
    served = hub.files(REPO)
    assert served[WEIGHTS] == (model_folder / WEIGHTS).read_bytes()
    assert "README.md" in served
    assert hub.models[REPO].private
    source = open_source(REPO, token=TOKEN)
    assert url == f"{hub.endpoint}/{REPO}/commit/{source.revision_key}"
    assert source.fetch([WEIGHTS])


@CLIENT_WARNS
def test_upload_adds_to_a_branch_that_it_creates(
    hub: HubServer, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    upload_folder(model_folder / "vqgan", REPO)
    upload_folder(model_folder / "transformer", REPO, revision="fp16", commit_message="Half")
    upload_folder(model_folder / "transformer", REPO, revision="fp16")
    assert sorted(hub.files(REPO)) == ["config.json"]
    assert sorted(hub.files(REPO, "fp16")) == ["config.json", "model.safetensors"]


def test_upload_without_a_token_is_an_error(hub: HubServer, model_folder: Path) -> None:
    with pytest.raises(HubError, match=r"refused the access token \(401\)"):
        upload_folder(model_folder, REPO)


def test_upload_with_a_token_that_may_not_write_is_an_error(
    hub: HubServer, model_folder: Path
) -> None:
    hub.fail("POST", status=403)
    with pytest.raises(HubError, match=rf"forbids the upload for {REPO} \(403\)"):
        upload_folder(model_folder, REPO, token=TOKEN)


@CLIENT_WARNS
def test_upload_of_a_large_file_that_fails_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.fail("PUT /blobs/", status=403)
    with pytest.raises(HubError, match=r"forbids the upload .*403"):
        upload_folder(model_folder, REPO, token=TOKEN)


def test_upload_of_a_bad_card_is_an_error(hub: HubServer, model_folder: Path) -> None:
    (model_folder / "README.md").write_text("no header")
    with pytest.raises(HubError, match=r"refused the upload .*Invalid metadata in README.md"):
        upload_folder(model_folder, REPO, token=TOKEN)


def test_upload_without_network_is_an_error(hub: HubServer, model_folder: Path) -> None:
    hub.stop()
    with pytest.raises(HubError, match="cannot be reached for the upload"):
        upload_folder(model_folder, REPO, token=TOKEN)


def test_upload_while_offline_is_an_error(
    hub: HubServer, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match=r"Offline: someone/tiny-model cannot be uploaded"):
        upload_folder(model_folder, REPO, token=TOKEN)
    assert hub.requests == []


def test_upload_of_a_missing_folder_is_an_error(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no folder .* to upload: save first"):
        upload_folder(tmp_path / "nothing", REPO)


def test_upload_to_a_malformed_id_is_an_error(hub: HubServer, model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"'owner/name'"):
        upload_folder(model_folder, "no-owner", token=TOKEN)


# The guard of the test suite itself


def test_tests_cannot_reach_other_machines() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"tried to reach 192.0.2.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(pytest.fail.Exception, match=r"tried to reach example.org"):
        socket.getaddrinfo("example.org", 80)
