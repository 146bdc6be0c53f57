"""The site is whole: every public name, command and option is on it, and no link of it is dead."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import dallemini
from patience import patience

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    monkeypatch.syspath_prepend(str(DOCS / "_extensions"))


@pytest.fixture
def reference(extensions: None) -> Any:
    return importlib.import_module("api_pages")


def public_packages() -> list[str]:
    """Packages that say what is public in them; `dallemini` is the first."""
    found = ["dallemini"]
    for module in pkgutil.walk_packages(dallemini.__path__, "dallemini."):
        if module.ispkg and "._" not in module.name:
            found.append(module.name)
    return found


def test_every_public_name_is_in_the_reference(reference: Any) -> None:
    shown = reference.documented()
    missing = []
    for package in public_packages():
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            path = reference.shortest_path(package, name, value)
            if path not in shown and name != "__version__":
                missing.append(path)
    assert not missing, "add them to CHAPTERS in docs/_extensions/api_pages.py"


def test_names_that_pages_link_to_are_in_the_reference(reference: Any) -> None:
    """Sphinx shows a name that it does not know as it is, and says nothing."""
    shown = reference.documented()
    real = [v for v in shown.values() if inspect.isclass(v) or inspect.isroutine(v)]
    canonical = {f"{value.__module__}.{value.__qualname__}" for value in real}
    role = re.compile(r"\{py:(?:class|func)\}`(?:[^`<]*<)?~?([\w.]+)>?`")
    for page in sorted(DOCS.glob("*.md")):
        for name in role.findall(page.read_text(encoding="utf-8")):
            assert name in shown or name in canonical, f"{page.name}: {name}"


def test_a_package_without_a_chapter_gets_one(
    reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [chapter for chapter in reference.CHAPTERS if chapter.title != "Evaluation"]
    monkeypatch.setattr(reference, "CHAPTERS", tuple(kept))
    names = reference.chapters.__wrapped__()
    added = [chapter for chapter in names if chapter not in kept]
    (evaluation,) = (chapter for chapter in added if chapter.name == "evaluation")
    assert "dallemini.evaluation.evaluate" in names[evaluation]


def test_names_are_shown_as_users_import_them(reference: Any) -> None:
    shown = set(reference.documented())
    assert {"dallemini.Pipeline", "dallemini.VQGAN", "dallemini.generation.Slots"} <= shown
    assert not [path for path in shown if path.startswith("dallemini.pipeline.pipeline")]


def test_pages_of_classes_that_are_gone_are_removed(
    reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "PAGES", tmp_path)
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "dallemini.Gone.md").write_text("# Gone")
    reference.write_pages()
    names = {path.name for path in tmp_path.rglob("*")}
    listed = (tmp_path / "chapters.inc").read_text().splitlines()
    assert {f"api/{chapter.name}" for chapter in reference.chapters()} <= set(listed)
    assert "dallemini.Gone.md" not in names
    assert {"pipeline.md", "dallemini.Pipeline.md", "dallemini.errors.HubError.md"} <= names


@pytest.mark.thorough
def test_every_option_of_every_command_is_in_the_reference(
    extensions: None,
) -> None:
    cli = importlib.import_module("cli_reference")
    commands = list(cli.command_names())
    assert {("generate",), ("train", "vqgan")} <= set(commands)
    for words in commands:
        _, about, boxes = cli.read_help(cli.help_of(*words))
        shown = " ".join(form for box in boxes for form, _ in box.entries)
        flags = re.findall(r"^│ (--?[a-z][\w.-]*)", cli.help_of(*words), re.MULTILINE)
        assert about, words
        assert flags, words
        assert [flag for flag in flags if flag not in shown.replace(",", "").split()] == []
        told = [text for box in boxes for _, text in box.entries]
        assert all(" ".join(text).strip() for text in told), words


def test_names_of_other_projects_exist() -> None:
    """The lists of links are written by hand: a name that is misspelt links to nothing."""
    for path in (DOCS / "inventories").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines()[3:]:
            name = line.split()[0]
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module or "builtins"), attribute), name


class _Links(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append(value)
            elif name == "id" and value:
                self.places.add(value)


def read_links(page: Path) -> _Links:
    found = _Links()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def dead_links(site: Path) -> list[str]:
    """Return the links inside a site that lead nowhere."""
    pages = {path: read_links(path) for path in sorted(site.rglob("*.html"))}
    dead = []
    for page, links in pages.items():
        for target in links.targets:
            if re.match(r"[a-z]+:|//", target):
                continue
            path, _, place = target.partition("#")
            file = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
            lost = place and file in pages and unquote(place) not in pages[file].places
            if not file.exists() or lost:
                dead.append(f"{page.relative_to(site)}: {target}")
    return dead


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<a href='b.html#x'>1</a><a href='#top'>2</a><img src='c.png'>"
    )
    (tmp_path / "b.html").write_text("<p id='x'><a href='a.html#gone'>3</a><a href='https://x.y'>4")
    assert dead_links(tmp_path) == ["a.html: #top", "a.html: c.png", "b.html: a.html#gone"]


def test_links_from_source_pages_lead_to_the_shown_names(extensions: None) -> None:
    mend = importlib.import_module("source_links").mend
    places = {"pkg.sign.Card": "api/card", "pkg.sign.Card.read": "api/card", "pkg.Card": "api/b"}
    link = '<a class="viewcode-back" href="../api/card.html#{}">'
    for wrong, right in {
        "pkg.Card": "pkg.sign.Card",
        "pkg.Card.read": "pkg.sign.Card.read",
        "pkg.sign.Card": "pkg.sign.Card",
        "pkg.gone": "pkg.gone",
    }.items():
        assert mend(link.format(wrong), "_modules/sign", places) == link.format(right)


@pytest.mark.slow  # most of the time goes into the colours of the code
def test_the_site_is_built_without_warnings_and_no_link_is_dead(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=patience(300)
    )
    assert done.returncode == 0, done.stderr
    assert dead_links(tmp_path) == []
    assert len(list(tmp_path.glob("api/classes/dallemini.*.html"))) > 80
    notebook = (tmp_path / "notebooks" / "quickstart.html").read_text(encoding="utf-8")
    assert notebook.count("<img") >= 4
