"""Hostile folders of a run: whatever they hold, resuming refuses them and runs nothing."""

from __future__ import annotations

import builtins
import dataclasses
import io
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import format_utils, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load_state_dict
from torch.optim import AdamW, Optimizer

from dallemini.errors import CheckpointError
from dallemini.training import checkpoint
from dallemini.training.description import NAME

DATA = "__0_0.distcp"


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


EVIL = Call(os.mkdir, "ran")


class Parts:
    """What a checkpoint is filled from."""

    def __init__(self) -> None:
        self.module = nn.Linear(3, 4)
        self.average = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.optimizers: list[Optimizer] = [AdamW(self.module.parameters())]
        self.module(torch.ones(2, 3)).sum().backward()
        self.optimizers[0].step()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("honest")
    return checkpoint.save(folder, step=1, progress={"step": 1}, **vars(Parts()))


@pytest.fixture
def good(honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An honest checkpoint, in the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(honest, tmp_path / honest.name))


def refused(path: Path) -> str:
    """Read a checkpoint in both ways; return the reason why it cannot be."""
    before = sorted(p for p in Path().rglob("*") if p != path)
    started = time.process_time()
    with pytest.raises(CheckpointError) as whole:
        checkpoint.load(path, **vars(Parts()))
    with pytest.raises(CheckpointError, match="is corrupt or of another run"):
        checkpoint.read_progress(path)
    assert sorted(p for p in Path().rglob("*") if p != path) == before, "something was run"
    assert time.process_time() - started < 2
    assert len(str(whole.value)) < 1000
    return str(whole.value)


def described(path: Path) -> Metadata:
    found: Metadata = pickle.loads((path / NAME).read_bytes())
    return found


def describe(path: Path, found: object) -> None:
    (path / NAME).write_bytes(pickle.dumps(found))


def test_an_honest_checkpoint_is_read(good: Path) -> None:
    assert checkpoint.read_progress(good) == {"step": 1}
    checkpoint.load(good, **vars(Parts()))


@pytest.mark.parametrize("content", [pickle.dumps(5), b"", None])
def test_the_description_of_one_process_is_never_read(good: Path, content: bytes | None) -> None:
    """PyTorch reads it, by a plain `pickle.load`, where the common one does not fit."""
    (good / NAME).unlink()
    if content is not None:
        (good / NAME).write_bytes(content)
    (good / "__0.metadata").write_bytes(pickle.dumps(EVIL))
    refused(good)


def a_file(folder: Path) -> str:
    path = folder / "payload"
    path.write_bytes(pickle.dumps(EVIL))
    return str(path)


def a_folder(folder: Path) -> Call:
    (folder / "inner").mkdir()
    (folder / "inner" / NAME).write_bytes(pickle.dumps(EVIL))
    return Call(FileSystemReader, str(folder / "inner"))


