"""Files that came from the Hub with other bytes than it names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from dallemini import Transformer
from dallemini.errors import HubError, StorageError
from dallemini.hub import blobs
from dallemini.hub.source import open_source
from dallemini.testing import tiny_transformer
from hub_server import HubServer

REPO = "someone/tiny-model"
SMALL, LARGE = "vqgan/config.json", "transformer/model.safetensors"


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_good", set())


def gets(hub: HubServer) -> int:
    return sum(request.startswith("GET /") and "/api/" not in request for request in hub.requests)


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_wrong_bytes_are_downloaded_again(hub: HubServer, model_folder: Path, name: str) -> None:
    hub.add(REPO, model_folder)
    hub.fail("GET /blobs/" if name == LARGE else f"GET /{REPO}/resolve", spoil=True, times=1)
    path = open_source(REPO).fetch([name])[name]
    assert path.read_bytes() == (model_folder / name).read_bytes()


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_wrong_bytes_that_come_twice_are_an_error(
    hub: HubServer, model_folder: Path, name: str
) -> None:
    hub.add(REPO, model_folder)
    hub.fail("GET /blobs/" if name == LARGE else f"GET /{REPO}/resolve", spoil=True)
    told = rf"{name} of {REPO} came with other bytes than the Hub names, twice; nothing of it"
    with pytest.raises(HubError, match=told):
        open_source(REPO).fetch([name])
    hub.reset()
    path = open_source(REPO).fetch([name])[name]
    assert path.read_bytes() == (model_folder / name).read_bytes()


def test_wrong_bytes_in_the_cache_are_downloaded_again(hub: HubServer, model_folder: Path) -> None:
    hub.add(REPO, model_folder)
    path = open_source(REPO).fetch([LARGE])[LARGE]
    spoiled = bytes(len(path.read_bytes()))
    path.write_bytes(spoiled)
    os.utime(path, (1, 1))
    assert open_source(REPO).fetch([LARGE])[LARGE].read_bytes() != spoiled
    path.write_bytes(spoiled)
    os.utime(path, (1, 1))
    hub.stop()
    told = r"Offline: .* is damaged: its bytes are not those that the Hub names"
    with pytest.raises(HubError, match=told):
        open_source(REPO, local_files_only=True).fetch([LARGE])


def test_good_bytes_are_read_once(
    hub: HubServer, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, model_folder)
    open_source(REPO).fetch([SMALL, LARGE])
    blobs._good.clear()  # as in another process
    monkeypatch.setattr(blobs, "_digests", None)
    open_source(REPO).fetch([SMALL, LARGE])
    assert gets(hub) == 2


def test_a_cache_that_cannot_remember_is_read_again(
    hub: HubServer, model_folder: Path, tmp_path: Path
) -> None:
    hub.add(REPO, model_folder)
    notes = tmp_path / "hf-home" / "hub" / "dallemini"
    notes.parent.mkdir(parents=True)
    notes.write_text("in the way")
    first = open_source(REPO).fetch([LARGE])[LARGE]
    blobs._good.clear()
    assert open_source(REPO).fetch([LARGE])[LARGE] == first


@pytest.mark.parametrize("name", ["0" * 32, "model.safetensors"])
def test_names_that_are_no_digests_promise_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"any")
    assert blobs._is_right(tmp_path / name, tmp_path / "notes")


def test_every_digest_that_may_be_a_name_is_known(tmp_path: Path) -> None:
    content = b"some bytes"
    for name in (
        hashlib.sha256(content).hexdigest(),
        hashlib.sha1(content).hexdigest(),
        hashlib.sha1(b"blob 10\0" + content).hexdigest(),
    ):
        (tmp_path / name).write_bytes(content)
        assert blobs._is_right(tmp_path / name, tmp_path / "notes")
        (tmp_path / name).write_bytes(content[::-1])
        assert not blobs._is_right(tmp_path / name, tmp_path / "notes")


def test_a_blob_that_cannot_be_removed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / ("0" * 64)
    path.write_bytes(b"wrong")
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=r"cannot be removed \(Permission denied\)\. Delete it"):
        blobs.with_right_bytes(path, tmp_path / "notes", name="a", download=lambda: path)


def test_a_model_with_wrong_bytes_loads_in_the_end(hub: HubServer, tmp_path: Path) -> None:
    model = tiny_transformer()
    model.save_pretrained(tmp_path / "model")
    hub.add(REPO, tmp_path / "model")
    hub.fail("GET /blobs/", spoil=True, times=1)
    loaded = Transformer.from_pretrained(REPO)
    assert all(
        torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items()
    )
