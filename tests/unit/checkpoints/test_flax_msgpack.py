"""Tests of `dallemini.checkpoints.flax_msgpack`: every kind of array, and every kind of damage."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from dallemini.checkpoints.flax_msgpack import (
    FLAX_INDEX,
    flax_files,
    read_flax,
    read_sharded_flax,
    read_weight_map,
)
from dallemini.errors import CheckpointError, MissingFileError
from dallemini.hub.source import open_source
from random_checkpoints import Leaf, write_flax

LEAF = b"\xc7\x0f\x01\x93\x91\x01\xa7float16\xc4\x02\x00\x00"  # one number


def array(*values: float, name: str = "float32") -> msgpack.ExtType:
    data = np.array(values, name).tobytes()
    return msgpack.ExtType(1, msgpack.packb(((len(values),), name, data)))


def write(path: Path, tree: Any) -> Path:
    path.write_bytes(msgpack.packb(tree))
    return path


# What the original wrote


def test_every_dtype_reads_as_recorded(fixtures: Path) -> None:
    folder = fixtures / "flax-msgpack"
    tensors = read_flax(folder / "plain.msgpack")
    with np.load(folder / "expected.npz") as expected:
        for key, name in (
            *(("a/kernel", "kernel"), ("a/half", "half"), ("i32", "i32"), ("i64", "i64")),
            *(("bool", "bool"), ("big", "big")),
        ):
            found = tensors[key].load().numpy()
            assert found.dtype == expected[name].dtype
            np.testing.assert_array_equal(found, expected[name])
        bfloat16 = tensors["bf16"].load()
        assert bfloat16.dtype == tensors["bf16"].dtype == torch.bfloat16
        np.testing.assert_array_equal(bfloat16.float().numpy(), expected["bf16_as_f32"])


def test_scalars_and_empty_arrays_read_as_recorded(fixtures: Path) -> None:
    tensors = read_flax(fixtures / "flax-msgpack/plain.msgpack")
    assert tensors["a/bias"].load().shape == (0,)
    assert (tensors["zero_d"].load().item(), tensors["zero_d"].shape) == (3.5, ())
    assert tensors["npscalar"].load().item() == 1.25
    assert not {"py/int", "py/str", "py/none", "py/float"}.intersection(tensors)


def test_chunked_array_is_joined(fixtures: Path) -> None:
    folder = fixtures / "flax-msgpack"
    tensors = read_flax(folder / "chunked.msgpack")
    with np.load(folder / "expected.npz") as expected:
        np.testing.assert_array_equal(tensors["x/big"].load().numpy(), expected["big"])
        for row in (0, 7, 32):  # 256-byte chunks hold 7.1 rows
            found = tensors["x/big"].row(row).load().numpy()
            np.testing.assert_array_equal(found, expected["big"][row])


# Ways of reading


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_equal_the_whole_array(tmp_path: Path, dtype: str) -> None:
    leaf = Leaf("stack", (3, 5, 7), dtype)
    write_flax(tmp_path / "file", {"odd": np.ones(3, np.uint8), "stack": leaf})
    tensor = read_flax(tmp_path / "file")["stack"]
    whole = tensor.load()
    bits = whole.view(torch.uint16) if dtype == "bfloat16" else whole
    np.testing.assert_array_equal(bits.numpy(), leaf.array())
    for row in range(3):
        assert torch.equal(tensor.row(row).load(), whole[row])


def test_loaded_tensors_are_aligned(tmp_path: Path) -> None:
    for padding in range(5):
        path = tmp_path / str(padding)
        write_flax(path, {"x" * (padding + 1): np.arange(9, dtype=np.float32)})
        (tensor,) = read_flax(path).values()
        assert tensor.load().data_ptr() % 4 == 0
        assert tensor.load().tolist() == list(range(9))


def test_loaded_tensor_can_be_changed_without_touching_the_file(tmp_path: Path) -> None:
    write_flax(tmp_path / "file", {"a": np.ones(4096, np.float32)})
    tensor = read_flax(tmp_path / "file")["a"]
    tensor.load().zero_()
    assert tensor.load().sum() == 4096


# Damage


def test_every_truncation_is_reported_with_its_place(tmp_path: Path, fixtures: Path) -> None:
    content = (fixtures / "flax-msgpack/plain.msgpack").read_bytes()
    path = tmp_path / "cut.msgpack"
    for end in [1, *range(2, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=rf"cut.msgpack is cut off after {end} bytes"):
            read_flax(path)


def test_truncation_names_the_array(tmp_path: Path) -> None:
    write_flax(tmp_path / "file", {"model": {"kernel": np.ones(100, np.float32)}})
    path = tmp_path / "file"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"in 'model/kernel': at least 8 bytes are missing"):
        read_flax(path)


def test_random_damage_never_escapes_as_another_error(tmp_path: Path, fixtures: Path) -> None:
    content = (fixtures / "flax-msgpack/plain.msgpack").read_bytes()
    generator = random.Random(0)
    path = tmp_path / "damaged.msgpack"
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            for tensor in read_flax(path).values():
                tensor.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xc1", "invalid type code 0xc1"),
        (b"\x01", "does not hold a tree"),
        (b"\x80\x00", "1 bytes behind its end"),
        (b"\x82\xa1a\x01\xa1a\x02", "key 'a' twice"),
        (b"\x81\xc0\x01", "key that is not a string"),
        (b"\x81\xa1\xff\x01", "not UTF-8"),
        (b"\x81\xa1a" * 70 + b"\x01", "nested too deeply"),
        (b"\x81" * 1500 + b"\x01", "nested too deeply"),  # maps as keys
        (b"\x81\xa1a" + b"\xc9\x00\x00\xff\xff\x01" * 1500, "nested too deeply|is cut off"),
        (b"\x82\xa1a\x81\xa1b" + LEAF + b"\xa3a/b" + LEAF, "holds 'a/b' twice"),
        (b"\x81\xa1a\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20), "more than 500000 values"),
    ],
)
def test_damaged_structure_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.msgpack"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_flax(path)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (((2,), "float32", bytes(4)), r"4 bytes for an array \(2,\) of torch.float32"),
        (((-1,), "float32", b""), r"array of the shape \[-1\]"),
        (((1,), "float8", bytes(1)), "unknown dtype 'float8'"),
        (((1,), "float32"), "without shape, dtype and data"),
    ],
)
def test_damaged_array_is_refused(tmp_path: Path, payload: Any, message: str) -> None:
    path = write(tmp_path / "file", {"a": msgpack.ExtType(1, msgpack.packb(payload))})
    with pytest.raises(CheckpointError, match=message):
        read_flax(path)


def test_array_that_is_shorter_than_its_frame_is_refused(tmp_path: Path) -> None:
    data = msgpack.packb(((1,), "float32", bytes(4))) + b"\x00"
    path = write(tmp_path / "file", {"a": msgpack.ExtType(1, data)})
    with pytest.raises(CheckpointError, match=r"array of the wrong size, at byte .* in 'a'"):
        read_flax(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": None}, "without shape and chunks"),
        ({"chunks": {}}, "without shape and chunks"),
        ({"shape": {"0": 3}}, r"16 bytes for an array \(3,\)"),
        ({"shape": {"0": "3"}}, r"chunked array of the shape \['3'\]"),
        ({"chunks": {"0": array(1), "1": array(2, name="float16")}}, "chunks of different kinds"),
        ({"chunks": {"0": 5}}, "chunks of different kinds"),
    ],
)
def test_damaged_chunks_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    chunked = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 4},
        "chunks": {"0": array(1, 2), "1": array(3, 4)},
    }
    assert read_flax(write(tmp_path / "good", {"a": chunked}))["a"].load().tolist() == [1, 2, 3, 4]
    with pytest.raises(CheckpointError, match=message):
        read_flax(write(tmp_path / "bad", {"a": chunked | changes}))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file .*nothing"):
        read_flax(tmp_path / "nothing")


def test_file_that_vanished_is_reported(tmp_path: Path) -> None:
    write_flax(tmp_path / "file", {"a": np.ones(3, np.float32)})
    tensor = read_flax(tmp_path / "file")["a"]
    (tmp_path / "file").unlink()
    with pytest.raises(CheckpointError, match="can no longer be read"):
        tensor.load()


# Shards


def write_shards(folder: Path, weight_map: dict[str, str] | None = None) -> Path:
    write_flax(folder / "one.msgpack", {"a": {"b": np.ones(2, np.float32)}})
    write_flax(folder / "two.msgpack", {"a": {"c": np.zeros(3, np.float32)}})
    weight_map = weight_map or {"a/b": "one.msgpack", "a/c": "two.msgpack"}
    index = folder / FLAX_INDEX
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def shards(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("one.msgpack", "two.msgpack")}


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    tensors = read_sharded_flax(write_shards(tmp_path), shards(tmp_path))
    assert {key: tensor.shape for key, tensor in tensors.items()} == {"a/b": (2,), "a/c": (3,)}


def test_flax_files_names_index_and_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert flax_files(open_source(tmp_path)) == (FLAX_INDEX, "one.msgpack", "two.msgpack")


def test_flax_files_prefers_the_whole_file(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "flax_model.msgpack").touch()
    assert flax_files(open_source(tmp_path)) == ("flax_model.msgpack",)
    assert flax_files(open_source(tmp_path / "one.msgpack")) == ("flax_model.msgpack",)
    chosen = flax_files(open_source(tmp_path / FLAX_INDEX))
    assert chosen is not None
    assert chosen[0] == FLAX_INDEX


def test_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a/b": "one.msgpack", "a/x": "two.msgpack"})
    with pytest.raises(CheckpointError, match=r"two.msgpack holds 'a/x', but it does not"):
        read_sharded_flax(index, shards(tmp_path))


def test_index_that_lists_too_little_is_refused(tmp_path: Path) -> None:
    index = write_shards(tmp_path, {"a/b": "one.msgpack"})
    write_flax(tmp_path / "one.msgpack", {"a": {"b": np.ones(2), "c": np.ones(2)}})
    with pytest.raises(CheckpointError, match=r"one.msgpack holds 'a/c', which .* does not list"):
        read_sharded_flax(index, shards(tmp_path))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "two.msgpack").unlink()
    with pytest.raises(MissingFileError, match=r"two\.msgpack"):
        read_sharded_flax(index, shards(tmp_path))


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": 1}', "nonsense"])
def test_damaged_index_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / FLAX_INDEX
    index.write_text(content)
    with pytest.raises(CheckpointError, match=FLAX_INDEX):
        read_weight_map(index)


@pytest.mark.parametrize("name", ["/x.msgpack", "../x.msgpack", "a/x.msgpack", "", ".x", "a\\x"])
def test_index_that_names_files_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    index = tmp_path / FLAX_INDEX
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="which is not a file beside it"):
        read_weight_map(index)
