"""The memory at hand: what system files say, limits of containers, and where nobody says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from dallemini.generation.free_memory import available_memory

CPU = torch.device("cpu")
MB = 10**6


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def group(limit: object, used: int, cached: int, *, version: int = 2) -> dict[str, str]:
    """The files of one control group, by name."""
    names = ("memory.max", "memory.current") if version == 2 else _FIRST
    prefix = "" if version == 2 else "total_"
    stat = f"{prefix}active_file {cached}\n{prefix}inactive_file 1000000\nanon 5\n"
    return {names[0]: f"{limit}\n", names[1]: f"{used}\n", "memory.stat": stat}


_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with 8 GB available and no control groups."""
    text = (
        "MemTotal:       16000000 kB\nMemFree: 100 kB\nMemAvailable:    8000000 kB\nHugePages: 0\n"
    )
    write(tmp_path, {"proc/meminfo": text})
    return tmp_path


def put(root: Path, folder: str, files: dict[str, str]) -> None:
    write(root, {f"sys/fs/cgroup/{folder}/{name}": text for name, text in files.items()})


def test_kernel_says_what_is_available(root: Path) -> None:
    assert available_memory(CPU, root=root) == 8_000_000 * 1024
    assert available_memory(torch.device("mps"), root=root) == 8_000_000 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/meminfo")
def test_this_machine_has_some() -> None:
    found = available_memory(CPU)
    assert found is not None
    assert 0 < found < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_limit_of_a_container_is_kept(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n"})
    put(root, ".", group(500 * MB, 300 * MB, 20 * MB))
    assert available_memory(CPU, root=root) == 221 * MB


def test_tightest_of_nested_groups_counts(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/user.slice/job\n"})
    put(root, "user.slice/job", group("max", 300 * MB, 0))
    put(root, "user.slice", group(400 * MB, 350 * MB, 9 * MB))
    assert available_memory(CPU, root=root) == 60 * MB


def test_limit_is_found_where_the_path_does_not_show_in_the_container(root: Path) -> None:
    lines = "9:cpu,cpuacct:/docker/abc\n4:hugetlb,memory:/docker/abc\n0::/docker/abc\n"
    write(root, {"proc/self/cgroup": lines})
    put(root, "memory", group(700 * MB, 600 * MB, 50 * MB, version=1))
    assert available_memory(CPU, root=root) == 151 * MB


def test_no_limit_leaves_what_the_kernel_says(root: Path) -> None:
    write(root, {"proc/self/cgroup": "4:memory:/\n0::/\n"})
    put(root, "memory", group(2**63 - 4096, 600 * MB, 50 * MB, version=1))
    put(root, ".", group("max", 1, 1))
    assert available_memory(CPU, root=root) == 8_000_000 * 1024


def test_more_than_the_limit_leaves_nothing(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n"})
    put(root, ".", group(500 * MB, 600 * MB, 0))
    assert available_memory(CPU, root=root) == 0


def test_damaged_files_are_passed_over(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n"})
    put(root, ".", {**group(500 * MB, 1, 0), "memory.stat": "nothing\n"})
    assert available_memory(CPU, root=root) == 8_000_000 * 1024


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs os.sysconf")
def test_half_of_all_where_only_that_is_known(tmp_path: Path) -> None:
    every = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert available_memory(CPU, root=tmp_path) == every // 2


def test_nobody_says_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert available_memory(CPU, root=tmp_path) is None


def test_nobody_says_for_other_devices() -> None:
    assert available_memory(torch.device("meta")) is None


@pytest.mark.gpu
def test_gpu_says_what_it_has() -> None:
    device = torch.device("cuda")
    free = available_memory(device)
    kept = torch.empty(10**8, dtype=torch.uint8, device=device)
    less = available_memory(device)
    del kept  # torch keeps it for later, so that it is free for us again
    again = available_memory(device)
    assert free is not None
    assert less is not None
    assert again is not None
    assert less < again
