"""`dallemini info`: what a checkpoint is, told from its configuration and its weights' headers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from .. import hub
from ..errors import HubError, MissingFileError
from ..hub import BUNDLED_MODEL
from .options import Where

if TYPE_CHECKING:
    import torch

    from ..text.knowledge import Knowledge

_TITLES = {"scorer": "scorer (CLIP)"}


@dataclass(frozen=True, kw_only=True)
class Info:
    """Tell what a checkpoint holds: parts, formats, sizes, settings. Weights are not loaded.

    Attributes:
        source: Hub id, local folder or file.
        subfolder: of a part inside the source.
        words: list everything that the model says it was taught, one a line, and nothing else.
        where: of the source.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")] = BUNDLED_MODEL
    subfolder: str | None = None
    words: bool = False
    where: Where

    def run(self) -> None:
        """Print a block for each part.

        Raises:
            DalleMiniError: the source holds nothing known, it is damaged, or words were asked for
                and it does not list any.
        """
        source = self.where.open(self.source, self.subfolder)
        if self.words:
            _print_words(self.source, source)
            return
        from ..pipeline.parts import Parts  # here, because torch takes seconds

        blocks = {part: _block(part, place) for part, place in Parts(source).all().items()}
        commit = source.revision_key
        print(f"{self.source} at commit {commit}" if commit else self.source)
        for part, lines in blocks.items():
            print(f"\n{_TITLES.get(part, part)}")
            for key, value in lines:
                print(f"  {key:<11} {value}")


def _block(part: str, source: hub.Source) -> list[tuple[str, str]]:
    from .. import checkpoints
    from ..pipeline.parts import component_of, describe
    from ..text.tokenizer import Tokenizer

    if part == "tokenizer":
        tokenizer = Tokenizer.from_pretrained(source)
        config = tokenizer.config.to_dict()
        lines = [("vocabulary", f"{tokenizer.vocab_size:,} ids"), ("config", _listed(config))]
        return lines if tokenizer.knowledge is None else [*lines, *_known(tokenizer.knowledge)]
    component = component_of(part, source)
    try:
        name, checkpoint = describe(source.cached(), component)
    except (HubError, MissingFileError):
        claim = checkpoints.find_format(source, component)
        if source.revision_key is None or claim is None:
            raise
        later = "not in the cache; parameters and size are read once they are"
        return [("format", claim.format.name), ("weights", later)]
    tensors = checkpoint.tensors.values()
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    return [
        ("format", name),
        ("parameters", f"{count:,}"),
        ("size", f"{_size(sum(t.nbytes for t in tensors))}, {_dtypes(t.dtype for t in tensors)}"),
        ("config", _listed(checkpoint.config)),
    ]


def _known(knowledge: Knowledge) -> list[tuple[str, str]]:
    some = ", ".join(knowledge.concepts[:: max(1, len(knowledge.concepts) // 12)][:12])
    return [
        ("concepts", f"{len(knowledge.concepts):,}, such as {some} (--words lists all)"),
        ("styles", ", ".join(knowledge.styles)),
        ("control", ", ".join(knowledge.control)),
    ]


def _print_words(name: str, source: hub.Source) -> None:
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
            f"{name} does not list what it was taught; only models with a {KNOWLEDGE_FILE} do, "
            "such as the bundled one."
        )
    for heading in ("concepts", "styles", "control"):
        print("\n".join([f"# {heading}", *getattr(knowledge, heading)]))


def _listed(config: dict[str, object]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())


def _dtypes(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in dtypes}))


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count / 1e3:.1f} kB"
