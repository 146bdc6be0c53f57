"""`dallemini release`: what it writes into the folder of a saved pipeline, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 100}


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "mine"))


def test_card_sums_and_contents_are_written(run: Any, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"data": "emoji", "names": {"first": FIGURE}}))
    result = run("release", folder, "--evaluation", report, "--license", "mit", "--dataset", "mine")
    assert result.code == 0, result.err
    written = ["README.md", "SHA256SUMS", "contents.cdx.json"]
    assert result.lines == [str(folder / name) for name in written]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'license: "mit"' in card
    assert '"value": 0.5' in card
    assert run("release", folder, "--check").out.endswith("files are as they were released.\n")
    (folder / "vqgan" / "config.json").write_text("{}")
    result = run("release", folder, "--check")
    assert (result.code, "has other bytes than when it was released" in result.err) == (1, True)


def test_what_is_no_pipeline_is_refused(run: Any, tmp_path: Path) -> None:
    result = run("release", tmp_path)
    assert (result.code, "holds no model_index.json" in result.err) == (1, True)
