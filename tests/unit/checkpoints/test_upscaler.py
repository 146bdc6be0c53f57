"""Upscalers in files: sizes told by shapes, ncnn's lists of layers and their weights."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from dallemini.checkpoints.lazy import LazyTensor
from dallemini.checkpoints.upscaler import PREFIX, infer_config, read_ncnn
from dallemini.errors import CheckpointError
from dallemini.models.upscaler import Upscaler, UpscalerConfig

COMPACT = UpscalerConfig(width=5, blocks=2)
RRDB = UpscalerConfig(architecture="rrdb", scale=4, width=6, blocks=2, growth=3)


def tensors_of(upscaler: Upscaler) -> dict[str, torch.Tensor]:
    return {name.removeprefix(PREFIX): value for name, value in upscaler.state_dict().items()}


def write_ncnn(folder: Path, upscaler: Upscaler, *, half: bool) -> Path:
    """Write a model as ncnn does: names of layers mean nothing, their order does."""
    lines, binary = ["Input in 0 1 data"], b""
    values = tensors_of(upscaler)
    for number, name in enumerate(name for name in values if name.endswith(".weight")):
        weight = values[name].numpy()
        if weight.ndim == 1:
            lines.append(f"PReLU p{number} 1 1 a b 0={weight.size}")
            binary += weight.astype("<f4").tobytes()
            continue
        lines.append(
            f"Convolution c{number} 1 1 a b 0={len(weight)} 1=3 4=1 5=1 6={weight.size} "
            "9=2 -23310=1,2.000000e-01"
        )
        raw = weight.astype("<f2" if half else "<f4").tobytes()
        binary += struct.pack("<I", 0x01306B47 if half else 0) + raw + b"\0" * (-len(raw) % 4)
        binary += values[name.replace("weight", "bias")].numpy().astype("<f4").tobytes()
    (folder / "net.bin").write_bytes(binary)
    path = folder / "net.param"
    path.write_text("7767517\n1 1\n" + "\n".join(lines) + "\nPixelShuffle s 1 1 a b 0=4\n")
    return path


@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("config", [COMPACT, RRDB], ids=["compact", "rrdb"])
def test_ncnn_model_is_read_as_it_was_written(
    tmp_path: Path, config: UpscalerConfig, half: bool
) -> None:
    upscaler = Upscaler.from_config(config, seed=3)
    tensors = read_ncnn(write_ncnn(tmp_path, upscaler, half=half))
    assert UpscalerConfig.from_dict(infer_config(tensors, origin="it")) == config
    for name, value in tensors_of(upscaler).items():
        expected = value.half().float() if half and value.ndim == 4 else value
        assert torch.equal(tensors[name].load(), expected)


def test_damaged_ncnn_files_are_refused(tmp_path: Path) -> None:
    path = write_ncnn(tmp_path, Upscaler.from_config(COMPACT), half=True)
    content, layers = path.with_suffix(".bin").read_bytes(), path.read_text()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            read_ncnn(path)

    path.with_suffix(".bin").write_bytes(content[:-100])
    refused("ends within|describes")
    path.with_suffix(".bin").write_bytes(content + b"\0" * 4)
    refused("use files that belong together")
    path.with_suffix(".bin").write_bytes(b"\1\2\3\4" + content[4:])
    refused("weights of kind 0x04030201")
    path.with_suffix(".bin").write_bytes(b"")
    refused("cannot be read beside")
    path.with_suffix(".bin").unlink()
    refused("cannot be read beside")
    path.write_text(layers.replace("1=3", "1=5"))
    refused("a layer that no upscaler has")
    path.write_text("<html>")
    refused("begins otherwise")
    path.write_bytes(b"\xff\xfe")
    refused("cannot be read as ncnn's list")


def test_a_number_of_layers_that_no_upscaler_has_is_refused(tmp_path: Path) -> None:
    path = write_ncnn(tmp_path, Upscaler.from_config(RRDB), half=False)
    path.write_text("\n".join(path.read_text().split("\n")[:-5]))
    with pytest.raises(CheckpointError, match="not the number of an upscaler"):
        read_ncnn(path)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"body.0.weight": (8, 3, 3, 3)},
        {"body.999999999999999999999.weight": (8, 3, 3, 3)},
        {"conv_first.weight": (8, 5, 3, 3), "body.0.rdb1.conv1.weight": (4, 8, 3, 3)},
        {"conv_first.weight": (8, 3, 3, 3)},
    ],
)
def test_other_tensors_are_refused(shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = {
        name: LazyTensor(name, shape, torch.float32, _none) for name, shape in shapes.items()
    }
    with pytest.raises(CheckpointError, match="it is not an upscaler of Real-ESRGAN"):
        infer_config(tensors, origin="it")


def _none() -> torch.Tensor:
    return torch.from_numpy(np.zeros(0, np.float32))
