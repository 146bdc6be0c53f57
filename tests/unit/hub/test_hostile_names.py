"""Names that lead out of a model's folder, or out of what can be a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dallemini.errors import InputError, MissingFileError, StorageError
from dallemini.hub.client import cache_folder
from dallemini.hub.source import _visible, open_source


@pytest.mark.parametrize("name", ["/x.msgpack", "a//x.json", "../x.json", "a/..", "a\\x", "a\0x"])
def test_listing_that_leads_elsewhere_is_not_followed(name: str) -> None:
    assert _visible([name, "config.json"]) == ("config.json",)


def test_cache_folder_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(InputError, match="is not the name of a folder: it has a zero byte"):
        cache_folder("a\0b")


def test_deleted_current_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(MissingFileError, match="seen from a folder that was deleted"):
        open_source("./model")
    with pytest.raises(StorageError, match="seen from a folder that was deleted"):
        cache_folder("cache")
