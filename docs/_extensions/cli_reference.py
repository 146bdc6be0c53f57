"""The directive `cli-reference`: every command of dallemini with its options, as its help says.

It asks the commands themselves, so there is no list to keep: a new command or option is on the page
as soon as it is in the program.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from dallemini.cli import main

BOX = re.compile(r"^╭─ (?P<title>.+?) ─+╮$")
ENTRY = re.compile(r"^(?P<form>\S.*?)(?: {2,}(?P<about>\S.*))?$")
PARTS = re.compile(r"\{([\w,]+)\}")


@dataclass
class Box:
    """A box of a help text: its title, what stands above its options, and the options."""

    title: str
    above: list[str] = field(default_factory=list)
    entries: list[tuple[str, list[str]]] = field(default_factory=list)


def help_of(*words: str) -> str:
    """Return what `dallemini WORDS --help` prints, a hundred columns wide."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # boxes are drawn where they can be
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"  # one column of boxes
    try:
        with contextlib.redirect_stdout(shown):
            code = main([*words, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    if code:
        raise RuntimeError(f"dallemini {' '.join(words)} --help ended with {code}")
    shown.seek(0)
    return shown.read()


def command_names() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command; those of `train` are one for each part."""
    for line in help_of().splitlines():
        found = re.match(r"^ {2}(\w+) {2,}\S", line)
        if not found:
            continue
        name = found[1]
        usage = help_of(name).splitlines()[0]
        parts = PARTS.search(usage) if name == "train" else None
        if parts is None:
            yield (name,)
        else:
            yield from ((name, part) for part in parts[1].split(","))


def read_help(text: str) -> tuple[str, str, list[Box]]:
    """Take a help text apart.

    Returns:
        the line of usage, the text below it, and the boxes.
    """
    head, boxes = [], []
    for line in text.splitlines():
        opened = BOX.match(line)
        if opened:
            boxes.append(Box(opened["title"]))
        elif line.startswith("│") and boxes:
            _add(boxes[-1], line[2:-1].rstrip())
        elif not line.startswith(("╰", "│")):
            head.append(line)
    usage, _, about = "\n".join(head).partition("\n\n")
    return usage.removeprefix("usage: "), about.strip(), boxes


def _add(box: Box, line: str) -> None:
    if set(line) == {"─"}:  # what stood above it is about the box
        box.above = [" ".join(form for form, _ in box.entries)]
        box.entries = []
    elif line.startswith(" "):
        box.entries[-1][1].append(line.strip())
    elif line:
        entry = ENTRY.match(line)
        assert entry is not None
        box.entries.append((entry["form"], [entry["about"]] if entry["about"] else []))


def escape(text: str) -> str:
    """Keep signs of reStructuredText as they are, and mark code and options as code."""
    text = re.sub(r"(?<![\w`-])(--[a-z][\w.-]*[a-z])(?![\w`-])", r"`\1`", text)
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"`{piece}`" if piece.startswith("`") else re.sub(r"([\\*_|`])", r"\\\1", piece)
        for piece in pieces
    )


class CLIReference(SphinxDirective):
    """Render every command."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each command."""
        return [self._command(words) for words in command_names()]

    def _command(self, words: tuple[str, ...]) -> nodes.section:
        usage, about, boxes = read_help(help_of(*words))
        name = " ".join(("dallemini", *words))
        section = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
        section += nodes.title("", name)
        lines = [f".. program:: {name}", "", escape(about), "", ".. code-block:: text", ""]
        lines += [f"   {line.strip()}" for line in usage.splitlines()] + [""]
        for box in boxes:
            if box.title not in ("options", "positional arguments"):
                lines += [f".. rubric:: {escape(box.title.capitalize())}", ""]
            lines += [escape(text) for text in box.above] + [""]
            for form, text in box.entries:
                if form != "-h, --help":
                    lines += [f".. option:: {form}", "", f"   {escape(' '.join(text))}", ""]
        flat = [piece for line in lines for piece in line.split("\n")]
        self.state.nested_parse(StringList(flat, name), 0, section)
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("cli-reference", CLIReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
