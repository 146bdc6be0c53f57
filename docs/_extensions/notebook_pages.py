"""The notebooks of `examples` become pages: they are copied into `docs/notebooks` first.

Pages link to `../examples/NAME.ipynb`, which a code host shows; on the site that is the page.
"""

from __future__ import annotations

import re
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


def _link_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = re.sub(r"\(\.\./examples/(\w+)\.ipynb\)", r"(notebooks/\1.ipynb)", source[0])


def _before_reading(app: Sphinx, config: Config) -> None:
    copy_notebooks()


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx to have the notebooks copied first."""
    app.connect("config-inited", _before_reading)
    app.connect("source-read", _link_to_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
