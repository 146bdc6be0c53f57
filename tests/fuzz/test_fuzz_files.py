"""Readers of weights: mutated bytes and mutated structures; see tests/fuzzing.py for the rule.

`python -m pytest -n 0 tests/fuzz --fuzz-seconds 3600` searches an hour with each test.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save

from dallemini.checkpoints.flax_msgpack import read_flax, read_weight_map
from dallemini.checkpoints.lazy import LazyTensor, check_weights
from dallemini.checkpoints.rules import Rule, assemble
from dallemini.checkpoints.safetensors_file import read_safetensors
from dallemini.checkpoints.torch_file import read_torch
from dallemini.config import read_json, read_yaml
from dallemini.errors import DalleMiniError
from fuzzing import byte_edits, edit_bytes, edit_tree, search, tree_edits

TREE: dict[str, Any] = {
    "epoch": 3,
    "state_dict": {
        "encoder.weight": torch.arange(12.0).reshape(3, 4).T,
        "encoder.bias": torch.zeros(3, dtype=torch.float16),
        "decoder.0.weight": torch.ones(2, 2, dtype=torch.bfloat16),
    },
    "optimizer_states": [{"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}}],
    "best": np.float64(0.5),
}
TABLE = (Rule("{rest}", ("{rest}.weight",)), Rule("{rest}.bias", ("{rest}.bias",)))


def load_all(tensors: Mapping[str, LazyTensor]) -> None:
    """Use what a reader described."""
    for tensor in tensors.values():
        tensor.load()
    check_weights(tensors.values(), origin="file")
    assemble(tensors, TABLE, origin="file")


def torch_bytes(tree: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def packed(value: Any) -> Any:
    """Turn arrays into what Flax writes."""
    if isinstance(value, torch.Tensor):
        array = value.float().contiguous().numpy()
        content = msgpack.packb((list(array.shape), array.dtype.name, array.tobytes()))
        return msgpack.ExtType(1, content)
    if isinstance(value, dict):
        return {str(key): packed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [packed(child) for child in value]
    return None if isinstance(value, int) and value.bit_length() > 63 else value


def read_safe(path: Path) -> None:
    load_all({name: LazyTensor.of(name, x) for name, x in read_safetensors(path).items()})


JSON = {"a": [1, 2.5, {"b": None}], "c": "text", "weight_map": {"x/y": "one.msgpack"}}
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a.pt": (torch_bytes(TREE), lambda path: load_all(read_torch(path))),
    "old.pt": (torch_bytes(TREE, zipped=False), lambda path: load_all(read_torch(path))),
    "a.safetensors": (save({"a.weight": torch.ones(3, 2), "b.bias": torch.ones(1)}), read_safe),
    "a.msgpack": (
        msgpack.packb(packed(TREE["state_dict"])),
        lambda path: load_all(read_flax(path)),
    ),
    "a.json": (json.dumps(JSON).encode(), read_json),
    "index.json": (json.dumps(JSON).encode(), read_weight_map),
    "a.yaml": (yaml.safe_dump(JSON).encode(), read_yaml),
}


@pytest.mark.parametrize("name", FILES)
def test_mutated_bytes_are_read_or_refused(tmp_path: Path, name: str, seconds: float) -> None:
    content, read = FILES[name]
    read(write(tmp_path / name, content))  # the file itself is good

    def check(edits: Any) -> None:
        read(write(tmp_path / name, edit_bytes(content, edits)))

    search(check, byte_edits, seconds)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def tree_with(edits: Any) -> Any:
    plain = {**TREE, "state_dict": dict(TREE["state_dict"])}
    plain["optimizer_states"] = copy.deepcopy(TREE["optimizer_states"])
    return edit_tree(plain, edits)


def test_mutated_torch_trees_are_read_or_refused(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.pt"

    def check(edits: Any) -> None:
        path.write_bytes(torch_bytes(tree_with(edits), zipped=len(edits) % 2 == 0))
        load_all(read_torch(path))

    search(check, tree_edits, seconds)


def test_mutated_flax_trees_are_read_or_refused(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "a.msgpack"

    def check(edits: Any) -> None:
        path.write_bytes(msgpack.packb(packed(tree_with(edits)), strict_types=False))
        load_all(read_flax(path))

    search(check, tree_edits, seconds)


def test_mutated_safetensors_headers_are_read_or_refused(tmp_path: Path, seconds: float) -> None:
    content = FILES["a.safetensors"][0]
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])

    def check(edits: Any) -> None:
        text = json.dumps(edit_tree(copy.deepcopy(header), edits)).encode()
        data = len(text).to_bytes(8, "little") + text + content[8 + length :]
        read_safe(write(tmp_path / "a.safetensors", data))

    search(check, tree_edits, seconds)


def test_the_rule_notices_what_breaks_it(tmp_path: Path) -> None:
    def fails(_: Any) -> None:
        raise KeyError("foreign")

    def talks(_: Any) -> None:
        raise DalleMiniError("x" * 1000)

    with pytest.raises(KeyError, match="foreign"):
        search(fails, st.just(()), 0)
    with pytest.raises(AssertionError, match="a message of 1000 characters"):
        search(talks, st.just(()), 0)
