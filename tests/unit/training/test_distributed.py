"""Processes: what a process alone sees, and what cannot be shared. Several: tests/integration."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dallemini.errors import ConfigError, UnsupportedOperationError
from dallemini.training import distributed


def test_a_process_alone_is_the_first_of_one() -> None:
    with distributed.connected(torch.device("cpu")):
        assert not distributed.is_connected()
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        distributed.wait()
        assert distributed.mean([1.0, 2.0]) == [1.0, 2.0]


def test_a_process_that_torchrun_started_alone_is_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with distributed.connected(torch.device("cpu")):
        assert distributed.is_connected()
        with distributed.connected(torch.device("cpu")):  # leaves the group that is there
            distributed.wait()
        assert distributed.is_connected()
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    "same",
    [
        distributed.gather,
        distributed.gather_with_gradient,
        distributed.own_rows,
        distributed.full,
        distributed.local,
        lambda rows: distributed.split_like(rows, rows),
    ],
)
def test_rows_of_a_process_alone_are_all_rows(same: Callable[[Tensor], Tensor]) -> None:
    rows = torch.rand(4, 2)
    assert torch.equal(same(rows), rows)


def test_a_network_is_trained_as_it_is_by_a_process_alone() -> None:
    network = nn.Linear(2, 2)
    assert distributed.share(network, blocks=[], strategy="ddp") is network
    with distributed.whole_weights(network):
        assert isinstance(network.weight, nn.Parameter)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "is small and is not split over processes: use strategy='ddp'"),
        ([nn.Linear(2, 2)], "splits weights over processes: start with torchrun"),
    ],
)
def test_what_cannot_be_split_is_refused(blocks: list[nn.Module], message: str) -> None:
    with pytest.raises((ConfigError, UnsupportedOperationError), match=message):
        distributed.share(nn.Sequential(*blocks), blocks=blocks, strategy="fsdp")


def test_the_device_is_a_gpu_if_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert distributed.pick_device(None).type == expected
    assert distributed.pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x", ""])
def test_a_device_that_cannot_compute_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"Cannot compute on '{name}': .*[^.]\. Use device='cpu'"
    ):
        distributed.pick_device(name)
