"""Make anew what the documentation shows of the bundled model: the gallery and the notebooks.

    python tests/refresh_docs.py            # all; minutes
    python tests/refresh_docs.py gallery
    python tests/refresh_docs.py notebooks
    python tests/refresh_docs.py editing    # one notebook

To be run when the bundled model or a notebook changes; look at the result. A test compares the
gallery with what its commands draw, and runs the notebooks.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from dallemini import Pipeline
from dallemini.cli import main
from dallemini.sheets import make_grid

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery.md"
STREAM = ROOT / "docs" / "images" / "stream.png"
NOTEBOOKS = ROOT / "examples"
ENTRY = re.compile(r"^!\[[^\]]+\]\((images/gallery/[^)]+)\)\n`(dallemini [^`]+)`$", re.MULTILINE)
WIDEST = 480  # pixels of a picture in a notebook
MOST_BYTES = 300_000  # of a notebook


@dataclass(frozen=True)
class Entry:
    """A picture of the gallery, and the command that draws it."""

    picture: Path
    command: str

    def draw(self) -> Path:
        """Run the command in the current folder, and return the file that it names last."""
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            code = main(shlex.split(self.command)[1:])
        if code:
            raise RuntimeError(f"{self.command} ended with {code}")
        return Path(shown.getvalue().splitlines()[-1])


def gallery() -> list[Entry]:
    """Read the page: each picture stands above its command."""
    found = ENTRY.findall(GALLERY.read_text(encoding="utf-8"))
    return [Entry(GALLERY.parent / picture, command) for picture, command in found]


def draw_gallery() -> None:
    """Draw every picture of the gallery; later commands find the files of earlier ones."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for entry in gallery():
            entry.picture.parent.mkdir(parents=True, exist_ok=True)
            keep_small(entry.draw(), entry.picture)
            print(entry.picture.relative_to(ROOT), entry.picture.stat().st_size)


def keep_small(drawn: Path, picture: Path) -> None:
    """Store a PNG as a WebP file, a tenth as large, that says as well that a model drew it."""
    with Image.open(drawn) as image:
        small = image.convert("RGB")
        small.save(picture, "WEBP", quality=90, method=6, xmp=image.info.get("xmp", b""))


def draw_stream() -> None:
    """Draw the strip of a picture on its way, for the page that says how it works."""
    steps = Pipeline.from_pretrained().stream("a red apple", every=20, seed=0, candidates=1)
    pictures = [step.images[0] for step in steps if step.position]
    make_grid(pictures[:5], columns=5).save(STREAM, optimize=True)
    print(STREAM.relative_to(ROOT), len(pictures), STREAM.stat().st_size)


def all_notebooks() -> list[Path]:
    """Return the notebooks of the examples."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def read_notebook(path: Path) -> Any:
    """Return a notebook as a mapping."""
    read: Any = nbformat.read  # not annotated
    return read(path, as_version=4)


def run_notebook(path: Path, folder: Path, *, timeout: float = 600, first: str = "") -> Any:
    """Run a notebook from top to bottom in a folder, after some code, and return its outputs."""
    notebook = read_notebook(path)
    if first:
        make: Any = nbformat.v4.new_code_cell  # not annotated
        notebook.cells.insert(0, make(first))
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=int(timeout), kernel_name="python3", resources=resources
    )
    client.execute()
    return notebook


def shrink(notebook: Any) -> None:
    """Keep what a reader needs of the outputs: pictures as small JPEG, and text without bars."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in map(_shrink_output, cell.outputs) if one is not None]


def _shrink_output(output: Any) -> Any:
    if output.output_type == "stream" and output.name == "stderr":
        return None
    data = output.get("data", {})
    if any(kind.startswith("application/vnd.jupyter.widget") for kind in data):
        return None
    picture = data.get("image/png") or data.get("image/jpeg")
    if picture:
        output.data = type(data)({"image/jpeg": _smaller(picture)})
        output.metadata = type(data)()
    return output


def _smaller(encoded: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        small = image.convert("RGB")
    small.thumbnail((WIDEST, WIDEST * 4))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80, optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def store_notebooks(names: Sequence[str] = ()) -> None:
    """Run these notebooks, or all, and store them with their outputs."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    write: Any = nbformat.write
    for path in [NOTEBOOKS / f"{name}.ipynb" for name in names] or all_notebooks():
        with tempfile.TemporaryDirectory() as folder:
            notebook = run_notebook(path, Path(folder), timeout=1800)
        shrink(notebook)
        write(notebook, path)
        print(path.relative_to(ROOT), path.stat().st_size)


if __name__ == "__main__":
    asked = sys.argv[1:] or ["gallery", "notebooks"]
    single = [path.stem for path in all_notebooks() if path.stem in asked]
    if "gallery" in asked:
        draw_gallery()
        draw_stream()
    if single or "notebooks" in asked:
        store_notebooks(single)
