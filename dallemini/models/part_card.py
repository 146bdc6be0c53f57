"""Saving a part, with a model card where it is saved or published alone.

A card that is there stays, unless it was written here, and nobody took out the line that says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from .. import hub
from .._version import __version__
from ..files import as_path, replacing_folder, write_text

CARD_NAME = "README.md"
_PIPELINE_INDEX = "model_index.json"  # a pipeline has a card of its own
_WRITTEN = (
    "<!-- Written by dallemini: take out this line when you change the card, and it stays. -->"
)
_TASKS = {
    "Transformer": "text-to-image",
    "CLIP": "zero-shot-image-classification",
    "CLIPScorer": "zero-shot-image-classification",
    "Upscaler": "image-to-image",
}
_LIMITS = (
    "This is one part of a model, made for pictures and prompts like those that it was trained on. "
    "It checks nothing, and errs."
)


class _Part(Protocol):
    _optional_files: ClassVar[tuple[str, ...]]

    def _check_savable(self) -> None: ...

    def _save(self, directory: Path) -> None: ...


def save_part(part: _Part, directory: str | os.PathLike[str], *, title: str | None = None) -> bool:
    """Write a part into a folder, with a card of this title unless it brings its own.

    Returns:
        Whether it brings its own card.

    Raises:
        As `Loadable.save_pretrained`.
    """
    part._check_savable()
    with replacing_folder(directory, obsolete=part._optional_files) as folder:
        part._save(folder)
        has_card = (folder / CARD_NAME).exists()
        if title is not None and not has_card:
            write_text(folder / CARD_NAME, part_card(part, title))
    return has_card


def title_for(directory: str | os.PathLike[str]) -> str | None:
    """Return the title of the card that a part saved into a folder needs.

    Returns:
        The name of the folder; None where there is a card, or the folder is one of a pipeline.
    """
    path = as_path(directory)
    if (path.parent / _PIPELINE_INDEX).exists() or (path / _PIPELINE_INDEX).exists():
        return None
    card = path / CARD_NAME
    if card.exists() and _WRITTEN not in card.read_text(encoding="utf-8", errors="replace"):
        return None
    return Path(os.path.abspath(path)).name


def part_card(part: object, title: str, *, origin: str = "") -> str:
    """Return the card of a part: what it is, and what is not known of it.

    Args:
        part: any part of a pipeline.
        title: of the card.
        origin: where its weights come from; empty where that is not known.

    Example:
        >>> from dallemini.models.part_card import part_card
        >>> from dallemini.testing import tiny_vqgan
        >>> "A `VQGAN` of [dallemini]" in part_card(tiny_vqgan(), "mine")
        True
    """
    kind = type(part).__name__
    unknown = (
        "Where the weights come from is not known to the program that wrote this card; say it here."
    )
    told = f"Converted from `{origin}`." if origin else unknown
    provenance = f"Written by dallemini {__version__}. {told}\n\n{_describe(part, kind)}"
    return hub.model_card(
        title,
        summary=(
            f"{_WRITTEN}\n\nA `{kind}` of [dallemini](https://github.com/dallemini/dallemini). "
            f"Load it with `{kind}.from_pretrained(...)`, from a local folder or by its id."
        ),
        pipeline_tag=_TASKS.get(kind, ""),
        sections={
            **hub.usual_sections(provenance=provenance),
            "Measured": "Nothing, as far as the program that wrote this card knows.",
            "Limits": _LIMITS,
        },
    )


def _describe(part: object, kind: str) -> str:
    """Say what a part is, as a table."""
    network: Any = getattr(part, "clip", part)
    if not isinstance(network, torch.nn.Module):
        return f"| class |\n|---|\n| {kind} |"
    count = sum(parameter.numel() for parameter in network.parameters())
    dtype = getattr(network, "quantization", None) or str(network.dtype).removeprefix("torch.")
    return f"| class | parameters | dtype |\n|---|---|---|\n| {kind} | {count:,} | {dtype} |"
