"""Pages of the API reference, one for each public class, made before Sphinx looks for pages.

What is public is what a package names in its `__all__`; single names of other modules are added
here. A package that no chapter has gets one of its own. A name is shown by the shortest path that
it can be imported by.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

import dallemini
from dallemini import hub

FOREIGN = "Module, Protocol, Generic, tuple, list, dict, object"  # nothing of theirs is repeated
PAGES = Path(__file__).parents[1] / "api"


@dataclass(frozen=True)
class Chapter:
    """A chapter of the reference: what it is about, and the modules or names that it has."""

    title: str
    about: str
    places: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its page."""
        return re.sub(r"\W+", "-", self.title.lower())


CHAPTERS = (
    Chapter(
        "Pipeline",
        "Text in, pictures out: the class most programs need, and what its calls return.",
        (
            *("dallemini.pipeline", "dallemini.Pipeline", "dallemini.GenerationOutput"),
            *("dallemini.GenerationStep", "dallemini.GenerationProgress", "dallemini.Detection"),
            *("dallemini.Inpaint", "dallemini.Vary", "dallemini.Outpaint"),
            *("dallemini.C2PASigner", "dallemini.pipeline.metadata.PictureMetadata"),
            "dallemini.models.adapters.AdapterUse",
            *("dallemini.pipeline.metadata.Drawn", "dallemini.pipeline.metadata.read_metadata"),
            *("dallemini.pipeline.origin.stamp", "dallemini.pipeline.inspecting.Inspection"),
            *("dallemini.pipeline.inspecting.Layer", "dallemini.pipeline.signing.Credentials"),
            *("dallemini.pipeline.inspecting.inspect_picture", "dallemini.pipeline.bulk"),
        ),
    ),
    Chapter("Text", "From a prompt to token ids.", ("dallemini.text", "dallemini.Tokenizer")),
    Chapter(
        "Generation",
        "Settings, samplers, and the loop that generates tokens.",
        ("dallemini.generation", "dallemini.generation.completion.complete_tokens"),
    ),
    Chapter(
        "Models",
        "The networks, as PyTorch modules; int8 weights and LoRA.",
        (
            *("dallemini.models", "dallemini.models.pretrained.Loadable"),
            *("dallemini.models.pretrained.PretrainedModule", "dallemini.models.int8.Int8Linear"),
            *("dallemini.models.int8.quantize_weight", "dallemini.models.lora"),
        ),
    ),
    Chapter("Scorers", "What ranks pictures.", ("dallemini.scorer",)),
    Chapter(
        "Pictures",
        "Between picture files, PIL images and tensors.",
        (
            *("dallemini.images.image_to_tensor", "dallemini.images.tensor_to_images"),
            *("dallemini.images.read_image", "dallemini.images.read_mask"),
            *("dallemini.images.open_image",),
            *("dallemini.images.fit_image", "dallemini.images.PictureError"),
            "dallemini.sheets.make_grid",
        ),
    ),
    Chapter(
        "Checkpoints and the Hub",
        "Reading any released file, and where files come from.",
        ("dallemini.hub", "dallemini.checkpoints"),
    ),
    Chapter(
        "Training",
        "Recipes from files to a saved model, the loop below them, and its tasks.",
        (
            *("dallemini.training", "dallemini.training.recipes"),
            "dallemini.training.perceptual",
            "dallemini.training.curves.plot_curves",
        ),
    ),
    Chapter(
        "Data",
        "Pictures with captions, and pictures as tokens.",
        ("dallemini.data", "dallemini.data.sources"),
    ),
    Chapter("Evaluation", "Measures and reports.", ("dallemini.evaluation",)),
    Chapter(
        "Serving",
        "The HTTP service, and the worker that generates for many clients at once.",
        (
            *("dallemini.app.service.create_service", "dallemini.app.service.Service"),
            *("dallemini.app.config.ServiceConfig", "dallemini.app.batcher"),
        ),
    ),
    Chapter(
        "Configurations, errors, testing",
        "What all parts share, and tiny parts for your own tests.",
        (
            *("dallemini.config.Config", "dallemini.errors", "dallemini.testing"),
            *("dallemini.cli", "dallemini.kernels.threads.count_threads"),
            "dallemini.kernels.threads.available_cores",
        ),
    ),
)


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a module offers: its `__all__`, else what is defined in it."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def shortest_path(module: str, name: str, value: Any) -> str:
    """Return the shortest path that the same thing can be imported by."""
    words = module.split(".")
    for count in range(1, len(words)):
        above = importlib.import_module(".".join(words[:count]))
        if name in getattr(above, "__all__", ()) and getattr(above, name) is value:
            return f"{above.__name__}.{name}"
    return f"{module}.{name}"


def names_at(place: str) -> Iterator[tuple[str, str, Any]]:
    """Yield module, name and value of all that a module offers, or of the one name."""
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError:
        path, _, name = place.rpartition(".")
        yield path, name, getattr(importlib.import_module(path), name)
    else:
        for name in public_names(module):
            yield place, name, getattr(module, name)


