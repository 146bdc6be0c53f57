"""Making a saved pipeline ready to be published: checksums, what it contains, figures in its card.

`SHA256SUMS` is what `sha256sum --check` reads. The list of contents is CycloneDX 1.6 in JSON
(ECMA-424): the files with their SHA-256, and the packages that run them, as they are installed
here. The same folder and packages give the same bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub
from .._version import __version__
from ..errors import CheckpointError, InputError, MissingFileError
from ..files import write_text
from ..foreign import check_file, show
from ..hub.card import add_sections, join_card, split_card
from ..hub.figures import model_index
from .cards import read_evaluation
from .parts import EVALUATION_NAME, INDEX_NAME

SUMS_NAME, CONTENTS_NAME, CARD_NAME = "SHA256SUMS", "contents.cdx.json", "README.md"
_MADE_HERE = (SUMS_NAME, CONTENTS_NAME)
_PIECE = 1 << 20
_LARGEST_CARD, _LARGEST_SUMS = 1 << 20, 1 << 24  # bytes
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def list_released(folder: Path) -> list[str]:
    """Return the files of a pipeline by their names inside it, sorted, without hidden ones.

    Raises:
        MissingFileError: it is no folder of a saved pipeline.
    """
    if not (folder / INDEX_NAME).is_file():
        raise MissingFileError(
            f"{folder} holds no {INDEX_NAME}; save a pipeline there first, with save_pretrained."
        )
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = (path for path in paths if not any(part.startswith((".", "__")) for part in path.parts))
    return sorted(path.as_posix() for path in shown)


def write_sums(folder: Path) -> Path:
    """Write `SHA256SUMS` of a folder, without the card, which people edit; return its path."""
    names = [name for name in list_released(folder) if name not in (*_MADE_HERE, CARD_NAME)]
    lines = [f"{sha256_of(folder / name)}  {name}\n" for name in names]
    write_text(folder / SUMS_NAME, "".join(lines))
    return folder / SUMS_NAME


def check_sums(folder: Path) -> int:
    """Compare the files of a folder with its `SHA256SUMS`, and return how many there are.

    Raises:
        MissingFileError: there are no sums, or a file is missing.
        CheckpointError: a line is none, or a file has other bytes.
    """
    path = folder / SUMS_NAME
    if not path.exists():
        raise MissingFileError(f"{folder} has no {SUMS_NAME}; `dallemini release` writes it.")
    check_file(path, largest=_LARGEST_SUMS)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise CheckpointError(f"{line!r:.100} in {SUMS_NAME} is not a sum and a name.")
        name = show(found[2])[1:-1]
        if not os.path.isfile(folder / found[2]):
            raise MissingFileError(f"{folder / name} is missing; download the model again.")
        if sha256_of(folder / found[2]) != found[1]:
            raise CheckpointError(
                f"{folder / name} has other bytes than when it was released; download it again."
            )
    return len(lines)


@dataclass(frozen=True, kw_only=True)
class Package:
    """An installed package.

    Attributes:
        name: as its registry spells it.
        version: that is installed.
        license: as it says itself; "" where it does not.
    """

    name: str
    version: str
    license: str = ""

    @property
    def purl(self) -> str:
        """Its package URL."""
        plain = re.sub(r"[-_.]+", "-", self.name).lower()
        return f"pkg:pypi/{plain}@{self.version}"


def needed_packages(root: str = "dallemini") -> list[Package]:
    """Return the packages that a package needs, without extras, and those that they need."""
    found: dict[str, Package] = {}
    waiting = list(_requirements(root))
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            told = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
        license = str(told.metadata.json.get("license_expression", ""))
        found[key] = Package(name=told.name, version=told.version, license=license)
        waiting += _requirements(name)
    return [found[key] for key in sorted(found)]


def _requirements(name: str) -> Iterator[str]:
    """Yield the names of what a package needs; what only an extra needs is left out."""
    for line in importlib.metadata.distribution(name).requires or ():
        needed, _, marker = line.partition(";")
        if "extra ==" not in marker.replace("'", '"'):
            yield re.split(r"[\s<>=!~\[(;]", needed.strip(), maxsplit=1)[0]


def contents(folder: Path, *, name: str, packages: Sequence[Package]) -> dict[str, Any]:
    """Return the list of what a release contains, as JSON values of CycloneDX 1.6.

    Args:
        folder: of a saved pipeline.
        name: of the model.
        packages: that run it.
    """
    files = [_file(folder, one) for one in list_released(folder) if one not in _MADE_HERE]
    libraries = [_library(package) for package in packages]
    library = _library(Package(name="dallemini", version=__version__, license="Apache-2.0"))
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{name}",
        "name": name,
        "components": files,
    }
    told = split_card(_read_card(folder / CARD_NAME))[0]
    if isinstance(told.get("license"), str):
        model["licenses"] = [{"license": {"name": told["license"]}}]
    found: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "dallemini"}]},
            "component": model,
        },
        "components": [library, *libraries],
        "dependencies": [
            {"ref": model["bom-ref"], "dependsOn": [library["bom-ref"]]},
            {"ref": library["bom-ref"], "dependsOn": [one["bom-ref"] for one in libraries]},
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(found, sort_keys=True))
    return {"bomFormat": "CycloneDX", "serialNumber": f"urn:uuid:{serial}", **found}


def _file(folder: Path, name: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256_of(folder / name)}],
    }


def _library(package: Package) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
    }
    if package.license:
        found["licenses"] = [{"expression": package.license}]
    return found


def fill_card(text: str, figures: Sequence[hub.Figure], *, header: Mapping[str, Any]) -> str:
    """Return a card with figures in its header, and the sections that it has not.

    What people wrote stays. Its own figures stay where there are no new ones.

    Args:
        text: of the card.
        figures: what was measured.
        header: fields that are set, such as the licence; those that are empty stay as they are.

    Raises:
        InputError: its header is no YAML mapping.
    """
    own, body = split_card(text)
    usual = {"library_name": "dallemini", "pipeline_tag": "text-to-image"}
    made = {**usual, **own, **{key: value for key, value in header.items() if value}}
    if figures:
        made["model-index"] = model_index(title_of(body), figures, task=made["pipeline_tag"])
    sections = hub.usual_sections(figures=figures)
    return join_card(made, add_sections(body, sections))


def title_of(text: str) -> str:
    """Return the first heading of a card."""
    found = re.search(r"^# +(\S.*)$", text, re.M)
    return found[1].rstrip() if found else "model"


def _read_card(card: Path) -> str:
    """Read a card as it was written.

    Raises:
        InputError: it is too large, or no text in UTF-8.
    """
    check_file(card, error=InputError, largest=_LARGEST_CARD)
    try:
        return card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{card} is no text in UTF-8; save it as one.") from error


def release(
    folder: Path,
    *,
    evaluation: Path | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
    with_contents: bool = True,
) -> list[Path]:
    """Fill the card of a saved pipeline, and write its checksums and the list of its contents.

    Args:
        folder: of the pipeline.
        evaluation: a file of figures; the folder's own `evaluation.json` when None, if there is
            one.
        license: identifier for the card, instead of what it says.
        datasets: names of the data for the card, instead of what it says.
        with_contents: also write the list of contents.

    Returns:
        The files that were written.

    Raises:
        MissingFileError: it is no folder of a saved pipeline, or there is no such evaluation.
        ConfigError: the evaluation is no JSON object.
        InputError: it has no figure, or the card is no text, or its header no YAML.
        StorageError: a file cannot be written.
    """
    names = list_released(folder)
    if evaluation is None and EVALUATION_NAME in names:
        evaluation = folder / EVALUATION_NAME
    figures = [] if evaluation is None else read_evaluation(evaluation)
    card = folder / CARD_NAME
    text = _read_card(card) if card.is_file() else f"# {folder.resolve().name}\n"
    header = {"license": license, "datasets": list(datasets)}
    write_text(card, fill_card(text, figures, header=header))
    written = [card, write_sums(folder)]
    if with_contents:
        found = contents(folder, name=title_of(text), packages=needed_packages())
        write_text(folder / CONTENTS_NAME, json.dumps(found, indent=2) + "\n")
        written.append(folder / CONTENTS_NAME)
    return written
