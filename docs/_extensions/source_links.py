"""Links from source pages back to the reference lead to the names that are shown there.

viewcode takes all names of a source file to be shown under one module; here one file may have
`dallemini.C2PASigner` and `dallemini.pipeline.signing.Credentials`.
"""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath
from typing import Any

from sphinx.application import Sphinx

BACK = re.compile(r'(<a class="viewcode-back" href=")([^"#]+)\.html#([\w.]+)(")')


def mend(body: str, page: str, places: dict[str, str]) -> str:
    """Correct the anchors of the links back.

    Args:
        body: of a source page.
        page: its name.
        places: the name of the page of each documented name.
    """

    def correct(found: re.Match[str]) -> str:
        before, target, anchor, after = found.groups()
        document = normpath(join(dirname(page), target))
        names = [name for name, place in places.items() if place == document]
        words = anchor.split(".")
        for count in range(len(words)):
            ending = "." + ".".join(words[count:])
            right = [name for name in names if f".{name}".endswith(ending)]
            if right:
                return f"{before}{target}.html#{min(right, key=len)}{after}"
        return found[0]

    return BACK.sub(correct, body)


def _on_page(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    if page.startswith("_modules/") and "body" in context:
        objects = app.env.domains["py"].data["objects"]
        places = {name: entry.docname for name, entry in objects.items() if not entry.aliased}
        context["body"] = mend(context["body"], page, places)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx to have source pages corrected."""
    app.connect("html-page-context", _on_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
