"""Sphinx settings: Markdown pages, and an API reference made from the docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from dallemini import __version__

project = "dallemini"
author = "the dallemini authors"
copyright = "2026, the dallemini authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "**/card.md"]  # sections of model cards

html_theme = "furo"
html_title = f"dallemini {__version__}"

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "special-members": "__call__",
}
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
