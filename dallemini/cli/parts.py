"""What is in a source: the parts of a pipeline, a checkpoint in a foreign format, or one component.

Looks at file names and configurations; weights are described only where those leave a doubt.
"""

from __future__ import annotations

import contextlib

from .. import checkpoints, hub
from ..checkpoints import Component, LazyCheckpoint, refuse_older_model
from ..checkpoints.formats import COMPONENTS, fetch_json
from ..errors import CheckpointError, MissingFileError, UnsupportedModelError
from ..pipeline.parts import INDEX_NAME, PartsLoader
from ..text.vocabulary import find_files
from .options import Location

PARTS = ("tokenizer", "transformer", "vqgan", "scorer")
COMPONENT_OF: dict[str, Component] = {"transformer": "transformer", "vqgan": "vqgan"}
COMPONENT_OF["scorer"] = "clip"
_PART_OF = {component: part for part, component in COMPONENT_OF.items()}


def find_parts(location: Location) -> dict[str, Location]:
    """Return the parts that a source holds and where, in the order of `PARTS`.

    Raises:
        MissingFileError: it holds none.
        UnsupportedModelError: it holds a model of another architecture.
        CheckpointError: its files do not tell what they are.
        HubError: the Hub could not be reached or refused.
    """
    source = location.open()
    if INDEX_NAME in source.files():
        index = loader_of(location).index or {}
        named = [part for part in PARTS if index.get(part) is not None]
        return {part: location.inside(part) for part in named}
    found = [_PART_OF[component] for component in _components(source)]
    if _has_tokenizer(source, found):
        found.append("tokenizer")
    if not found:
        raise _unknown(source)
    return {part: location for part in PARTS if part in found}


def loader_of(location: Location) -> PartsLoader:
    """Return the loader that `Pipeline.from_pretrained` uses."""
    where = location.where
    return PartsLoader(
        location.name,
        where.revision,
        where.cache_dir,
        where.offline,
        token=None,
        device="cpu",
        dtype=None,
        subfolder=location.subfolder,
    )


def describe(source: hub.Source, part: str) -> tuple[str, LazyCheckpoint]:
    """Return the format of a part with weights and its tensors, still unread."""
    return checkpoints.describe(source, component=COMPONENT_OF[part])


def format_of(source: hub.Source, part: str) -> str:
    """Return the name of the format of a part, without looking at its weights."""
    if _native_component(source) is not None:
        return "native"
    return _claims(source)[COMPONENT_OF[part]][0]


def _native_component(source: hub.Source) -> str | None:
    mark = (fetch_json(source) or {}).get("dallemini")
    return str(mark.get("component")) if isinstance(mark, dict) else None


def _components(source: hub.Source) -> list[Component]:
    """Return which components a source holds; where two claim one file, its tensors decide."""
    native = _native_component(source)
    if native is not None:
        return [component for component in COMPONENTS if component == native]
    claims = {component: set(files) for component, (_, files) in _claims(source).items()}
    disputed = [
        component
        for component, files in claims.items()
        if any(files & others for other, others in claims.items() if other != component)
    ]
    settled = [component for component in claims if component not in disputed]
    return settled + _decide(source, disputed)


def _claims(source: hub.Source) -> dict[Component, tuple[str, tuple[str, ...]]]:
    """Return which foreign format could hold each component, and in which files.

    Raises:
        UnsupportedModelError: a format knows the model, but not its architecture.
        CheckpointError: no format takes it, and one said why.
    """
    claims: dict[Component, tuple[str, tuple[str, ...]]] = {}
    refusals: list[CheckpointError] = []
    for component in COMPONENTS:
        for entry in checkpoints.known_formats(component):
            try:
                files = entry.detect(source)
            except UnsupportedModelError:
                raise
            except CheckpointError as error:  # mostly: it belongs to another component
                refusals.append(error)
                continue
            if files and source.selected in (None, *files):
                claims[component] = (entry.name, files)
                break
    if refusals and not claims:
        raise refusals[0]
    return claims


def _decide(source: hub.Source, disputed: list[Component]) -> list[Component]:
    errors: list[CheckpointError] = []
    for component in disputed:
        try:
            checkpoints.describe(source, component=component)
        except CheckpointError as error:
            errors.append(error)
        else:
            return [component]
    if errors:
        raise errors[0]
    return []


def _has_tokenizer(source: hub.Source, found: list[str]) -> bool:
    """Whether there is a tokenizer for prompts; that of a CLIP model belongs to its scorer."""
    if _native_component(source) not in (None, "tokenizer"):
        return False
    if found and "transformer" not in found:
        return False
    with contextlib.suppress(MissingFileError):
        find_files(source)
        return True
    return False


def _unknown(source: hub.Source) -> MissingFileError:
    refuse_older_model(source.name, fetch_json(source))
    return MissingFileError(
        f"{source.selected or source.name} is not a pipeline, transformer, tokenizer, VQGAN or "
        f"CLIP in a known format. There lie: {hub.list_files(source.files())}."
    )
