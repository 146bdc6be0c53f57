"""Training on several processes: who they are, and what they exchange.

`torchrun` starts the processes and says in the environment who each one is; PyTorch does the rest
(DDP, FSDP2). Alone, every function here does nothing. Knows no network and no loss.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError, UnsupportedOperationError

PATIENCE = timedelta(hours=2)  # one process may have more pictures to encode than the others


def is_connected() -> bool:
    """Tell whether this process belongs to a group of processes."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if is_connected() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_connected() else 1


def pick_device(name: str | None) -> torch.device:
    """Return the device of this process: `name`, or a GPU of its own where there is one.

    Raises:
        ConfigError: torch knows no such device, or cannot use it here.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
        torch.empty(0, device=device, dtype=torch.float32).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"Cannot compute on {name!r}: {first}. Use device='cpu'.") from error
    return device


@contextlib.contextmanager
def connected(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, for the length of the block; alone, do nothing.

    A group that is there already is used as it is; it must be able to exchange tensors on the CPU.
    """
    if is_connected() or "WORLD_SIZE" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # numbers, such as losses, are exchanged on the CPU also where tensors are on GPUs
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait() -> None:
    """Wait until every process is here."""
    mean([0.0])


def someone(what: bool) -> bool:
    """Tell every process whether something is true of one of them."""
    return mean([float(what)])[0] > 0


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the rows of every process, in their order; without gradient."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate the rows of every process, in their order; gradients flow back to each."""
    if world_size() == 1:
        return tensor
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(tensor.contiguous()))


def mean(values: Sequence[float]) -> list[float]:
    """Average numbers over the processes."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(list(values), dtype=torch.float64, device="cpu")
    dist.all_reduce(total)
    return (total / world_size()).tolist()


def own_rows(rows: Tensor) -> Tensor:
    """Return this process's part of rows that every process has drawn alike."""
    size = rows.shape[0] // world_size()
    return rows[rank() * size : (rank() + 1) * size]


def share(
    module: nn.Module, *, blocks: Sequence[nn.Module], strategy: Literal["ddp", "fsdp"]
) -> nn.Module:
    """Let the processes train one network.

    Args:
        module: whose forward computes the losses.
        blocks: the layers that repeat, which "fsdp" gathers one at a time.
        strategy: "ddp" or "fsdp".

    Returns:
        What to call instead of `module`.

    Raises:
        ConfigError: "fsdp" for a network without blocks, or for a process alone.
    """
    if strategy == "fsdp":
        return _split(module, blocks)
    if world_size() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    # buffers are kept equal by who owns them
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def check_splitting(can_split: bool) -> None:
    """Refuse strategy "fsdp" for a network that is not split, or for a process alone.

    Raises:
        UnsupportedOperationError: the network is not split.
        ConfigError: there is one process.
    """
    if not can_split:
        raise UnsupportedOperationError(
            "This network is small and is not split over processes: use strategy='ddp'."
        )
    if not is_connected():
        raise ConfigError("strategy='fsdp' splits weights over processes: start with torchrun.")


def _split(module: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
    check_splitting(bool(blocks))
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        fully_shard(block, reshard_after_forward=True)
    fully_shard(module, reshard_after_forward=False)
    return module


@contextlib.contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Gather split weights for the length of the block, for calls other than forward."""
    if not is_connected():
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not module, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that may be split over processes."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor that may be split, sharing its memory."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, example: Tensor) -> Tensor:
    """Split a tensor that every process holds in the way `example` is split, if it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(example, DTensor):
        return tensor
    return distribute_tensor(tensor, example.device_mesh, example.placements, src_data_rank=None)
