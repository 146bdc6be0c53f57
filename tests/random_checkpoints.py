"""Random DalleBart checkpoints in the released Flax format, of any size, without JAX.

Weights are written in pieces of 16 MiB, so that mega's 10.35 GB need little memory. As a script:

    python tests/random_checkpoints.py mini FOLDER
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tree = Mapping[str, Any]
"""Nested mappings of arrays and `Leaf`s."""

_BLOCK = 1 << 22  # elements: 16 MiB of float32
_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


def config(size: str, **changes: Any) -> dict[str, Any]:
    """Return the `config.json` of a size: "tiny", "mini" or "mega"."""
    sizes: dict[str, dict[str, Any]] = {
        "tiny": {"d_model": 64, "layers": 2, "heads": 4, "ffn": 96, "text": 300, "image": 128},
        "mini": {"d_model": 1024, "layers": 12, "heads": 16, "ffn": 2730, "text": 50264},
        "mega": {"d_model": 2048, "layers": 24, "heads": 32, "ffn": 4096, "text": 50272},
    }
    chosen = {"image": {"mini": 16384, "mega": 16415}.get(size), **sizes[size]}
    values = {
        "architectures": ["eBart"],
        "model_type": "dallebart",
        "d_model": chosen["d_model"],
        "encoder_vocab_size": chosen["text"],
        "image_vocab_size": chosen["image"],
        "image_length": 256,
        "max_text_length": 64,
        "decoder_start_token_id": min(chosen["image"], 16384),
        "ln_positions": "normformer",
        "use_scan": True,
    }
    for side in ("encoder", "decoder"):
        values[f"{side}_layers"] = chosen["layers"]
        values[f"{side}_attention_heads"] = chosen["heads"]
        values[f"{side}_ffn_dim"] = chosen["ffn"]
    return values | changes


def leaf_shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the '/'-joined names and shapes of a DalleBart parameter tree."""
    width, rows = values["d_model"], values["image_vocab_size"] + 1
    shapes: dict[str, tuple[int, ...]] = {"lm_head/kernel": (width, rows)}
    tables = {
        "encoder": (values["encoder_vocab_size"], values["max_text_length"]),
        "decoder": (rows, values["image_length"]),
    }
    for side, (vocabulary, positions) in tables.items():
        stem, layers = f"model/{side}", values[f"{side}_layers"]
        shapes[f"{stem}/embed_tokens/embedding"] = (vocabulary, width)
        shapes[f"{stem}/embed_positions/embedding"] = (positions, width)
        shapes[f"{stem}/layernorm_embedding/scale"] = (width,)
        shapes[f"{stem}/layernorm_embedding/bias"] = (width,)
        shapes[f"{stem}/final_ln/bias"] = (width,)
        name = f"{stem}/layers/FlaxBart{side.title()}Layer"
        for leaf, shape in _layer(width, values[f"{side}_ffn_dim"], side).items():
            if values.get("use_scan", True):
                shapes[f"{name}s/{leaf}"] = (layers, *shape)
            else:
                shapes |= {f"{name}_{index}/{leaf}": shape for index in range(layers)}
    return shapes


def _layer(width: int, ffn: int, side: str) -> dict[str, tuple[int, ...]]:
    attentions = 1 + (side == "decoder")
    shapes: dict[str, tuple[int, ...]] = {
        "GLU_0/LayerNorm_0/bias": (width,),
        "GLU_0/LayerNorm_1/bias": (ffn,),
        "GLU_0/Dense_0/kernel": (width, ffn),
        "GLU_0/Dense_1/kernel": (width, ffn),
        "GLU_0/Dense_2/kernel": (ffn, width),
    }
    for index in range(attentions):
        for part in ("q", "k", "v", "out"):
            shapes[f"FlaxBartAttention_{index}/{part}_proj/kernel"] = (width, width)
        shapes[f"LayerNorm_{2 * index}/bias"] = (width,)
        shapes[f"LayerNorm_{2 * index + 1}/bias"] = (width,)
        shapes[f"LayerNorm_{2 * index + 1}/scale"] = (width,)
    return shapes


def write_transformer(
    folder: Path, values: Mapping[str, Any], *, dtype: str = "float32", seed: int = 0
) -> Path:
    """Write `config.json` and `flax_model.msgpack` into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(values), indent=2))
    leaves = {name: Leaf(name, shape, dtype, seed) for name, shape in leaf_shapes(values).items()}
    write_flax(folder / "flax_model.msgpack", nested(leaves))
    return folder


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A random array that is made while it is written.

    Attributes:
        name: its '/'-joined name; scales are around 1, everything else around 0.
        shape: its shape.
        dtype: "float32", "float16" or "bfloat16".
        seed: of the random values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    seed: int = 0

    def blocks(self) -> Iterator[Array]:
        """Yield the values in pieces; every piece of one leaf starts elsewhere in one block."""
        values = _normal(self.seed)
        left, start = math.prod(self.shape), sum(self.name.encode()) * 1009
        while left:
            start = (start + 7919) % values.size
            piece = values[start : start + left]
            yield _stored(piece * np.float32(0.02) + (self.name.endswith("/scale")), self.dtype)
            left -= piece.size

    def array(self) -> Array:
        """Return the whole array, bfloat16 as the integers that store it."""
        return np.concatenate([*self.blocks(), np.empty(0, _DTYPES[self.dtype])]).reshape(
            self.shape
        )


_blocks: dict[int, Array] = {}


def _normal(seed: int) -> Array:
    if seed not in _blocks:
        _blocks[seed] = np.random.default_rng(seed).standard_normal(_BLOCK, dtype=np.float32)
    return _blocks[seed]


def _stored(values: Array, dtype: str) -> Array:
    values = values.astype(np.float32)
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(_DTYPES[dtype])


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Turn '/'-joined names into nested mappings."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return tree


def write_flax(path: Path, tree: Tree) -> None:
    """Write a tree as `flax.serialization.to_bytes` does, array by array."""
    with path.open("wb") as file:
        _write(file, tree)


def _write(file: BinaryIO, value: Any) -> None:
    if isinstance(value, Mapping):
        file.write(msgpack.Packer().pack_map_header(len(value)))
        for key, child in value.items():
            file.write(msgpack.packb(key))
            _write(file, child)
    elif isinstance(value, Leaf):
        _write_array(file, value.shape, value.dtype, value.blocks())
    elif isinstance(value, np.ndarray):
        _write_array(file, value.shape, value.dtype.name, iter([np.ascontiguousarray(value)]))
    else:
        file.write(msgpack.packb(value))


def _write_array(
    file: BinaryIO, shape: tuple[int, ...], dtype: str, blocks: Iterator[Array]
) -> None:
    itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
    size = math.prod(shape) * itemsize
    head = msgpack.packb((shape, dtype))
    head = bytes([head[0] + 1]) + head[1:] + b"\xc6" + size.to_bytes(4, "big")  # a third entry
    file.write(b"\xc9" + (len(head) + size).to_bytes(4, "big") + b"\x01" + head)
    for block in blocks:
        file.write(block.tobytes())


def main() -> None:
    """Write a checkpoint from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=("tiny", "mini", "mega"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=tuple(_DTYPES), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    values = config(arguments.size)
    write_transformer(arguments.folder, values, dtype=arguments.dtype, seed=arguments.seed)


if __name__ == "__main__":
    main()
