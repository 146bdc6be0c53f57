"""Cards of saved pipelines, checksums, and the list of what a release contains."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dallemini import Pipeline, __version__
from dallemini.errors import CheckpointError, InputError, MissingFileError
from dallemini.pipeline.release import check_sums, contents, needed_packages, release
from dallemini.testing import tiny_pipeline

FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 100}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "mine"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "mine"))


def header(card: Path) -> Any:
    return yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])


def test_a_saved_pipeline_has_a_card_that_makes_nothing_up(saved: Path) -> None:
    card = (saved / "README.md").read_text(encoding="utf-8")
    assert header(saved / "README.md") == {
        "library_name": "dallemini",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "dallemini"],
    }
    for heading in ("Training data", "Measured", "Bias", "Limits", "Provenance"):
        assert f"\n## {heading}\n" in card
    assert "Nothing: no `evaluation.json` lies beside the weights" in card
    count = sum(one.numel() for one in tiny_pipeline().transformer.parameters())
    assert f"| transformer | Transformer | {count:,} | float32 |" in card


def test_figures_and_licence_of_the_source_are_in_the_card(folder: Path, tmp_path: Path) -> None:
    (folder / "evaluation.json").write_text(json.dumps({"names": {"first": FIGURE}}))
    (folder / "README.md").unlink()
    Pipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    card = tmp_path / "again" / "README.md"
    (index,) = header(card)["model-index"]
    metric = {"type": "first", "value": 0.5, "name": "names, first"}
    assert index["results"][0]["metrics"] == [metric]
    assert "| names, first | 0.500 | 0.400 to 0.600 | 100 |" in card.read_text(encoding="utf-8")
    assert (tmp_path / "again" / "evaluation.json").is_file()


def test_sums_are_those_of_all_files(folder: Path) -> None:
    release(folder)
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    weights = (folder / "vqgan" / "model.safetensors").read_bytes()
    assert f"{hashlib.sha256(weights).hexdigest()}  vqgan/model.safetensors" in lines
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert check_sums(folder) == len(lines) == len(files) - 3  # itself, the card, the contents
    before = {path: path.read_bytes() for path in files}
    release(folder)
    assert {path: path.read_bytes() for path in files} == before


def test_other_bytes_are_found(folder: Path) -> None:
    with pytest.raises(MissingFileError, match="has no SHA256SUMS"):
        check_sums(folder)
    release(folder, with_contents=False)
    assert not (folder / "contents.cdx.json").exists()
    (folder / "generation_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"generation_config.json has other bytes"):
        check_sums(folder)
    (folder / "generation_config.json").unlink()
    with pytest.raises(MissingFileError, match="is missing; download the model again"):
        check_sums(folder)
    (folder / "SHA256SUMS").write_text("what?\n")
    with pytest.raises(CheckpointError, match="is not a sum and a name"):
        check_sums(folder)
    Pipeline.from_pretrained(folder).save_pretrained(folder)
    assert not (folder / "SHA256SUMS").exists()  # of an older save


def test_contents_are_files_and_packages(folder: Path) -> None:
    release(folder, license="mit")
    found = json.loads((folder / "contents.cdx.json").read_text())
    assert (found["bomFormat"], found["specVersion"], found["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", found["serialNumber"])
    model = found["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "tiny")
    assert model["licenses"] == [{"license": {"name": "mit"}}]
    files = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    weights = (folder / "transformer" / "model.safetensors").read_bytes()
    assert files["transformer/model.safetensors"] == hashlib.sha256(weights).hexdigest()
    names = {one["name"] for one in found["components"]}
    assert {"dallemini", "torch", "safetensors", "numpy"} <= names
    assert "gradio" not in names  # of an extra
    refs = [one["bom-ref"] for one in (model, *model["components"], *found["components"])]
    assert len(refs) == len(set(refs))
    told = {one["ref"] for one in found["dependencies"]}
    told |= {ref for one in found["dependencies"] for ref in one["dependsOn"]}
    assert told <= set(refs)
    assert f"pkg:pypi/dallemini@{__version__}" in refs


def test_packages_are_those_that_are_installed() -> None:
    import torch

    versions = {package.name: package.version for package in needed_packages()}
    assert versions["torch"] == torch.__version__.partition("+")[0] or (
        versions["torch"] == torch.__version__
    )


def test_a_card_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"# caf\xe9\n")
    with pytest.raises(InputError, match=r"README.md is no text in UTF-8; save it as one"):
        release(folder, with_contents=False)


def test_what_people_wrote_stays(folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nlicense: mit\ntags:\n- emoji\n---\n\n# Mine\n\n## Limits\n\nMany.\n"
    )
    (folder / "evaluation.json").write_text(json.dumps({"names": {"first": FIGURE}}))
    release(folder)
    told = header(folder / "README.md")
    assert (told["license"], told["tags"]) == ("mit", ["emoji"])
    assert told["model-index"][0]["name"] == "Mine"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Limits\n\nMany.\n\n## Training data" in card
    (folder / "evaluation.json").write_text("{}")
    with pytest.raises(InputError, match="has no figures"):
        release(folder)


def test_the_bundled_weights_are_those_that_were_released() -> None:
    folder = Path(str(importlib.resources.files("dallemini"))) / "assets" / "emoji"
    assert check_sums(folder) == 14
    (index,) = header(folder / "README.md")["model-index"]
    assert len(index["results"]) >= 3


def test_the_bundled_model_can_be_listed() -> None:
    folder = Path(str(importlib.resources.files("dallemini"))) / "assets" / "emoji"
    found = contents(folder, name="dallemini/emoji", packages=needed_packages())
    model = found["metadata"]["component"]
    files = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert {**sums, "README.md": files["README.md"]} == files
    told = header(folder / "README.md")
    assert model["licenses"] == [{"license": {"name": told["license"]}}]
