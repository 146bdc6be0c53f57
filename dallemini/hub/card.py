"""Publishing a folder on the Hub, and its `README.md` with the header that the Hub reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from ..errors import HubError, MissingFileError


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


def upload_folder(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload the files of a folder as a model, creating model and branch where needed.

    Args:
        directory: folder whose files are added; files that are only on the Hub stay there.
        repo_id: "owner/name".
        private: whether a model that is newly created is private.
        token: access token that may write; the default is `HF_TOKEN` or the stored login.
        revision: branch to upload to; the default is the main branch.
        commit_message: the default names this library.

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
    return repository.upload(directory, private=private, message=message)
