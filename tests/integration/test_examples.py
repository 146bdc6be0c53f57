"""The scripts and notebooks in examples/ run as they are, offline.

They draw with a quick stand-in for the bundled model, and with that itself when marked `slow`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from dallemini.hub import source
from patience import patience
from quick_model import save_quick_model
from refresh_docs import MOST_BYTES, Entry, gallery, read_notebook, run_notebook

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = {
    "draw.py": ["grid.png", "best of rocket.png"],
    "editing.py": ["edit-inpaint.png", "edit-outpaint.png", "edit-panorama.png", "edit-tile.png"],
    "guidance.py": ["guidance-negative.png", "guidance-blend.png", "guidance-ranking.png"],
    "parts_from_different_places.py": ["reddest first.png", "vqgan/model.safetensors"],
    "training_cost.py": ["training cost.md"],
    "own_sampler.py": ["min-p 0.02.png", "min-p 0.2.png", "min-p 1.0.png"],
}


STAND_IN = """
from pathlib import Path
from dallemini.hub import source
source._bundled_folder = lambda: Path({!r})
"""


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


RUN_ELSEWHERE = {
    "make_test_certificate.py",  # by tests/unit/pipeline/test_origin.py
    "picture_sets.py",  # below, on packages of a few pictures
}


def test_every_script_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} - RUN_ELSEWHERE == set(FILES)


def test_pictures_of_packages_become_a_set_with_captions(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    script = runpy.run_path(str(EXAMPLES / "picture_sets.py"))
    (tmp_path / "stamps").mkdir()
    for number in range(82):
        path = tmp_path / "stamps" / f"{number:02}.png"
        Image.new("RGBA", (20, 20), (255, 0, 0, 255 * (number % 2))).save(path)
        path.with_suffix(".txt").write_text(f"Stamp {number}.\nde.utf8=Stempel\n")
    found = list(script["stamps"](tmp_path / "stamps"))
    assert [part for part, *_ in found].count("held-out") == 80
    assert sorted(caption for *_, caption in found) == sorted(f"Stamp {n}" for n in range(82))
    shown = {image.getpixel((0, 0)) for _, _, image, _ in found}
    assert shown == {(255, 0, 0), (255, 255, 255)}, "what is transparent is white"

    square = {"body": '<path fill="#00f" d="M0 0h72v72H0z"/>'}
    icons = {"blue-square": square, "flag-x": square, "hand-dark-skin-tone": square}
    listed = json.dumps({"width": 72, "height": 72, "icons": icons})
    (tmp_path / "icons.json").write_text(listed)
    ((_, name, image, caption),) = script["openmoji"](tmp_path)
    assert (name, caption) == ("blue-square", "blue square, openmoji")
    assert (image.size, image.getpixel((9, 9))) == ((320, 320), (0, 0, 255))


@pytest.fixture(scope="module")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_quick_model(tmp_path_factory.mktemp("quick") / "emoji")


@pytest.mark.thorough
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
        folder = quick_model
        if name == "editing.py":  # its masks are drawn for small tokens
            folder = save_quick_model(tmp_path / "quick", side=10)
        monkeypatch.setattr(source, "_bundled_folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    few = ["1"] if name in ("editing.py", "guidance.py") else []  # one picture of each kind
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
@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "pictures"), [("quickstart", 6), ("editing", 7), ("train_your_own", 4)]
)
def test_notebook_runs_from_top_to_bottom(
    name: str, pictures: int, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIP_STEPS", "2")
    first = ""
    if quick:
        model = save_quick_model(tmp_path / "quick", side=10 if name == "editing" else 5)
        first = STAND_IN.format(str(model))
    notebook = run_notebook(
        EXAMPLES / f"{name}.ipynb", tmp_path, timeout=patience(300), first=first
    )
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in shown) == pictures


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_stored_with_small_pictures(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    code = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    pictures = [o.data["image/jpeg"] for o in outputs if "image/jpeg" in o.get("data", {})]
    assert len(pictures) >= 4
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert max(image.size) >= 160
            assert np.asarray(image.convert("RGB")).min() < 128  # there is something on it


@pytest.mark.slow  # a minute, mostly for drawing; a few values differ by the number of threads
def test_gallery_is_what_its_commands_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries = gallery()
    assert len(entries) > 20
    for entry in entries:
        compare(entry)


@pytest.mark.thorough
def test_gallery_begins_with_what_its_commands_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for entry in gallery()[:3]:
        compare(entry)


def compare(entry: Entry) -> None:
    """Draw a picture of the gallery anew: it is the stored one, but for what WebP leaves out."""
    with Image.open(entry.picture) as stored, Image.open(entry.draw()) as drawn:
        assert drawn.size == stored.size, entry.command
        difference = ImageChops.difference(drawn.convert("RGB"), stored.convert("RGB"))
        assert np.asarray(difference).mean() <= 2.5, entry.command  # of another seed, 10 and more
