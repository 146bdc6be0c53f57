"""Every reader takes files as people have them: wrapped, with copies and objects beside.

The cases are properties of all formats, not of one; whoever adds a format adds a folder to
`foreign_folders`.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dallemini.checkpoints import describe, known_formats
from dallemini.checkpoints.formats import COMPONENTS
from dallemini.errors import DalleMiniError
from dallemini.hub.source import open_source
from dallemini.models import Upscaler, UpscalerConfig
from dallemini.models.adapter_files import read_adapter
from dallemini.models.pretrained import PretrainedModule
from foreign_folders import (
    FIXTURES,
    FOLDERS,
    read_weights,
    weight_files,
    write_weights,
)
from upscaler_files import write_ncnn

pytestmark = pytest.mark.filterwarnings("ignore:.*holds its weights under")

Found = tuple[str, dict[str, Any], dict[str, Tensor]]

PLACES: tuple[str, ...] = (
    "module._orig_mod",
    "state_dict",
    "model",
    "ema",
    "params_ema",
    "first_stage_model",
)
PLACES += ("state_dict.module.model", "net", "generator")
HARMLESS = {
    "best": np.float64(0.5),
    "curve": np.arange(3),
    "arguments": argparse.Namespace(lr=1.0),
    "folder": Path("/somewhere"),
    "counts": collections.defaultdict(list, {"a": [1]}),
    "when": [datetime.datetime(2022, 5, 1), slice(1, 2), {1, 2}, torch.float32],
}


def described(kind: type[PretrainedModule[Any]], folder: Path) -> Found:
    name, found = describe(
        open_source(folder), component=kind.component, expected=kind.expected_shapes
    )
    return name, found.config, {key: t.load().clone() for key, t in found.tensors.items()}


def assert_same(found: Found, expected: Found) -> None:
    assert found[:2] == expected[:2]
    assert found[2].keys() == expected[2].keys()
    assert all(torch.equal(found[2][name], tensor) for name, tensor in expected[2].items())


class Folder:
    """The folder of a format, what it is read as, and its weights as they are in the files."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, (self.kind, write) = path, name, FOLDERS[name]
        write(path)
        self.expected = described(self.kind, path)
        self.stored = {file: read_weights(file) for file in weight_files(path)}
        beside = torch.load(path / "vae.pt") if (path / "vae.pt").exists() else {}
        self.beside = {key: beside[key] for key in beside if key == "hparams"}

    def assert_read_again(self) -> None:
        assert_same(described(self.kind, self.path), self.expected)

    def write(self, *places: str, also: dict[str, Any] | None = None) -> None:
        """Write the weights below a place; below every further one lie other weights."""
        for file, stored in self.stored.items():
            mark = "/" if file.suffix == ".msgpack" else "."
            named = {
                mark.join([*place.split("."), name] if place else [name]): tensor + number
                for number, place in enumerate(places)
                for name, tensor in stored.items()
            }
            if len(places) > 1:
                named[mark.join(("optimizer", "state", "0", "exp_avg"))] = torch.ones(2)
            write_weights(file, named, self.beside | (also or {}))


@pytest.fixture(scope="module", params=FOLDERS)
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Folder:
    return Folder(tmp_path_factory.mktemp("folder"), request.param)


def test_every_format_has_a_folder() -> None:
    known = {entry.name for component in COMPONENTS for entry in known_formats(component)}
    assert known - FOLDERS.keys() == {"Real-ESRGAN (ncnn)"}  # whose files have no names


def test_wrapped_weights_are_read_as_plain_ones_whatever_lies_beside(folder: Folder) -> None:
    """Every format takes its turn with some of the words; the step is the same for all."""
    first = [*FOLDERS].index(folder.name)
    for number in (first, first + 2):
        folder.write(PLACES[number % len(PLACES)], also=HARMLESS)
        folder.assert_read_again()


def test_copies_and_optimizers_are_left_out_and_named(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    places = ("", "model_ema") if [*FOLDERS].index(folder.name) % 2 else ("model", "ema")
    folder.write(*places)
    with caplog.at_level("INFO", "dallemini.checkpoints"):
        folder.assert_read_again()
    assert re.search(r"left out \d+ tensors \(an averaged copy of the weights\)", caplog.text)
    for file in folder.stored:
        mark = "/" if file.suffix == ".msgpack" else "."
        name = repr(f"optimizer{mark}state{mark}0{mark}exp_avg")
        assert f"(the state of the optimizer): {name}" in caplog.text


def other_contents(content: bytes) -> dict[str, bytes]:
    """Return what may lie in the place of a file, by what a message must say of it."""
    return {
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n",
        "web page": b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>",
        "truncated|cut off|ends within|belong together|not a network|not valid|damaged": content[
            : len(content) // 2
        ],
    }


def refuse_other_contents(path: Path, read: Callable[[], object]) -> None:
    content = path.read_bytes()
    for message, other in other_contents(content).items():
        path.unlink()
        path.write_bytes(other)
        with pytest.raises(DalleMiniError, match=message) as caught:
            read()
        assert path.name in str(caught.value)
        assert not re.search("weights_only|torch.load", str(caught.value))
    path.write_bytes(content)


def test_what_stands_in_for_a_file_is_named(folder: Folder) -> None:
    read = [*folder.stored, *folder.path.glob("*.json"), *folder.path.glob("*.yaml")]
    for path in read:
        refuse_other_contents(path, lambda: described(folder.kind, folder.path))


def test_what_stands_in_for_a_file_of_ncnn_is_named(tmp_path: Path) -> None:
    config = UpscalerConfig(width=5, num_blocks=2, name="net")
    param = write_ncnn(tmp_path, Upscaler.from_config(config))
    for path in (param, param.with_suffix(".bin")):
        refuse_other_contents(path, lambda: described(Upscaler, tmp_path))


# Adapters


@pytest.mark.parametrize("former", [False, True], ids=["peft", "former"])
def test_adapters_are_read_as_people_have_them(
    tmp_path: Path, former: bool, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(FIXTURES / "adapters" / ("former" if former else "peft"), tmp_path / "a")
    (path,) = (tmp_path / "a").glob("*.safetensors")
    expected, stored = read_adapter(open_source(tmp_path / "a")), read_weights(path)

    def assert_read_again() -> None:
        found = read_adapter(open_source(tmp_path / "a"))
        assert found.layers.keys() == expected.layers.keys()
        for name, layer in expected.layers.items():
            assert torch.equal(found.layers[name].narrow, layer.narrow)
            assert torch.equal(found.layers[name].wide, layer.wide)

    peft = "" if former else "base_model.model."
    for place in (f"module.{peft}", f"{peft}_orig_mod.", f"state_dict.{peft}module."):
        wrapped = {place + name.removeprefix(peft): x for name, x in stored.items()}
        write_weights(path, wrapped)
        assert_read_again()
    copies = {f"ema.{name}": x + 1 for name, x in stored.items()}
    write_weights(path, stored | copies | {"optimizer.state.0": torch.ones(2)})
    with caplog.at_level("INFO", "dallemini.checkpoints"):
        assert_read_again()
    assert "an averaged copy of the weights" in caplog.text
    assert "(the state of the optimizer): 'optimizer.state.0'" in caplog.text


def test_what_stands_in_for_a_file_of_an_adapter_is_named(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "adapters" / "peft", tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        if path.suffix != ".npz":
            refuse_other_contents(path, lambda: read_adapter(open_source(tmp_path / "a")))