CALLS: dict[str, Callable[[Path], Call]] = {
    "mkdir": lambda folder: EVIL,
    "eval": lambda folder: Call(builtins.eval, "__import__('os').mkdir('ran')"),
    "torch.load": lambda folder: Call(torch.load, a_file(folder)),
    "torch_save_to_dcp": lambda folder: Call(
        format_utils.torch_save_to_dcp, a_file(folder), str(folder / "out")
    ),
    "dcp_to_torch_save": lambda folder: Call(
        format_utils.dcp_to_torch_save, str(folder), str(folder.parent / "out")
    ),
    "load_state_dict": lambda folder: Call(load_state_dict, {}, a_folder(folder), None, 0, True),
    "FileSystemReader": a_folder,
    "getattr": lambda folder: Call(getattr, Call(__import__, "os"), "mkdir"),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_that_a_description_calls_is_run(good: Path, name: str) -> None:
    call = CALLS[name](good)
    for place in ("alone", "planner_data", "storage_data", "size", "checkpoint_id"):
        found = described(good)
        assert found.storage_meta is not None
        if place == "size":
            vars(found.state_dict_metadata["module.weight"])["size"] = call
        elif place == "checkpoint_id":
            vars(found.storage_meta)["checkpoint_id"] = call
        else:
            vars(found)[place] = call
        (good / NAME).rename(good / "honest")
        describe(good, call if place == "alone" else found)
        assert "which no checkpoint needs" in refused(good)
        (good / "honest").rename(good / NAME)


def unicode(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module: str, name: str) -> bytes:
    return unicode(module) + unicode(name) + b"\x93"


OURS = "torch.distributed.checkpoint.metadata"
OPCODES = {
    "a dotted name": named(OURS, "os.mkdir") + unicode("ran") + b"\x85R.",
    "a module in the module": named(OURS, "os") + b".",
    "a decorator": named(OURS, "dataclass") + b".",
    "an old global": b"cos\nmkdir\n(S'ran'\ntR.",
    "an instance": b"(S'ran'\nios\nmkdir\n.",
    "an object": b"(" + named("os", "mkdir") + unicode("ran") + b"o.",
    "an extension": b"\x82\x01.",
    "a persistent id": b"Pran\n.",
    "a persistent id of bytes": unicode("ran") + b"Q.",
    "a new object with names": named(OURS, "Metadata") + b"}}\x92.",
    "a memo without end": b"Nr\xff\xff\xff\x7f.",
    "bytes without end": b"\x96" + struct.pack("<Q", 1 << 50) + b".",
    "digits without end": b"I" + b"9" * 100_000 + b"\n.",
    "a class with a state": named(OURS, "Metadata") + b"N}" + unicode("x") + b"K\x01s\x86b.",
    "a class that is called": named("torch.serialization", "_get_layout") + b"K\x01\x85R.",
    "an instance as a list": named(OURS, "Metadata") + b")\x81(K\x01e.",
    "a list that holds itself": b"]\x94h\x00a.",
    "nothing": b"",
    "no end": b"N",
}


@pytest.mark.parametrize("name", OPCODES)
def test_no_word_of_pickle_does_more_than_describe(good: Path, name: str) -> None:
    before = dict(vars(metadata.Metadata))
    (good / NAME).write_bytes(b"\x80\x04" + OPCODES[name])
    refused(good)
    assert dict(vars(metadata.Metadata)) == before


@pytest.mark.parametrize("name", [NAME, DATA])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_files_of_its_own_are_read(good: Path, name: str, kind: str) -> None:
    elsewhere = good.parent / "elsewhere"
    (good / name).rename(elsewhere)
    if kind == "link":
        (good / name).symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(good / name)
    else:
        (good / name).mkdir()
    assert "is not a file of its own" in refused(good)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("relative_path", "../elsewhere", "names '../elsewhere', which no checkpoint needs"),
        ("relative_path", "/etc/passwd", "names '/etc/passwd'"),
        ("relative_path", 5, "int in the place of a name"),
        ("relative_path", "__9_9.distcp", "No such file"),
        ("transform_descriptors", ["zstd"], "which no checkpoint needs"),
        ("offset", -1, "in the place of a whole number"),
        ("offset", 1 << 40, "is cut off"),
        ("length", 1 << 70, "in the place of a whole number"),
        ("length", "1", "str in the place of a whole number"),
    ],
)
def test_a_place_outside_its_files_is_refused(
    good: Path, field: str, value: Any, message: str
) -> None:
    found = described(good)
    for place in found.storage_data.values():
        vars(place)[field] = value
    describe(good, found)
    assert message in refused(good)


@pytest.mark.parametrize("name", ["progress", "module.weight", "optimizers.param_groups.0.lr"])
def test_code_among_the_values_is_refused(good: Path, name: str) -> None:
    """In a file of the current format, and in one of the old that is nothing but a pickle."""
    found = described(good)
    (place,) = (place for index, place in found.storage_data.items() if index.fqn == name)
    buffer = io.BytesIO()
    torch.save(EVIL, buffer)
    for content in (buffer.getvalue(), pickle.dumps(EVIL)):
        data = (good / DATA).read_bytes()
        place.offset, place.length = len(data), len(content)
        (good / DATA).write_bytes(data + content)
        describe(good, found)
        read: Callable[[], object] = partial(checkpoint.load, good, **vars(Parts()))
        if name == "progress":
            read = partial(checkpoint.read_progress, good)
        with pytest.raises(CheckpointError, match="is corrupt or of another run"):
            read()
        assert not Path("ran").exists()


def test_values_that_are_compressed_are_refused(good: Path) -> None:
    """A few kB of them can be unpacked to as many GB."""
    found = described(good)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (1 << 24))
    for place in found.storage_data.values():
        place.offset, place.length = 0, len(packed.getvalue())
    (good / DATA).write_bytes(packed.getvalue())
    describe(good, found)
    assert "it is compressed" in refused(good)


def test_parts_that_are_shared_are_counted_and_sizes_have_few_axes(good: Path) -> None:
    found = described(good)
    name, entry = next(
        (n, e)
        for n, e in found.state_dict_metadata.items()
        if isinstance(e, metadata.TensorStorageMetadata)
    )
    chunks = [*entry.chunks] * 60_000
    for number in range(20):
        found.state_dict_metadata[f"{name}{number}"] = dataclasses.replace(entry, chunks=chunks)
    describe(good, found)
    assert "its tensors have more than 1000000 parts" in refused(good)
    found.state_dict_metadata = {name: dataclasses.replace(entry, size=torch.Size([1] * 9))}
    describe(good, found)
    assert "a size has too many axes" in refused(good)
