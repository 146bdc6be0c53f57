"""How many threads compute: the kernels' own, and torch's beside them.

Knows the processor and the system's files, nothing about tensors. Sources: sched(7), and the
kernel's documentation of the controllers of processor time, cgroup-v2 and scheduler/sched-bwc.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import torch


class _Local(threading.local):
    """What `keep_torch_alone` has set in a thread: how many the kernels may use; 0 outside."""

    count = 0


_local = _Local()


def count_threads() -> int:
    """Return with how many threads a kernel may compute when called now.

    As many as torch uses, but never more than there are cores for this process.
    """
    return _local.count or min(torch.get_num_threads(), _cores())


@contextlib.contextmanager
def keep_torch_alone() -> Iterator[None]:
    """Let torch's operators compute on the calling thread, and the kernels on as many as before.

    For work that consists of many small operators. The threads of torch spin for each other at
    every one of them, so that one that does not run holds up all; and while they spin, they keep
    the kernels' threads from running. Nothing but the calling thread is changed, and that only
    inside; where torch does not use OpenMP nothing is.
    """
    before, setter = torch.get_num_threads(), _openmp()
    if setter is None or before == 1 or _local.count:
        yield
        return
    _local.count = min(before, _cores())
    setter(1)
    try:
        yield
    finally:
        setter(before)
        _local.count = 0


def available_cores(*, root: Path = Path("/")) -> int:
    """Return on how many cores this process may compute all the time, at least 1.

    Those that it is bound to, or fewer where a control group, as containers have, sets a quota.

    Args:
        root: where the files of the system begin.

    Example:
        >>> from dallemini.kernels.threads import available_cores
        >>> available_cores() >= 1
        True
    """
    bound = getattr(os, "sched_getaffinity", None)
    cores = len(bound(0)) if bound else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root)]))


def control_groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield version and folder of each control group of this process, and of those around it.

    Args:
        controller: what is limited there: "cpu" or "memory".
        root: where the files of the system begin. In a container, not all folders may show.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mount, version = root / "sys/fs/cgroup", 2
        if controllers:
            mount, version = mount / controller, 1
        if not controllers or controller in controllers.split(","):
            group = PurePosixPath(path)
            yield from ((version, mount / str(at).lstrip("/")) for at in (group, *group.parents))


def _quotas(root: Path) -> Iterator[int]:
    """Yield how many whole cores the time that each control group gives is worth."""
    for version, folder in control_groups("cpu", root):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no number: no limit
            if version == 2:
                quota, period = map(int, (folder / "cpu.max").read_text(encoding="utf-8").split())
            else:
                files = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
                quota, period = (int(file.read_text(encoding="utf-8")) for file in files)
            if quota > 0:  # version 1 says -1 for no limit
                yield max(1, quota // period)


@functools.cache
def _cores() -> int:
    return available_cores()


@functools.cache
def _openmp() -> Callable[[int], object] | None:
    """Return what sets the number of OpenMP's threads of a thread; None if torch minds another."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # on Windows: TypeError
        setter = ctypes.PyDLL(None).omp_set_num_threads
        if _is_minded(setter):
            return setter
    return None


def _is_minded(setter: Callable[[int], object]) -> bool:
    before = torch.get_num_threads()
    setter(before + 1)
    minded = torch.get_num_threads() == before + 1
    setter(before)
    return minded and torch.get_num_threads() == before
