"""Sphinx settings: Markdown pages, notebooks, and a reference made from docstrings and parsers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from dallemini import __version__

project = "dallemini"
author = "the dallemini authors"
copyright = "2026, the dallemini authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "api_pages",  # these are in docs/_extensions
    "cli_reference",
    "notebook_pages",
    "source_links",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "**.ipynb_checkpoints", "**/card.md"]  # the last: sections of cards

# Notebooks are stored with their outputs, which a test makes anew; building runs nothing.
nb_execution_mode = "off"
nb_merge_streams = True

html_theme = "furo"
html_title = "dallemini"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}

smartquotes_action = "D"  # dashes in lists of parameters; quotes stay as they are typed

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"special-members": "__call__"}
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Links to other projects work from lists of the few names that are needed, as a build must not ask
# the network.
intersphinx_mapping = {
    name: (address, f"inventories/{name}.txt")
    for name, address in {
        "python": "https://docs.python.org/3",
        "torch": "https://docs.pytorch.org/docs/stable",
        "pillow": "https://pillow.readthedocs.io/en/stable",
        "numpy": "https://numpy.org/doc/stable",
    }.items()
}
