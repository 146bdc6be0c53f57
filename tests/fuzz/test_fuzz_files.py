"""Readers of weights: mutated bytes and mutated structures; see tests/fuzzing.py for the rule.

`python -m pytest -n 0 tests/fuzz --fuzz-seconds 3600` searches an hour with each test.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import save

import fuzzing
from dallemini.checkpoints.flax_msgpack import read_flax, read_weight_map
from dallemini.checkpoints.lazy import LazyTensor, check_weights
from dallemini.checkpoints.rules import Rule, assemble
from dallemini.checkpoints.safetensors_file import read_safetensors
from dallemini.checkpoints.torch_file import read_torch
from dallemini.config import read_json, read_yaml
from dallemini.data.prompts import read_prompts
from dallemini.errors import CheckpointError, DalleMiniError
from dallemini.evaluation.audit_prompts import SETS, AuditPrompts
from dallemini.evaluation.reading import read_captions
from dallemini.hub.figures import figures_table
from dallemini.pipeline.bulk import Manifest
from dallemini.pipeline.cards import read_evaluation
from dallemini.pipeline.release import check_sums, fill_card
from dallemini.safety import WordSafetyChecker
from fuzzing import Search, edit_file, edit_tree, file_edits, tree_edits

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


FIGURE = {"value": 1.5, "low": 1.0, "high": 2.0, "count": 9}
CARD = "---\nlicense: mit\ntags: [a, b]\n---\n\n# Mine\n\n## Use\n\ntext\n"
MANIFEST = b'{"settings": "a", "number": 1, "prompt": "b", "first_seed": 0, "file": "1.png"}\n'


def list_figures(path: Path) -> None:
    figures_table(read_evaluation(path))


def fill(path: Path) -> None:
    text = path.read_text(encoding="utf-8", errors="replace")
    fill_card(text, [], header={"license": "apache-2.0"})


def sums(path: Path) -> None:
    (path.parent / "a.json").write_bytes(b"")
    with contextlib.suppress(CheckpointError):  # it has other bytes
        check_sums(path.parent)


def words(path: Path) -> None:
    WordSafetyChecker.from_file(path).check_prompt("a bad word of acme")


def parquet_bytes() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a", "b"], "n": [1, 2]}), file)
    return file.getvalue()


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
    "report.json": (json.dumps({"a": {"b": [FIGURE]}}).encode(), list_figures),
    "README.md": (CARD.encode(), fill),
    "SHA256SUMS": (f"{'0' * 64}  a.json\n".encode(), sums),
    "prompts.txt": (b"a red apple\n\na blue bird\n", read_prompts),
    "prompts.jsonl": (b'{"prompt": "a"}\n{"prompt": "b", "n": 1}\n', read_prompts),
    "prompts.csv": (b'n,prompt\n1,"a, b"\n2,c\n', read_prompts),
    "prompts.parquet": (parquet_bytes(), read_prompts),
    "captions": (b"a red apple\na blue bird\n", read_captions),
    "words": (b"acme # a brand\nbad word\n", words),
    "audit.yaml": ((SETS / "foods.yaml").read_bytes(), AuditPrompts.open),
    "manifest.jsonl": (MANIFEST, lambda path: Manifest(path.parent).known()),
}


@pytest.mark.parametrize("name", FILES)
def test_mutated_bytes_are_read_or_refused(tmp_path: Path, name: str, search: Search) -> None:
    content, read = FILES[name]
    read(write(tmp_path / name, content))  # the file itself is good

    def check(edit: Any) -> None:
        read(write(tmp_path / name, edit_file(name, content, edit)))

    search(check, file_edits(name))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def tree_with(edits: Any) -> Any:
    plain = {**TREE, "state_dict": dict(TREE["state_dict"])}
    plain["optimizer_states"] = copy.deepcopy(TREE["optimizer_states"])
    return edit_tree(plain, edits)


def test_mutated_torch_trees_are_read_or_refused(tmp_path: Path, search: Search) -> None:
    path = tmp_path / "a.pt"

    def check(edits: Any) -> None:
        path.write_bytes(torch_bytes(tree_with(edits), zipped=len(edits) % 2 == 0))
        load_all(read_torch(path))

    search(check, tree_edits)


def test_mutated_flax_trees_are_read_or_refused(tmp_path: Path, search: Search) -> None:
    path = tmp_path / "a.msgpack"

    def check(edits: Any) -> None:
        path.write_bytes(msgpack.packb(packed(tree_with(edits)), strict_types=False))
        load_all(read_flax(path))

    search(check, tree_edits)


def test_the_rule_notices_what_breaks_it(tmp_path: Path) -> None:
    def fails(_: Any) -> None:
        raise KeyError("foreign")

    def talks(_: Any) -> None:
        raise DalleMiniError("x" * 1000)

    with pytest.raises(KeyError, match="foreign"):
        fuzzing.search(fails, st.just(()), 0)
    with pytest.raises(AssertionError, match="a message of 1000 characters"):
        fuzzing.search(talks, st.just(()), 0)
