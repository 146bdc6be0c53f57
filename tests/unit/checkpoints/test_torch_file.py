"""Tests of `dallemini.checkpoints.torch_file`: tensors are read, code is refused."""

from __future__ import annotations

import collections
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dallemini.checkpoints.torch_file import read_torch
from dallemini.errors import CheckpointError, MissingFileError

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Attack:
    """What a hostile pickle holds: a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.trace)!r}, 'w').close()",))


def values(path: Path) -> dict[str, Tensor]:
    return {name: tensor.load() for name, tensor in read_torch(path).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_state_dict_reads_as_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(collections.OrderedDict(a=WEIGHT.to(dtype)), tmp_path / "a.pt")
    (tensor,) = read_torch(tmp_path / "a.pt").values()
    assert (tensor.name, tensor.shape, tensor.dtype) == ("a", (2, 3), dtype)
    assert torch.equal(tensor.load(), WEIGHT.to(dtype))


def test_file_of_the_time_before_zip_reads_too(tmp_path: Path) -> None:
    torch.save({"a": WEIGHT}, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    assert torch.equal(values(tmp_path / "a.bin")["a"], WEIGHT)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_training_checkpoint_is_unwrapped(tmp_path: Path, wrapper: str) -> None:
    torch.save({"epoch": 3, wrapper: {"a.b": WEIGHT}, "optimizer_states": []}, tmp_path / "a.ckpt")
    assert list(read_torch(tmp_path / "a.ckpt")) == ["a.b"]


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
    assert torch.equal(found["a"], WEIGHT.T)
    assert torch.equal(found["b"], WEIGHT[1:])
    assert torch.equal(found["c"], WEIGHT)


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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickle_of_any_protocol_is_refused_by_name_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("encoder.pt").write_bytes(pickle.dumps(_Call(), protocol=protocol))
    with pytest.raises(CheckpointError, match=r"was refused: its pickle asks for posix\.mkdir"):
        read_torch(tmp_path / "encoder.pt")
    assert not Path("made-by-a-pickle").exists()
