"""The notebooks of `examples` become pages: they are copied into `docs/notebooks` first."""

from __future__ import annotations

from pathlib import Path

from api_pages import write
from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).parents[2]


def copy_notebooks() -> None:
    """Copy what has changed, and remove what is gone."""
    pages = ROOT / "docs" / "notebooks"
    pages.mkdir(exist_ok=True)
    names = {path.name for path in (ROOT / "examples").glob("*.ipynb")}
    for name in names:
        write(pages / name, (ROOT / "examples" / name).read_text(encoding="utf-8"))
    for stale in pages.glob("*.ipynb"):
        if stale.name not in names:
            stale.unlink()


def _before_reading(app: Sphinx, config: Config) -> None:
    copy_notebooks()


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx to have the notebooks copied first."""
    app.connect("config-inited", _before_reading)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
