"""What the machine can do: bytes read a second, operations a second; and what it is."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("dallemini", "min-dalle", "torch", "tokenizers", "safetensors", "numpy")


def rates(*, megabytes: int = 1024, side: int = 2048, repeats: int = 7) -> dict[str, float]:
    """Measure read bandwidth and float32 matrix product with torch's present threads.

    Args:
        megabytes: size of the block that is read; far more than the caches hold.
        side: of the square matrices.
        repeats: of every measurement; the median counts.

    Returns:
        `bytes_per_second` and `flops_per_second`.
    """
    matrix = torch.ones(megabytes * 256, 1024)  # a row is 4 kB
    vector, product = torch.ones(1024), torch.randn(side, side)
    # Two ways to read everything once; the better one is nearer to what the memory gives.
    reading = min(
        _median(lambda: torch.mv(matrix, vector), repeats),
        _median(lambda: torch.sum(matrix), repeats),
    )
    multiplying = _median(lambda: product @ product, repeats)
    return {
        "bytes_per_second": matrix.numel() * 4 / reading,
        "flops_per_second": 2 * side**3 / multiplying,
    }


def _median(call: Callable[[], object], repeats: int) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def describe(threads: int, packages: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the processor, its abilities, memory, system, threads and versions."""
    information = _read("/proc/cpuinfo")
    flags = information.get("flags", "").split()
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
    return {
        "processor": information.get("model name", platform.processor() or platform.machine()),
        "abilities": [flag for flag in known if flag in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages or PACKAGES},
    }


def _version(name: str) -> str:
    if name == "dallemini":
        import dallemini

        return dallemini.__version__
    return metadata.version(name)


def _read(path: str) -> dict[str, str]:
    """Return the lines `name : value` of a file; the first of each name."""
    found: dict[str, str] = {}
    if Path(path).exists():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
    return found
