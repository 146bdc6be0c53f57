"""Unpacks the recorded checkpoint that is kept packed, to save space."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import numpy as np


def unpack_taming(fixtures: Path, folder: Path) -> Path:
    """Write `last.ckpt` and `model.yaml` of taming-transformers into a folder and return it."""
    packed = lzma.decompress((fixtures / "taming-tiny/last.ckpt.planes.xz").read_bytes())
    planes = np.frombuffer(packed, np.uint8).reshape(4, -1)
    (folder / "last.ckpt").write_bytes(planes.T.tobytes()[:-1])  # one byte of padding
    shutil.copy(fixtures / "taming-tiny/model.yaml", folder)
    return folder
