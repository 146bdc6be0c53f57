"""The card of a pipeline that is saved: what is known of it, and nothing else.

Knows parts and folders; `hub.card` knows the form.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import hub
from .._version import __version__
from ..config import read_json
from ..errors import DalleMiniError, InputError
from ..foreign import check_file
from ..hub.card import split_card
from .digests import fingerprint
from .parts import EVALUATION_NAME, Parts

_LARGEST = 1 << 22  # bytes of a file of figures or a card


def pipeline_card(name: str, parts: Mapping[str, Any], origin: Parts | None) -> str:
    """Return the card of a pipeline that has none of its own.

    Licence, data and figures are those that its source tells; where it tells none, the card says
    so.

    Args:
        name: of the pipeline: a path is shortened to its last part.
        parts: by name.
        origin: where it was loaded from; None where it was put together.
    """
    title = short_name(name)
    told = {} if origin is None else read_header(origin)
    figures = [] if origin is None else _figures_of(origin)
    data = told.get("datasets") or []
    datasets = [str(one) for one in (data if isinstance(data, list) else [data])]
    base = None
    if origin is not None and isinstance(origin.source, hub.HubSource):
        base = origin.source.name
    listed = ", ".join(f"`{one}`" for one in datasets)
    return hub.model_card(
        title,
        summary=f"A text-to-image pipeline for dallemini, saved from `{title}`.",
        license=str(told["license"]) if told.get("license") else None,
        datasets=datasets,
        base_model=base,
        figures=figures,
        sections=hub.usual_sections(
            figures=figures,
            training_data=f"According to its source: {listed}." if datasets else "",
            provenance=_provenance(title, parts, base),
        ),
    )


def short_name(name: str) -> str:
    """Return a name that tells nothing of the folders of this machine."""
    return Path(name).name if Path(name).exists() else name


def read_evaluation(path: Path) -> list[hub.Figure]:
    """Return the figures of a file such as `report.json` or `evaluation.json`.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is no JSON object.
        InputError: it is too large, or there is no figure in it.
    """
    check_file(path, error=InputError, largest=_LARGEST)
    if not (found := hub.read_figures(read_json(path))):
        raise InputError(
            f"{path} has no figures: objects with value, low, high and count, as `dallemini "
            "evaluate` writes them in its report.json."
        )
    return found


def read_header(origin: Parts) -> dict[str, Any]:
    """Return the header of the source's own card, empty where it has none that can be read."""
    if "README.md" not in origin.source.files():
        return {}
    try:
        path = origin.source.fetch(["README.md"])["README.md"]
        check_file(path, error=InputError, largest=_LARGEST)
        return split_card(path.read_text(encoding="utf-8", errors="replace"))[0]
    except DalleMiniError:  # such as a card that is not in the cache while offline
        return {}


def _figures_of(origin: Parts) -> list[hub.Figure]:
    if EVALUATION_NAME not in origin.source.files():
        return []
    return read_evaluation(origin.source.fetch([EVALUATION_NAME])[EVALUATION_NAME])


def _provenance(name: str, parts: Mapping[str, Any], base: str | None) -> str:
    """Say where the weights come from, and what each part is."""
    origin = f"the weights of `{name}`" if base is None else f"`{name}` on the Hugging Face Hub"
    lines = [
        f"Written by dallemini {__version__} from {origin}. Fingerprint of the weights, as in the "
        f"metadata of their pictures: `{fingerprint(parts['transformer'], parts['vqgan'])}`.",
        "",
        "| part | class | parameters | dtype |",
        "|---|---|---|---|",
    ]
    for part, model in parts.items():
        network = getattr(model, "clip", model)
        count = kind = ""
        if isinstance(network, torch.nn.Module):
            count = f"{sum(parameter.numel() for parameter in network.parameters()):,}"
            kind = getattr(network, "quantization", None) or str(network.dtype).split(".")[-1]
        lines.append(f"| {part} | {type(model).__name__} | {count} | {kind} |")
    return "\n".join(lines)
