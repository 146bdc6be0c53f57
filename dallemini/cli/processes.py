"""Which of several processes this is, where torchrun started them."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import InputError


class Process(NamedTuple):
    """One of several processes that share the work of a command.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def name(self) -> str:
        """Of its part of what all of them write: "00002" of several, "" alone."""
        return f"{self.rank:05d}" if self.world_size > 1 else ""

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


def this_process() -> Process:
    """Return what torchrun tells; alone, it is process 0 of 1.

    Raises:
        InputError: the environment says something else than numbers that fit each other.
    """
    process = Process(_number("RANK", 0), _number("WORLD_SIZE", 1))
    if process.rank >= process.world_size:
        raise InputError(
            f"RANK={process.rank} and WORLD_SIZE={process.world_size} do not fit; ranks count "
            "from 0, as torchrun does."
        )
    return process


def own_device(device: str) -> str:
    """Return the device of this process: "cuda" is the GPU of its own under torchrun."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local else device


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise InputError(
            f"The environment variable {name} is {text!r}, not a number; torchrun sets it."
        )
    return int(text)
