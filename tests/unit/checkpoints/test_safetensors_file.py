"""Tests of `dallemini.checkpoints.safetensors_file`: what is written is whole, or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dallemini.checkpoints.lazy import LazyTensor
from dallemini.checkpoints.safetensors_file import (
    WEIGHTS_FILE,
    read_safetensors,
    save_checkpoint,
    write_safetensors,
)
from dallemini.errors import CheckpointError, InputTypeError, MissingFileError, StorageError
from full_disk import full_disk

STATE = {
    "byte": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "flag": torch.tensor([True]),
    "bf16": torch.randn(3, 5).bfloat16(),
    "f16": torch.randn(3).half(),
    "f32": torch.randn(2, 3),
    "f64": torch.randn(1).double(),
    "i64": torch.tensor(7),
    "i32": torch.tensor([1, -1], dtype=torch.int32),
    "empty": torch.zeros(0, 4),
    "turned": torch.randn(4, 3).T,
    "ünïcode/name": torch.ones(1),
}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_written_file_reads_back(tmp_path: Path) -> None:
    path = save_checkpoint(STATE, tmp_path)
    assert path == tmp_path / WEIGHTS_FILE
    assert_same(read_safetensors(path), STATE)


def test_reference_reader_agrees(tmp_path: Path) -> None:
    assert_same(load_file(save_checkpoint(STATE, tmp_path)), STATE)


def test_every_tensor_is_aligned(tmp_path: Path) -> None:
    content = save_checkpoint(STATE, tmp_path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % STATE[name].dtype.itemsize == 0


def test_metadata_is_kept(tmp_path: Path) -> None:
    content = save_checkpoint({}, tmp_path, metadata={"step": "3"}).read_bytes()
    assert json.loads(content[8:])["__metadata__"] == {"format": "pt", "step": "3"}


def test_parameters_are_saved_without_their_gradient(tmp_path: Path) -> None:
    path = save_checkpoint({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path)
    assert not read_safetensors(path)["a"].requires_grad


def test_tensors_are_loaded_one_at_a_time(tmp_path: Path) -> None:
    alive: list[str] = []

    def lazy(name: str) -> LazyTensor:
        def load() -> Tensor:
            alive.append(name)
            # The file already holds what was loaded before.
            (part,) = tmp_path.glob(".*")
            assert part.stat().st_size >= (len(alive) - 1) * (1 << 20)
            return torch.zeros(1 << 18)

        return LazyTensor(name, (1 << 18,), torch.float32, load)

    write_safetensors({name: lazy(name) for name in "abc"}, tmp_path / "file.safetensors")
    assert alive == ["a", "b", "c"]


def test_unfinished_file_never_replaces_the_old_one(tmp_path: Path) -> None:
    save_checkpoint({"a": torch.ones(3)}, tmp_path)

    def fail() -> Tensor:
        raise CheckpointError("the source is damaged")

    broken = {"a": LazyTensor("a", (3,), torch.float32, fail)}
    with pytest.raises(CheckpointError, match="the source is damaged"):
        write_safetensors(broken, tmp_path / WEIGHTS_FILE)
    assert os.listdir(tmp_path) == [WEIGHTS_FILE]
    assert read_safetensors(tmp_path / WEIGHTS_FILE)["a"].sum() == 3


def test_mapped_tensors_survive_the_replacement_of_their_file(tmp_path: Path) -> None:
    mapped = read_safetensors(save_checkpoint({"a": torch.ones(5000)}, tmp_path))
    save_checkpoint({"a": mapped["a"] * 2}, tmp_path)
    assert mapped["a"].sum() == 5000
    assert read_safetensors(tmp_path / WEIGHTS_FILE)["a"].sum() == 10000


def test_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Could not write .*model.safetensors \(No such file"):
        save_checkpoint({"a": torch.ones(1)}, tmp_path / "nothing")


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS_FILE).write_bytes(b"older")
    message = rf"{WEIGHTS_FILE} \(File too large\)\. Free some space"
    with full_disk(100_000), pytest.raises(StorageError, match=message):
        save_checkpoint({"a": torch.ones(1000), "b": torch.ones(100_000)}, tmp_path)
    assert os.listdir(tmp_path) == [WEIGHTS_FILE]
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == b"older"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [1.0]}, "'a' must be a tensor to be saved, not list"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "'a' is torch.complex64, which safetensors"),
    ],
)
def test_values_that_cannot_be_saved_are_refused(
    tmp_path: Path, state: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputTypeError, match=message):
        save_checkpoint(state, tmp_path)
    assert os.listdir(tmp_path) == []


def test_truncated_file_says_what_to_do(tmp_path: Path) -> None:
    content = save_checkpoint(STATE, tmp_path).read_bytes()
    path = tmp_path / "cut.safetensors"
    for end in (1, 8, 50, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"cut.safetensors is truncated .* download it"):
            read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer: run git lfs pull"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b"\xff" * 16, "its header says more"),
        (
            (5 << 20).to_bytes(8, "little") + b" " * (5 << 20),
            "header of 5242880 bytes, but at most",
        ),
    ],
)
def test_other_file_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.thorough
def test_file_of_more_tensors_than_a_model_has_is_refused(tmp_path: Path) -> None:
    state = {f"a{number}": torch.zeros(0) for number in range(20_001)}
    with pytest.raises(CheckpointError, match="holds more than 20000 tensors"):
        read_safetensors(save_checkpoint(state, tmp_path))


def test_name_that_is_not_utf8_is_the_reason_and_not_the_file(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    path = save_checkpoint({"weight": torch.ones(2)}, tmp_path).rename(folder / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"/\\udcff/a\.safetensors is not a name in UTF-8"):
        read_safetensors(path)
    with pytest.raises(StorageError, match=r"is not a name in UTF-8.* rename the folder"):
        save_checkpoint({"weight": torch.ones(2)}, folder)
    assert [entry.name for entry in folder.iterdir()] == ["a.safetensors"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file .*nothing"):
        read_safetensors(tmp_path / "nothing")
