"""Native files that others wrote again: prefixed names, other types, marks that are not true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dallemini import VQGAN, Transformer
from dallemini.checkpoints import convert
from dallemini.errors import CheckpointError
from dallemini.hub.source import open_source
from dallemini.testing import tiny_transformer, tiny_vqgan


def save_prefixed(model: Transformer, folder: Path, prefix: str) -> Path:
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in load_file(path).items()}, path)
    return folder


def assert_same(loaded: Transformer, model: Transformer) -> None:
    found, expected = loaded.state_dict(), model.state_dict()
    assert [*found] == [*expected]
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_prefixed_int8_weights_are_read(tmp_path: Path, prefix: str) -> None:
    model = tiny_transformer().quantize()
    folder = save_prefixed(model, tmp_path, prefix)
    assert_same(Transformer.from_pretrained(folder), model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_prefixed_weights_are_quantised_while_loading(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_transformer().to(dtype)
    folder = save_prefixed(model, tmp_path, "module.")
    assert_same(Transformer.from_pretrained(folder, dtype="int8"), model.quantize())


@pytest.mark.parametrize("quantised", [False, True])
def test_conversion_takes_the_prefix_off(tmp_path: Path, quantised: bool) -> None:
    model = tiny_transformer().quantize() if quantised else tiny_transformer()
    source = open_source(save_prefixed(model, tmp_path / "first", "module."))
    convert(source, tmp_path / "second", component="transformer")
    assert {*load_file(tmp_path / "second" / "model.safetensors")} == {*model.state_dict()}
    assert_same(Transformer.from_pretrained(tmp_path / "second"), model)


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_not_floating_point_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    tiny_transformer().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.to(kind) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=rf"holds {kind}, but weights are float16"):
        Transformer.from_pretrained(tmp_path)


def test_a_part_that_has_no_int8_weights_is_not_marked_so(tmp_path: Path) -> None:
    tiny_vqgan().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["dallemini"]["quantization"] = "int8"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="quantised as 'int8', which a VQGAN cannot be"):
        VQGAN.from_pretrained(tmp_path)
