"""Tests of `dallemini.checkpoints.torch_file`: tensors are read, code is refused."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pickle
import random
import struct
import sys
import time
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dallemini.checkpoints.lazy import check_weights
from dallemini.checkpoints.torch_file import _Storage, read_torch
from dallemini.errors import CheckpointError, MissingFileError

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Attack:
    """What a hostile pickle holds: a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.trace)!r}, 'w').close()",))


def values(path: Path, only: str = "") -> dict[str, Tensor]:
    found = read_torch(path)
    return {name: tensor.load() for name, tensor in found.items() if name.startswith(only)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_state_dict_reads_as_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(collections.OrderedDict(a=WEIGHT.to(dtype)), tmp_path / "a.pt")
    (tensor,) = read_torch(tmp_path / "a.pt").values()
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a", (2, 3), dtype)
    assert torch.equal(tensor.load(), WEIGHT.to(dtype))


def test_file_of_the_time_before_zip_reads_too(tmp_path: Path) -> None:
    torch.save({"a": WEIGHT}, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(values(tmp_path / "a.bin")["a"], WEIGHT)


def test_training_checkpoint_is_read_whole(tmp_path: Path) -> None:
    content = {"epoch": 3, "state_dict": {"a.b": WEIGHT}, "optimizer_states": [{"m": WEIGHT}]}
    torch.save(content, tmp_path / "a.ckpt")
    assert list(read_torch(tmp_path / "a.ckpt")) == ["state_dict.a.b", "optimizer_states.0.m"]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_weights_are_passed_over(
    tmp_path: Path, zipped: bool, protocol: int
) -> None:
    extra = {
        "best": np.float64(0.5),
        "curve": np.arange(300),
        "arguments": argparse.Namespace(lr=1.0, names=["a"]),
        "folder": Path("/somewhere"),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "order": collections.OrderedDict(a=1),
        "letters": collections.Counter("aab"),
        "when": [datetime.datetime(2022, 5, 1), datetime.timedelta(hours=1)],
        "sets": ({1, 2}, frozenset("ab"), slice(1, 2), 1j, b"bytes", 2**200),
        "random": (np.random.default_rng(0).bit_generator.state, random.getstate()),
        "kinds": (torch.float32, torch.device("cpu"), WEIGHT.shape, collections.OrderedDict),
        "sparse": torch.eye(2).to_sparse(),
    }
    path = tmp_path / "a.pt"
    torch.save(
        {"state_dict": {"a": WEIGHT}, **extra},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    assert torch.equal(values(path, only="state_dict.")["state_dict.a"], WEIGHT)


def test_object_of_an_unknown_class_keeps_its_tensors_and_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("somebody")
    kind = type("Settings", (), {"__module__": "somebody"})
    module.Settings = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody", module)
    settings = kind()
    settings.weight = WEIGHT
    torch.save({"a": settings}, tmp_path / "a.pt")
    monkeypatch.delitem(sys.modules, "somebody")
    assert torch.equal(values(tmp_path / "a.pt")["a.weight"], WEIGHT)
    assert "somebody" not in sys.modules


def test_nested_mappings_get_dotted_names(tmp_path: Path) -> None:
    torch.save({"a": {"b": nn.Parameter(WEIGHT), "n": 1}}, tmp_path / "a.pt")
    (tensor,) = read_torch(tmp_path / "a.pt").values()
    assert tensor.name == "a.b"
    assert not tensor.load().requires_grad


# TorchScript and Lightning


class Attention(nn.Module):
    """A small module with a parameter of its own and a child."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3, 2))
        self.out_proj = nn.Linear(2, 2)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map f[N,2] to f[N,2]."""
        projected: Tensor = self.out_proj(hidden_states @ self.in_proj_weight.T[:, :2])
        return projected


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_archive_is_read_without_running_it(tmp_path: Path) -> None:
    module = nn.Sequential(Attention(), nn.LayerNorm(2)).half()
    traced = torch.jit.trace(module.float(), torch.randn(1, 2)).half()
    torch.jit.save(traced, tmp_path / "clip.pt")
    found = values(tmp_path / "clip.pt")
    assert found.keys() == module.state_dict().keys()
    for name, tensor in module.half().state_dict().items():
        assert torch.equal(found[name], tensor)


def test_lightning_classes_are_neither_needed_nor_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("pytorch_lightning")
    checkpoint = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning"})
    module.ModelCheckpoint = checkpoint  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pytorch_lightning", module)
    content = {
        "callbacks": {checkpoint: {"best_model_score": torch.tensor(1.0)}, "own": checkpoint()},
        "hyper_parameters": {"size": WEIGHT.shape, "device": torch.device("cpu")},
        "state_dict": collections.OrderedDict(a=WEIGHT.T, b=WEIGHT[1:], c=nn.Parameter(WEIGHT)),
    }
    torch.save(content, tmp_path / "last.ckpt")
    monkeypatch.delitem(sys.modules, "pytorch_lightning")
    found = values(tmp_path / "last.ckpt")
    assert "pytorch_lightning" not in sys.modules
    assert torch.equal(found["state_dict.a"], WEIGHT.T)
    assert torch.equal(found["state_dict.b"], WEIGHT[1:])
    assert torch.equal(found["state_dict.c"], WEIGHT)


# Refusals


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"state_dict": {"a": WEIGHT}, "extra": Attack(tmp_path / "trace")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"a.pt was refused: .*exec.* is never executed"):
        read_torch(tmp_path / "a.pt")
    assert not (tmp_path / "trace").exists()


def test_torchscript_archive_with_foreign_code_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Attack(tmp_path / "trace"), protocol=2))
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match=r"refused: its pickle asks for __builtin__.exec"):
        read_torch(tmp_path / "a.pt")
    assert not (tmp_path / "trace").exists()


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Attack(tmp_path / "trace")))
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        read_torch(tmp_path / "a.pt")
    assert not (tmp_path / "trace").exists()


