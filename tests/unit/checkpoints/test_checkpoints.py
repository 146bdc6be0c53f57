"""Tests of `dallemini.checkpoints`: detect, read, convert, and what is said when nothing fits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini import hub
from dallemini.checkpoints import Component, convert, describe, find_format, read_checkpoint
from dallemini.errors import (
    CheckpointError,
    DalleMiniWarning,
    InputError,
    MissingFileError,
    StorageError,
    UnsupportedModelError,
)
from dallemini.hub.conversions import conversion_cache_dir
from dallemini.hub.source import open_source
from dallemini.models.transformer import Transformer
from full_disk import full_disk
from hub_server import HubServer
from random_checkpoints import config, write_transformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_transformer(tmp_path / "model", config("tiny"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def conversions(cache: Path) -> list[Path]:
    return sorted(path for path in conversion_cache_dir(cache).glob("[!.]*"))


# The first load and the next


def test_first_load_converts_and_the_next_maps(folder: Path, cache: Path) -> None:
    first = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    (place,) = conversions(cache)
    written = (place / "model.safetensors").stat()
    second = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    assert (place / "model.safetensors").stat().st_mtime_ns == written.st_mtime_ns
    assert first.path == second.path == place / "model.safetensors"
    assert first.config == second.config
    assert first.format == second.format == "DalleBart (Flax)"
    for name, tensor in first.state_dict.items():
        assert torch.equal(tensor, second.state_dict[name])


def test_conversion_is_a_native_folder(folder: Path, cache: Path) -> None:
    read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    (place,) = conversions(cache)
    assert sorted(os.listdir(place)) == ["config.json", "model.safetensors"]
    mark = json.loads((place / "config.json").read_text())["dallemini"]
    assert mark["component"] == "transformer"
    assert (mark["converted_from"], mark["format"]) == ("model", "DalleBart (Flax)")
    native = read_checkpoint(open_source(place), component="transformer", cache_dir=cache)
    assert native.format == "native"
    assert conversions(cache) == [place]


def test_changed_file_is_converted_again(folder: Path, cache: Path) -> None:
    before = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    write_transformer(folder, config("tiny"), seed=1)
    after = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    assert len(conversions(cache)) == 2
    name = "lm_head.weight"
    assert not torch.equal(before.state_dict[name], after.state_dict[name])


def test_damaged_conversion_is_made_again(folder: Path, cache: Path) -> None:
    path = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache).path
    path.write_bytes(path.read_bytes()[:-1])
    found = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    assert found.state_dict["lm_head.weight"].shape == (129, 64)


def test_unwritable_cache_warns_and_still_loads(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file/cache"
    with pytest.warns(
        DalleMiniWarning, match=r"cannot be written .*model is converted into a temp"
    ):
        found = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    assert found.state_dict["lm_head.weight"].shape == (129, 64)


def test_full_disk_while_converting_keeps_everything_else(folder: Path, cache: Path) -> None:
    message = r"could not be converted .*Free some space"
    with full_disk(100_000), pytest.raises(StorageError, match=message):
        read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)


def test_damaged_source_leaves_no_conversion(folder: Path, cache: Path) -> None:
    path = folder / "flax_model.msgpack"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"flax_model.msgpack is cut off .* download it again"
    ):
        read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    assert conversions(cache) == []


# The Hub


def test_hub_load_downloads_only_what_it_needs(hub: HubServer, folder: Path) -> None:
    for name in ("README.md", "tokenizer.json", "enwiki-words-frequency.txt"):
        (folder / name).write_text("{}")
    hub.add("someone/dalle", folder)
    first = read_checkpoint(open_source("someone/dalle"), component="transformer")
    assert first.format == "DalleBart (Flax)"
    asked = [line for line in hub.requests if "/resolve/" in line]
    assert not [line for line in asked if "README" in line or "token" in line or "enwiki" in line]


def test_converted_hub_model_needs_no_weights_again(hub: HubServer, folder: Path) -> None:
    hub.add("someone/dalle", folder)
    first = read_checkpoint(open_source("someone/dalle"), component="transformer")
    hub.requests.clear()
    second = read_checkpoint(open_source("someone/dalle"), component="transformer")
    assert second.path == first.path
    assert not [line for line in hub.requests if "/resolve/" in line]


def test_refused_architecture_is_refused_before_its_weights_are_downloaded(
    hub: HubServer, folder: Path
) -> None:
    (folder / "config.json").write_text(json.dumps(config("tiny", use_alibi=True)))
    hub.add("someone/dalle", folder)
    with pytest.raises(UnsupportedModelError, match="someone/dalle has use_alibi True"):
        read_checkpoint(open_source("someone/dalle"), component="transformer")
    assert not [line for line in hub.requests if "msgpack" in line]


@pytest.mark.parametrize("name", ["flax-community/dalle-mini", "nev/dalle-mini-pytorch"])
def test_older_models_are_refused_before_their_weights_are_downloaded(
    hub: HubServer, tmp_path: Path, name: str
) -> None:
    (tmp_path / "bart").mkdir()
    (tmp_path / "bart/config.json").write_text('{"model_type": "bart"}')
    (tmp_path / "bart/flax_model.msgpack").write_bytes(b"\x80")
    hub.add(name, tmp_path / "bart")
    with pytest.raises(UnsupportedModelError, match=f"{name} is a BART model"):
        read_checkpoint(open_source(name), component="transformer")
    assert not [line for line in hub.requests if "msgpack" in line]


# What is said when nothing fits


@pytest.mark.parametrize(
    "weights", ["model.safetensors", "pytorch_model.bin", "flax_model.msgpack"]
)
def test_bart_model_is_refused_whatever_its_file(tmp_path: Path, weights: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bart", "image_vocab_size": 16384}')
    (tmp_path / weights).touch()
    with pytest.raises(UnsupportedModelError, match=r"model_type 'bart'.*dalle-mini/dalle-mini"):
        read_checkpoint(open_source(tmp_path), component="transformer")


@pytest.mark.parametrize("component", ["transformer", "vqgan", "clip"])
def test_unknown_folder_lists_what_is_there_and_what_is_known(
    tmp_path: Path, component: Component
) -> None:
    (tmp_path / "odd.txt").touch()
    message = r"not a \w+ in a known format .*native: config.json .* it holds odd.txt"
    with pytest.raises(MissingFileError, match=message):
        read_checkpoint(open_source(tmp_path), component=component)


def test_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="it holds no files"):
        read_checkpoint(open_source(tmp_path), component="clip")


def test_pipeline_folder_points_to_its_part(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"whole pipeline.* subfolder='vqgan'"):
        read_checkpoint(open_source(tmp_path), component="vqgan")


def test_named_file_that_is_no_weights_is_refused(folder: Path) -> None:
    (folder / "notes.txt").touch()
    with pytest.raises(MissingFileError, match=r"notes.txt of .* is not a Transformer"):
        read_checkpoint(open_source(folder / "notes.txt"), component="transformer")


def test_unknown_component_is_refused(folder: Path) -> None:
    component: Any = "tokenizer"
    with pytest.raises(InputError, match="component must be one of transformer, vqgan, clip"):
        read_checkpoint(open_source(folder), component=component)


# Looking, and converting by hand


def test_describe_reads_no_weights(folder: Path) -> None:
    name, found = describe(open_source(folder), component="transformer")
    assert name == "DalleBart (Flax)"
    assert sum(tensor.nbytes for tensor in found.tensors.values()) > 900_000
    assert found.config["d_model"] == 64


def test_convert_writes_a_native_folder(folder: Path, tmp_path: Path, cache: Path) -> None:
    output = convert(open_source(folder), tmp_path / "a/b", component="transformer")
    direct = read_checkpoint(open_source(folder), component="transformer", cache_dir=cache)
    native = read_checkpoint(open_source(output), component="transformer", cache_dir=cache)
    assert native.format == "native"
    assert native.config == direct.config
    for name, tensor in direct.state_dict.items():
        assert torch.equal(native.state_dict[name], tensor)


def test_convert_changes_the_dtype_on_request(folder: Path, tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        source = open_source(folder)
        output = convert(source, tmp_path / "out", component="transformer", dtype=dtype)
        found = read_checkpoint(open_source(output), component="transformer")
        assert {tensor.dtype for tensor in found.state_dict.values()} == {dtype}


def test_convert_shrinks_a_native_folder_in_place(folder: Path, tmp_path: Path) -> None:
    output = convert(open_source(folder), tmp_path / "out", component="transformer")
    whole = (output / "model.safetensors").stat().st_size
    convert(open_source(output), output, component="transformer", dtype=torch.float16)
    assert (output / "model.safetensors").stat().st_size < 0.6 * whole


def test_convert_refuses_other_dtypes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dtype must be a floating-point type .* not torch.int8"):
        convert(open_source(folder), tmp_path, component="transformer", dtype=torch.int8)


def test_convert_into_a_file_is_reported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"Could not make .*file .* Choose another folder"):
        convert(open_source(folder), tmp_path / "file", component="transformer")


def test_weights_that_disagree_leave_no_conversion(folder: Path, cache: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config("tiny", image_length=257)))
    for source in (hub.open(folder), hub.open(folder, hub.Where(cache_dir=cache))):
        with pytest.raises(CheckpointError, match=r"model holds .* asks for \(257, 64\)"):
            read_checkpoint(source, component="transformer", expected=Transformer.expected_shapes)
        with pytest.raises(CheckpointError, match=r"model holds .* asks for \(257, 64\)"):
            convert(
                source,
                cache / "out",
                component="transformer",
                expected=Transformer.expected_shapes,
            )
    assert conversions(cache) == []


def test_the_cache_is_that_of_the_source(folder: Path, cache: Path) -> None:
    read_checkpoint(hub.open(folder, hub.Where(cache_dir=cache)), component="transformer")
    assert len(conversions(cache)) == 1


def test_a_format_that_refuses_does_not_hide_the_next(folder: Path) -> None:
    # DalleBart's Flax files and min-dalle's VQGAN: the Flax format of VQGANs refuses the former
    (folder / "detoker.pt").touch()
    claim = find_format(hub.open(folder), "vqgan")
    assert claim is not None
    assert claim.names == ("detoker.pt",)
    (folder / "detoker.pt").unlink()
    with pytest.raises(CheckpointError, match="holds a Transformer, not a VQGAN"):
        find_format(hub.open(folder), "vqgan")
