"""Publishing a folder on the Hub, and its `README.md` with the header that the Hub reads."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import HubError, InputError, MissingFileError
from .figures import Figure, figures_table, model_index

_UNKNOWN_DATA = (
    "What it was trained on is not known to the program that wrote this card. Say it here before "
    "you publish the model."
)
_UNMEASURED = (
    "Nothing: no `evaluation.json` lies beside the weights. `dallemini evaluate` measures, and "
    "`dallemini release FOLDER --evaluation report.json` writes the figures here."
)
_BIAS = (
    "What it shows when nobody asked was not measured for this card. A model repeats the "
    "prejudices of its pictures and captions: who is drawn for a profession, a place or a feeling. "
    "Look at several seeds before you take a picture as typical of anything."
)
_LARGEST_HEADER = 128 << 10  # characters; YAML takes a second for each 100,000
_LIMITS = (
    "It draws what its training makes likely, and checks nothing: facts, numbers, letters, hands "
    "and faces go wrong. A picture of an event shows no event. What it was not shown it cannot "
    "draw."
)
_UNPRINTED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_HEADER = re.compile(r"\A---\n(.*?)\n---\n+", re.S)


def model_card(
    title: str,
    *,
    summary: str = "",
    license: str | None = None,
    tags: Sequence[str] = (),
    pipeline_tag: str = "text-to-image",
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    figures: Sequence[Figure] = (),
    sections: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a `README.md` with the header that the Hub reads.

    Args:
        title: name of the model, the heading of the card.
        summary: Markdown below the heading.
        license: identifier such as "apache-2.0"; left out when unknown.
        tags: tags beside the library's name and `pipeline_tag`.
        pipeline_tag: the Hub's name of the task; empty for none.
        datasets: ids of the data that the model was trained on.
        base_model: id of the model that this one was made from.
        figures: what was measured: they are the header's `model-index`.
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
        "tags": [tag for tag in dict.fromkeys([pipeline_tag, "dallemini", *tags]) if tag],
        "datasets": list(datasets),
        "base_model": base_model,
        "model-index": model_index(title, figures, task=pipeline_tag),
    }
    parts = [f"# {title}", summary]
    parts += [f"## {heading}\n\n{text}" for heading, text in (sections or {}).items()]
    return join_card(header, "\n\n".join(part.strip() for part in parts if part.strip()))


def usual_sections(
    *, figures: Sequence[Figure] = (), training_data: str = "", provenance: str = ""
) -> dict[str, str]:
    """Return the sections that every card has: what is known, and what is not and where to look.

    Args:
        figures: what was measured.
        training_data: what the model was trained on, as far as it is known.
        provenance: where the weights come from.
    """
    measured = figures_table(figures) if figures else _UNMEASURED
    return {
        "Training data": training_data or _UNKNOWN_DATA,
        "Measured": measured,
        "Bias": _BIAS,
        "Limits": _LIMITS,
        "Provenance": provenance,
    }


def split_card(text: str) -> tuple[dict[str, Any], str]:
    r"""Return the header of a card, empty without one, and the rest.

    Raises:
        InputError: the header is no YAML mapping.

    Example:
        >>> from dallemini.hub.card import split_card
        >>> split_card("---\nlicense: mit\n---\n\n# Mine\n")
        ({'license': 'mit'}, '# Mine\n')
    """
    found = _HEADER.match(text.replace("\r\n", "\n"))
    if found is None:
        return {}, text
    try:
        header = _parse_yaml(found[1]) or {}
    except Exception as error:  # PyYAML's constructors fail in many ways
        raise InputError(
            "The header of the model card, between its lines of ---, is not valid YAML "
            f"({' '.join(str(error).split())[:200]}); correct it."
        ) from error
    if not isinstance(header, dict):
        raise InputError("The header of the model card must have lines such as license: mit.")
    return {str(key): value for key, value in header.items()}, text[found.end() :]


def _parse_yaml(text: str) -> Any:
    """Parse a header, whose values are as large as its text.

    Raises:
        Exception: it is no YAML, too long, or has aliases, which may stand for very much.
    """
    import yaml  # here, because few need it

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has aliases")
            return super().compose_node(parent, index)

    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"it has more than {_LARGEST_HEADER:,} characters")
    return yaml.load(text, Loader)


def join_card(header: Mapping[str, Any], body: str) -> str:
    """Return the text of a card; what is empty in the header is left out."""
    lines = [f"{key}: {_yaml(value)}" for key, value in header.items() if value]
    return "\n".join(["---", *lines, "---", "", body.strip()]) + "\n"


def _yaml(value: object) -> str:
    """Return a JSON value as YAML, which is the same but for letters that YAML does not print.

    JSON would write an emoji as two halves, which YAML does not put together.
    """
    text = json.dumps(value, default=str, ensure_ascii=False)
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def add_sections(body: str, sections: Mapping[str, str]) -> str:
    """Add those sections to a card that it has not, by their headings, at its end."""
    headings = re.findall(r"^#+ (.*)$", body, re.M)
    known = {heading.strip().lower() for heading in headings}
    lacking = [
        f"## {heading}\n\n{text.strip()}"
        for heading, text in sections.items()
        if text.strip() and not any(heading.lower() in one for one in known)
    ]
    return "\n\n".join([body.strip(), *lacking]) + "\n"


def upload_folder(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    keep: Sequence[str] = (),
) -> str:
    """Upload the files of a folder as a model, creating model and branch where needed.

    Args:
        directory: folder whose files are added; files that are only on the Hub stay there.
        repo_id: "owner/name".
        private: whether a model that is newly created is private.
        token: access token that may write; the default is `HF_TOKEN` or the stored login.
        revision: branch to upload to; the default is the main branch.
        commit_message: the default names this library.
        keep: files that are not uploaded where the Hub has some of these names.

    Returns:
        The address of the commit.

    Raises:
        MissingFileError: `directory` is not a folder.
        InputError: `repo_id` or `revision` is malformed.
        HubError: the Hub cannot be reached or refuses, or `HF_HUB_OFFLINE` is set.
    """
    if not os.path.isdir(directory):
        raise MissingFileError(
            f"There is no folder {os.fspath(directory)!r} to upload: save first."
        )
    from .client import Repository, is_offline  # here, because the Hub's client is slow to import

    repository = Repository.find(repo_id, revision=revision, token=token)
    if is_offline():
        raise HubError(f"Offline: {repo_id} cannot be uploaded. Unset HF_HUB_OFFLINE first.")
    message = commit_message or "Upload with dallemini"
    return repository.upload(directory, private=private, message=message, keep=keep)