def test_storage_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "somewhere" if obj == "storage" else None

    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        with archive.open("a/data.pkl", "w") as file:
            Pickler(file, protocol=2).dump({"a": "storage"})
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="unknown kind of storage"):
        read_torch(tmp_path / "a.pt")


def test_truncated_file_says_what_to_do(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    for end in range(1, len(content), 311):
        (tmp_path / "cut.pt").write_bytes(content[:end])
        with pytest.raises(CheckpointError, match=r"cut.pt is truncated .* download it again"):
            read_torch(tmp_path / "cut.pt")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_damaged_archive_entry_is_reported(tmp_path: Path) -> None:
    module = nn.Linear(64, 64)
    torch.jit.save(torch.jit.trace(module, torch.randn(1, 64)), tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    at = content.index(module.weight.detach().numpy().tobytes())
    content[at + 5] ^= 0xFF
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt is truncated or damaged \(Bad CRC"):
        values(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], "text"])
def test_file_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_torch(tmp_path / "a.pt")


def test_empty_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match=r"empty\.pt is empty"):
        read_torch(tmp_path / "empty.pt")
    with pytest.raises(MissingFileError, match=r"no file .*nothing\.pt"):
        read_torch(tmp_path / "nothing.pt")


class _Call:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-a-pickle",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_plain_pickle_of_any_protocol_is_refused_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("encoder.pt").write_bytes(pickle.dumps(_Call(), protocol=protocol))
    with pytest.raises(CheckpointError, match=r"was refused: its pickle asks for posix\.mkdir"):
        read_torch(tmp_path / "encoder.pt")
    assert not Path("made-by-a-pickle").exists()


# Bounds


