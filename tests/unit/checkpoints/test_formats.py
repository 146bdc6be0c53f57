"""Tests of `dallemini.checkpoints.formats` and `native`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini.checkpoints import formats, read_checkpoint
from dallemini.checkpoints.formats import (
    Component,
    LazyCheckpoint,
    fetch_json,
    known_formats,
    pick,
    read_weights,
    register_format,
)
from dallemini.checkpoints.lazy import LazyTensor
from dallemini.checkpoints.native import Native
from dallemini.checkpoints.safetensors_file import save_checkpoint
from dallemini.checkpoints.settings import refuse_other_component, refuse_values, whole_number
from dallemini.errors import CheckpointError, ConfigError, MissingFileError, UnsupportedModelError
from dallemini.hub.source import Source, open_source


class Numbers:
    """A format of a user's own: one JSON file."""

    name = "numbers"
    component: Component = "vqgan"

    def detect(self, source: Source) -> tuple[str, ...] | None:
        return ("numbers.json",) if "numbers.json" in source.files() else None

    def read(self, source: Source, paths: Mapping[str, Path]) -> LazyCheckpoint:
        values = torch.tensor(json.loads(paths["numbers.json"].read_text()))
        return LazyCheckpoint({"n_embed": len(values)}, {"a": LazyTensor.of("a", values)})


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_FORMATS", list(formats._FORMATS))


@pytest.mark.usefixtures("_registry")
def test_registered_format_is_asked_first_and_read(tmp_path: Path) -> None:
    register_format(Numbers())
    assert known_formats("vqgan")[0].name == "numbers"
    (tmp_path / "numbers.json").write_text("[1.5, 2.5]")
    found = read_checkpoint(open_source(tmp_path), component="vqgan", cache_dir=tmp_path / "cache")
    assert (found.config, found.format) == ({"n_embed": 2}, "numbers")
    assert found.state_dict["a"].tolist() == [1.5, 2.5]


@pytest.mark.usefixtures("_registry")
def test_format_registered_again_moves_to_the_front() -> None:
    before = known_formats("clip")
    register_format(before[-1])
    assert known_formats("clip") == (before[-1], *before[:-1])


def test_every_component_has_its_formats() -> None:
    names = {c: [entry.name for entry in known_formats(c)] for c in formats.COMPONENTS}
    assert names == {
        "transformer": ["DalleBart (Flax)", "min-dalle"],
        "vqgan": ["vqgan-jax (Flax)", "min-dalle detokenizer", "taming-transformers"],
        "dvae": ["dVAE (OpenAI)"],
        "discrete_vae": ["DiscreteVAE (DALLE-pytorch)"],
        "clip": ["CLIP (transformers)", "open_clip", "CLIP (OpenAI)"],
        "upscaler": ["Real-ESRGAN", "Real-ESRGAN (ncnn)"],
    }


def test_pick_takes_the_first_there_or_the_one_named(tmp_path: Path) -> None:
    for name in ("b", "c"):
        (tmp_path / name).touch()
    assert pick(open_source(tmp_path), ("a", "b", "c")) == "b"
    assert pick(open_source(tmp_path), ("a",)) is None
    assert pick(open_source(tmp_path / "c"), ("a", "b", "c")) == "c"
    assert pick(open_source(tmp_path / "c"), ("a", "b")) is None


def test_weights_are_read_by_their_kind(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    torch.save(state, tmp_path / "a.bin")
    for path in (tmp_path / "a.bin", save_checkpoint(state, tmp_path)):
        assert torch.equal(read_weights(path)["a"].load(), state["a"])


def test_absent_json_is_none_and_damaged_json_refused(tmp_path: Path) -> None:
    assert fetch_json(open_source(tmp_path)) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        fetch_json(open_source(tmp_path))


@pytest.mark.parametrize(
    ("config", "holds"),
    [
        ({"encoder_vocab_size": 1}, "Transformer"),
        ({"model_type": "dallebart"}, "Transformer"),
        ({"ch_mult": []}, "VQGAN"),
        ({"model_type": "clip"}, "CLIP"),
    ],
)
def test_configuration_of_another_component_names_its_class(
    config: dict[str, Any], holds: str
) -> None:
    for component in formats.COMPONENTS:
        name = formats.CLASS_NAMES[component]
        if name == holds:
            refuse_other_component(config, component, "x")
        else:
            told = f"x holds a {holds}, not an? {name}. Load it"
            with pytest.raises(CheckpointError, match=told):
                refuse_other_component(config, component, "x")


def test_refused_values_name_key_and_both_values() -> None:
    refuse_values({"a": 1}, {"a": 1, "b": 2}, origin="x", model="y")
    with pytest.raises(UnsupportedModelError, match=r"x has a 3, but only 1 is supported: .* of y"):
        refuse_values({"a": 3}, {"a": 1}, origin="x", model="y")


def test_whole_number_takes_the_default_and_refuses_the_rest() -> None:
    assert whole_number({}, "a", 3, origin="x") == 3
    assert whole_number({"a": 4}, "a", 3, origin="x") == 4
    for value in (True, 1.0, "1", -1, None):
        with pytest.raises(ConfigError, match="x: a must be a whole number"):
            whole_number({"a": value}, "a", 3, origin="x")


# The native layout


def write_native_folder(folder: Path, component: str = "vqgan") -> Path:
    folder.mkdir(exist_ok=True)
    save_checkpoint({"a": torch.ones(2)}, folder)
    mark = {"component": component, "version": "0"}
    (folder / "config.json").write_text(json.dumps({"dallemini": mark, "n_embed": 2}))
    return folder


def test_native_folder_is_mapped_where_it_lies(tmp_path: Path) -> None:
    source = open_source(write_native_folder(tmp_path / "model"))
    found = read_checkpoint(source, component="vqgan", cache_dir=tmp_path / "cache")
    assert (found.config, found.format) == ({"n_embed": 2}, "native")
    assert found.path == tmp_path / "model/model.safetensors"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_native_folder_may_be_named_by_a_file(tmp_path: Path, name: str) -> None:
    source = open_source(write_native_folder(tmp_path) / name)
    assert read_checkpoint(source, component="vqgan").format == "native"


def test_native_folder_of_another_component_is_refused(tmp_path: Path) -> None:
    source = open_source(write_native_folder(tmp_path, "clip"))
    with pytest.raises(CheckpointError, match=r"holds a CLIP, not a VQGAN. Load it with its own"):
        read_checkpoint(source, component="vqgan")


def test_native_folder_without_weights_is_named(tmp_path: Path) -> None:
    (write_native_folder(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"has a config.json but no model.safetensors"):
        Native("vqgan").detect(open_source(tmp_path))


@pytest.mark.parametrize("mark", [None, "yes"])
def test_folder_without_the_mark_is_foreign(tmp_path: Path, mark: Any) -> None:
    write_native_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"dallemini": mark}))
    assert Native("vqgan").detect(open_source(tmp_path)) is None