def find_names(chapter: Chapter) -> dict[str, Any]:
    """Return what a chapter documents, by path; the names of dallemini itself come first."""
    found: dict[str, Any] = {}
    for place in chapter.places:
        for module, name, value in names_at(place):
            if not inspect.ismodule(value):
                found.setdefault(shortest_path(module, name, value), value)
    return dict(sorted(found.items(), key=lambda item: (item[0].count("."), item[0])))


@functools.cache
def chapters() -> dict[Chapter, dict[str, Any]]:
    """Return all chapters with what they have; each thing is in the first that wants it."""
    found: dict[Chapter, dict[str, Any]] = {}
    seen: set[str] = set()
    for chapter in (*CHAPTERS, *map(_chapter_of, _packages())):
        names = {path: value for path, value in find_names(chapter).items() if path not in seen}
        seen |= set(names)
        if names or chapter in CHAPTERS:
            found[chapter] = names
    return found


def _packages() -> Iterator[ModuleType]:
    """Yield the packages and modules right below dallemini that say what is public in them."""
    taken = {place for chapter in CHAPTERS for place in chapter.places}
    for found in pkgutil.iter_modules(dallemini.__path__, "dallemini."):
        inside = found.name.rpartition(".")[2]
        if found.ispkg and not inside.startswith("_") and found.name not in taken:
            package = importlib.import_module(found.name)
            if hasattr(package, "__all__"):
                yield package


def _chapter_of(package: ModuleType) -> Chapter:
    title = package.__name__.rpartition(".")[2].capitalize()
    return Chapter(title, first_sentence(package), (package.__name__,))


@functools.cache
def documented() -> dict[str, Any]:
    """Return everything that the reference has, by path."""
    return {path: value for names in chapters().values() for path, value in names.items()}


def write(path: Path, text: str) -> None:
    """Write a file unless it holds the same already, so that Sphinx reads only what changed."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def first_sentence(value: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(value) or "").partition("\n")[0]


def class_page(path: str, value: Any) -> str:
    """Return the page of a class, with what it inherits from classes of this library."""
    options = []
    if not issubclass(value, BaseException):
        options = ["   :members:", f"   :inherited-members: {FOREIGN}"]
    if any(base in documented().values() for base in value.__bases__):
        options.append("   :show-inheritance:")
    lines = [f"# {value.__name__}", "", "```{eval-rst}", f".. autoclass:: {path}", *options, "```"]
    return "\n".join([*lines, ""])


def chapter_page(chapter: Chapter, names: dict[str, Any]) -> str:
    """Return the page of a chapter: a table of its classes, then its functions and constants."""
    classes = {path: value for path, value in names.items() if inspect.isclass(value)}
    lines = [f"# {chapter.title}", "", chapter.about, ""]
    if classes:
        lines += ["| class | |", "|---|---|"]
        lines += [
            f"| {{py:class}}`{path}` | {first_sentence(value).replace('|', chr(92) + '|')} |"
            for path, value in classes.items()
        ]
        inside = [f"classes/{path}" for path in classes]
        lines += ["", "```{toctree}", ":hidden:", "", *inside, "```", ""]
    others = {path: value for path, value in names.items() if path not in classes}
    if others:
        lines += ["## Functions and names", "", "```{eval-rst}"]
        for path, value in others.items():
            lines += _function(path) if inspect.isroutine(value) else _data(path, value)
        lines += ["```", ""]
    return "\n".join(lines)


def _function(path: str) -> list[str]:
    return [f".. autofunction:: {path}", ""]


def _data(path: str, value: Any) -> list[str]:
    """Describe a value by itself: the docstring that Python finds is that of its type."""
    shown = repr(value)
    return [f".. py:data:: {path}", *([f"   :value: {shown}"] if len(shown) < 90 else []), ""]


def write_pages() -> None:
    """Write the pages of all chapters, and remove those of what is no longer there."""
    (PAGES / "classes").mkdir(parents=True, exist_ok=True)
    listed = [f"api/{chapter.name}" for chapter in chapters()]
    toctree = ["```{toctree}", ":maxdepth: 2", "", *listed, "```", ""]
    write(PAGES / "chapters.inc", "\n".join(toctree))
    kept = set()
    for chapter, names in chapters().items():
        pages = {PAGES / f"{chapter.name}.md": chapter_page(chapter, names)}
        for path, value in names.items():
            if inspect.isclass(value):
                pages[PAGES / "classes" / f"{path}.md"] = class_page(path, value)
        for page, text in pages.items():
            write(page, text)
        kept |= set(pages)
    for stale in set(PAGES.rglob("*.md")) - kept:
        stale.unlink()


def _show_default(  # as a user would write it
    app: Sphinx, kind: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    if not signature or "BUNDLED_MODEL" not in signature:
        return None
    return re.sub(r"(hub\.)?BUNDLED_MODEL", repr(hub.BUNDLED_MODEL), signature), returns


def _show_bases(app: Sphinx, name: str, value: Any, options: Any, bases: list[Any]) -> None:
    known = [base for base in bases if base in documented().values()]
    bases[:] = known or bases  # the others have no page


def _before_reading(app: Sphinx, config: Config) -> None:
    write_pages()


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx to have the pages written first."""
    app.connect("config-inited", _before_reading)
    app.connect("autodoc-process-signature", _show_default)
    app.connect("autodoc-process-bases", _show_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
