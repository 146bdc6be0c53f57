"""Tiny upscalers of both kinds, and ncnn's files of them, for tests."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from dallemini.models import Upscaler, UpscalerConfig

COMPACT = UpscalerConfig(width=5, num_blocks=2, name="net")
RRDB = UpscalerConfig(architecture="rrdb", width=6, num_blocks=2, growth=3, name="net")
LEAKY = " 9=2 -23310=1,2.000000e-01"


def tensors_of(upscaler: Upscaler) -> dict[str, torch.Tensor]:
    return {name.removeprefix("network."): value for name, value in upscaler.state_dict().items()}


def write_ncnn(folder: Path, upscaler: Upscaler, *, half: bool = True) -> Path:
    """Write a model as ncnn does: names of layers mean nothing, their order does."""
    lines, binary = ["Input in 0 1 data"], b""
    values = tensors_of(upscaler)
    for number, name in enumerate(name for name in values if name.endswith(".weight")):
        weight = values[name].numpy()
        if weight.ndim == 1:
            lines.append(f"PReLU p{number} 1 1 a b 0={weight.size}")
            binary += weight.astype("<f4").tobytes()
            continue
        rectified = ("rdb" in name and "conv5" not in name) or "up" in name or "hr" in name
        lines.append(
            f"Convolution c{number} 1 1 a b 0={len(weight)} 1=3 4=1 5=1 6={weight.size}"
            + (LEAKY if rectified else "")
        )
        raw = weight.astype("<f2" if half else "<f4").tobytes()
        binary += struct.pack("<I", 0x01306B47 if half else 0) + raw + b"\0" * (-len(raw) % 4)
        binary += values[name.replace("weight", "bias")].numpy().astype("<f4").tobytes()
    compact = upscaler.config.architecture == "compact"
    lines += ["PixelShuffle s 1 1 a b 0=4"] if compact else ["Interp i 1 1 a b 0=1 1=2 2=2"]
    lines += ["Interp i 1 1 a b 0=1 1=2.000000e+00 2=2.000000e+00", "BinaryOp o 2 1 a b c"]
    (folder / "net.bin").write_bytes(binary)
    path = folder / "net.param"
    path.write_text("7767517\n1 1\n" + "\n".join(lines) + "\n")
    return path