def write_archive(path: Path, content: bytes, *, compressed: str | None = None) -> Path:
    """Write the archive of {"a": zeros(4)} with another pickle, or with one entry compressed."""
    torch.save({"a": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    folder = next(iter(entries)).partition("/")[0]
    entries[f"{folder}/data.pkl"] = content or entries[f"{folder}/data.pkl"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in entries.items():
            deflate = name == f"{folder}/{compressed}"
            archive.writestr(name, entry, zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)
    return path


def shared(levels: int) -> Any:
    """Two to the power of `levels` leaves in a few bytes."""
    value: Any = {"w": torch.zeros(1)}
    for _ in range(levels):
        value = {"a": value, "b": value}
    return value


def deep(levels: int) -> bytes:
    return b"\x80\x02" + b"}X\x01\x00\x00\x00a" * levels + b"}" + b"s" * levels + b"."


def cyclic() -> bytes:
    return b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."


ORDERED = b"ccollections\nOrderedDict\n"
ENTRY = b"X\x01\x00\x00\x00aK\x01"


def called_again(times: int) -> bytes:
    """Build a mapping of one shared list of 5,000 pairs, again and again."""
    pairs = b"](" + ENTRY + b"\x86" + b"2" * 4999 + b"eq\x00"
    again = ORDERED + b"q\x01" + b"h\x01h\x00\x85R0" * times
    return b"\x80\x02" + pairs + again + b"}."


def built_again(times: int) -> bytes:
    """Give one object the attributes of one dict of 5,000 keys, in tuples and one by one."""
    keys = b"".join(b"M" + struct.pack("<H", key) + b"N" for key in range(5000))
    state = b"}(" + keys + b"uq\x00" + b"(" + b"h\x00" * 100 + b"tq\x01"
    return b"\x80\x02" + state + b"cargparse\nNamespace\n)R" + b"h\x01bh\x00b" * times + b"0}."


def long_name(times: int) -> bytes:
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x00"
    return b"\x80\x02" + text + b"h\x00\x930" * times + b"}."


def keys_of_one_hash(count: int) -> bytes:
    """Fill a dict with numbers that Python cannot tell apart by their hash."""
    numbers = (key * ((1 << 61) - 1) for key in range(1 << 20, (1 << 20) + count))
    entries = b"".join(b"\x8a\x0b" + number.to_bytes(11, "little") + b"N" for number in numbers)
    return b"\x80\x02}(" + entries + b"u."


def places_of_one_hash(count: int) -> bytes:
    return b"N" + b"".join(b"p%d\n" % (key * ((1 << 61) - 1)) for key in range(count)) + b"."


def refuse_quickly(path: Path, message: str) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        values(path)
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (deep(3000), "nested too deeply, or holds itself"),
        (cyclic(), "nested too deeply, or holds itself"),
        (b"\x80\x02" + b"]0" * 400_000 + b"}.", "more than 500000 steps"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "structure cannot be read"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "structure cannot be read"),
        (b"L" + b"9" * 5000 + b"L\n.", "structure cannot be read"),
        (b"\x80\x02}]Ns.", "holds no state dict"),
        (b"\x80\x02}" + b"(" * 1000 + b"t" * 1000 + b"Ns.", "holds no state dict"),
        (called_again(1000), "copies more than 500000 entries"),
        (built_again(1000), "copies more than 500000 entries"),
        (long_name(20_000), "structure cannot be read"),
        (keys_of_one_hash(20_000), "holds no state dict"),
        (places_of_one_hash(20_000), "structure cannot be read"),
    ],
)
def test_pickle_without_measure_is_refused_at_once(
    tmp_path: Path, content: bytes, message: str
) -> None:
    refuse_quickly(write_archive(tmp_path / "a.pt", content), message)


def test_pickle_that_shares_itself_is_refused_at_once(tmp_path: Path) -> None:
    torch.save(shared(40), tmp_path / "a.pt")
    refuse_quickly(tmp_path / "a.pt", "more than 20000 tensors|nested too deeply")


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
def test_compressed_entry_is_refused_before_it_is_unpacked(tmp_path: Path, entry: str) -> None:
    path = write_archive(tmp_path / "a.pt", b"", compressed=entry)
    refuse_quickly(path, rf"'\w+/{entry}' is compressed or encrypted, as torch never writes it")


def test_archive_with_more_names_than_weights_have_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", b"")
    content = path.read_bytes()
    at = content.rindex(b"PK\x05\x06") + 12
    path.write_bytes(content[:at] + struct.pack("<I", 1 << 30) + content[at + 4 :])
    refuse_quickly(path, "lists 1073741824 bytes of names")


def test_archive_with_a_name_that_is_not_utf8_is_damaged(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.pt", b"")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("é", b"")
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    refuse_quickly(path, "structure cannot be read")


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.eye(2).to_sparse(), r"is not an ordinary tensor \(sparse\)"),
        (torch.empty(2, device="meta"), r"is not an ordinary tensor \(meta\)"),
        (torch.ones(2, dtype=torch.complex64).conj().imag, "is marked as negated"),
    ],
)
def test_strange_tensors_are_described_and_cannot_be_loaded(
    tmp_path: Path, tensor: Tensor, problem: str
) -> None:
    torch.save({"a": tensor}, tmp_path / "a.pt")
    (found,) = read_torch(tmp_path / "a.pt").values()
    with pytest.raises(CheckpointError, match=problem):
        check_weights([found], origin="a.pt")
    with pytest.raises(CheckpointError, match="holds a tensor that is"):
        found.load()


def test_tensor_spread_over_fewer_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "a.pt")
    refuse_quickly(tmp_path / "a.pt", r"shape \(1000000000,\) with only 1 numbers")


@pytest.mark.parametrize("stride", [(1, 10**12), (-1, 1)])
def test_tensor_beyond_its_bytes_is_refused(tmp_path: Path, stride: tuple[int, int]) -> None:
    storage = _Storage(tmp_path / "a.pt", torch.float32, 6)
    with pytest.raises(CheckpointError, match=r"reaches beyond its bytes|has the shape"):
        storage.tensor(0, (2, 3), stride, torch.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer: run|LFS pointer"),
        (b"<!DOCTYPE html><title>401</title>", "is a web page"),
        (b"not a pickle", "neither an archive nor a pickle of torch"),
        (pickle.dumps({"a": 1}), "is a pickle, but not one of torch"),
        (b"PK\x05\x06" + bytes(18), "zip archive, but not one of torch"),
    ],
)
def test_other_file_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_torch(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)
