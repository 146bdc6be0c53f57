"""The scripts and the notebook in examples/ run as they are, offline.

Scripts draw with a quick stand-in for the bundled model, and with that itself when marked `slow`.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from dallemini.hub import source
from patience import patience
from quick_model import save_quick_model

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
FILES = {
    "draw.py": ["grid.png", "best of rocket.png"],
    "editing.py": ["edit-inpaint.png", "edit-outpaint.png", "edit-panorama.png", "edit-tile.png"],
    "parts_from_different_places.py": ["reddest first.png", "vqgan/model.safetensors"],
    "training_cost.py": ["training cost.md"],
    "own_sampler.py": ["min-p 0.02.png", "min-p 0.2.png", "min-p 1.0.png"],
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


def read_notebook() -> Any:
    read: Any = nbformat.read  # not annotated
    return read(NOTEBOOK, as_version=4)


RUN_ELSEWHERE = {"make_test_certificate.py"}  # by tests/unit/pipeline/test_origin.py


def test_every_script_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} - RUN_ELSEWHERE == set(FILES)


@pytest.fixture(scope="module")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_quick_model(tmp_path_factory.mktemp("quick") / "emoji", side=10)


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_script_writes_its_pictures(
    name: str,
    quick: bool,
    quick_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if quick:
        monkeypatch.setattr(source, "_bundled_folder", lambda: quick_model)
    monkeypatch.chdir(tmp_path)
    few = ["1"] if name == "editing.py" else []  # one picture of each kind
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path / "made"), *few])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    for made in FILES[name]:
        path = tmp_path / "made" / made
        assert path.is_file(), sorted(tmp_path.rglob("*"))
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
    assert "the same: False" not in capsys.readouterr().out


# The kernel's own packages warn about event loops and sockets.
@pytest.mark.filterwarnings("ignore")
def test_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = read_notebook()
    client = NotebookClient(
        notebook,
        timeout=int(patience(300)),
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 4
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8


def test_notebook_is_stored_without_outputs() -> None:
    notebook = read_notebook()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
