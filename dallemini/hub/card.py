"""The `README.md` of a published model, with the header that the Hub reads.

Knows text only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence


def model_card(
    title: str,
    *,
    summary: str = "",
    license: str | None = None,
    tags: Sequence[str] = (),
    pipeline_tag: str = "text-to-image",
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    sections: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a `README.md` with the header that the Hub reads.

    Args:
        title: name of the model, the heading of the card.
        summary: Markdown below the heading.
        license: identifier such as "apache-2.0"; left out when unknown.
        tags: tags beside the library's name and `pipeline_tag`.
        pipeline_tag: the Hub's name of the task.
        datasets: ids of the data that the model was trained on.
        base_model: id of the model that this one was made from.
        sections: heading to Markdown text, in order.

    Example:
        >>> from dallemini.hub import model_card
        >>> print(model_card("Tiny", license="apache-2.0").splitlines()[1])
        license: "apache-2.0"
    """
    header: dict[str, object] = {
        "license": license,
        "library_name": "dallemini",
        "pipeline_tag": pipeline_tag,
        "tags": list(dict.fromkeys([pipeline_tag, "dallemini", *tags])),
        "datasets": list(datasets),
        "base_model": base_model,
    }
    # A JSON value is a YAML value, so no YAML writer is needed.
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items() if value]
    parts = ["\n".join(["---", *lines, "---"]), f"# {title}", summary]
    parts += [f"## {heading}\n\n{text}" for heading, text in (sections or {}).items()]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
