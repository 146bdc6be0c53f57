"""`dallemini info`: what a checkpoint is, told from its configuration and its weights' headers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .. import hub
from ..errors import HubError, MissingFileError
from ..hub import BUNDLED_MODEL
from .options import OptionalText, Where

if TYPE_CHECKING:
    from ..text.knowledge import Knowledge

_TITLES = {"scorer": "scorer (CLIP)"}


@dataclass(frozen=True, kw_only=True)
class Info:
    """Tell what a checkpoint holds: parts, formats, sizes, settings. Weights are not loaded.

    Attributes:
        source: Hub id, local folder or file.
        subfolder: of a part inside the source.
        words: list everything that the model says it was taught, one a line, and nothing else.
        json: print one line of JSON.
        where: of the source.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")] = BUNDLED_MODEL
    subfolder: OptionalText = None
    words: bool = False
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    where: Where

    def run(self) -> None:
        """Print a block for each part.

        Raises:
            DalleMiniError: the source holds nothing known, it is damaged, or words were asked for
                and it does not list any.
        """
        source = self.where.open(self.source, self.subfolder)
        if self.words:
            self._print_words(source)
            return
        from ..pipeline.parts import Parts  # here, because torch takes seconds

        parts = {part: _facts(part, place) for part, place in Parts(source).all().items()}
        commit = source.revision_key
        if self.json:
            print(dumps({"source": self.source, "commit": commit, "parts": parts}))
            return
        print(f"{self.source} at commit {commit}" if commit else self.source)
        for part, facts in parts.items():
            print(f"\n{_TITLES.get(part, part)}")
            for key, value in _lines(facts):
                print(f"  {key:<11} {value}")

    def _print_words(self, source: hub.Source) -> None:
        """Print concepts, styles and words of control.

        Raises:
            MissingFileError: the source lists none.
        """
        from ..pipeline.parts import Parts
        from ..text.knowledge import KNOWLEDGE_FILE
        from ..text.tokenizer import Tokenizer

        place = Parts(source).all().get("tokenizer")
        knowledge = None if place is None else Tokenizer.from_pretrained(place).knowledge
        if knowledge is None:
            raise MissingFileError(
                f"{self.source} does not list what it was taught; only models with a "
                f"{KNOWLEDGE_FILE} do, such as the bundled one."
            )
        known = _words(knowledge)
        if self.json:
            print(dumps(known))
            return
        for heading, words in known.items():
            print("\n".join([f"# {heading}", *words]))


def _facts(part: str, source: hub.Source) -> dict[str, Any]:
    """Return what is known of a part, without loading its weights."""
    from .. import checkpoints
    from ..pipeline.parts import component_of, describe
    from ..text.tokenizer import Tokenizer

    if part == "tokenizer":
        tokenizer = Tokenizer.from_pretrained(source)
        facts = {"vocabulary": tokenizer.vocab_size, "config": tokenizer.config.to_dict()}
        return facts if tokenizer.knowledge is None else facts | _words(tokenizer.knowledge)
    component = component_of(part, source)
    try:
        name, checkpoint = describe(source.cached(), component)
    except (HubError, MissingFileError):
        claim = checkpoints.find_format(source, component)
        if source.revision_key is None or claim is None:
            raise
        return {"format": claim.format.name, "parameters": None, "bytes": None}
    tensors = checkpoint.tensors.values()
    return {
        "format": name,
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}),
        "config": checkpoint.config,
    }


def _words(knowledge: Knowledge) -> dict[str, list[str]]:
    return {
        "concepts": [*knowledge.concepts],
        "styles": [*knowledge.styles],
        "control": [*knowledge.control],
    }


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say the facts of a part to people."""
    if "vocabulary" in facts:
        yield "vocabulary", f"{facts['vocabulary']:,} ids"
    else:
        yield "format", facts["format"]
        if facts["parameters"] is None:
            yield "weights", "not in the cache; parameters and size are read once they are"
            return
        yield "parameters", f"{facts['parameters']:,}"
        yield "size", f"{_size(facts['bytes'])}, {' and '.join(facts['dtypes'])}"
    yield "config", ", ".join(f"{key}={value}" for key, value in facts["config"].items())
    if concepts := facts.get("concepts"):
        some = ", ".join(concepts[:: max(1, len(concepts) // 12)][:12])
        yield "concepts", f"{len(concepts):,}, such as {some} (--words lists all)"
        yield "styles", ", ".join(facts["styles"])
        yield "control", ", ".join(facts["control"])


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"
