"""The threads of the kernels: the same bits from any number, forks, several callers, quotas."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dallemini import kernels
from dallemini.kernels import threads
from dallemini.kernels.threads import available_cores, count_threads, keep_torch_alone
from patience import patience

pytestmark = pytest.mark.skipif(not kernels.has_kernels(), reason="no kernels for this processor")


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compute() -> list[Tensor]:
    """Call every kernel with sizes that are worth many threads, odd ones among them."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for rows, inputs, outputs in ((2, 1024, 1024), (3, 331, 4099), (18, 256, 2050), (40, 100, 33)):
        hidden_states, weight = draw(rows, inputs), draw(outputs, inputs, seed=1)
        integers = torch.randint(-127, 128, weight.shape, dtype=torch.int8, generator=generator)
        scale = torch.rand(outputs, generator=generator)
        found.append(kernels.linear(hidden_states, weight))
        for fine in (False, True):
            found.append(kernels.linear_int8(hidden_states, integers, scale, fine=fine))
    query, keys, values = (draw(18, 16, length, 64, seed=length) for length in (1, 250, 250))
    found.append(kernels.attend(query, keys, values))
    counts = torch.arange(18) * 13 + 1
    found.append(kernels.attend(query, keys, values, counts=counts))
    return found


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.slow_except("7")
@pytest.mark.parametrize("count", [2, 7, 64])
def test_any_number_of_threads_gives_the_same_bits(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "count_threads", lambda: 1)
    alone = compute()
    monkeypatch.setattr(kernels, "count_threads", lambda: count)
    for _ in range(2):
        assert_equal(compute(), alone)
    monkeypatch.setattr(kernels, "count_threads", lambda: 2)  # after more
    assert_equal(compute(), alone)


def test_threads_round_tiny_numbers_as_their_caller_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.set_flush_denormal` is a mode of one thread: the others have to follow it."""
    monkeypatch.setattr(kernels, "count_threads", lambda: 2)
    tiny, weight = torch.full((1, 1024), 1e-30), torch.full((4096, 1024), 1e-12)
    assert (kernels.linear(tiny, weight) > 0).all()
    try:
        torch.set_flush_denormal(True)
        for _ in range(50):
            assert not kernels.linear(tiny, weight).view(torch.int32).any()
    finally:
        torch.set_flush_denormal(False)
    for _ in range(50):
        assert (kernels.linear(tiny, weight) > 0).all()


@pytest.mark.thorough
def test_several_threads_of_python_may_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, numbers = compute(), itertools.count()
    monkeypatch.setattr(kernels, "count_threads", lambda: 1 + next(numbers) % 7)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(compute) for _ in range(8)]:
            assert_equal(future.result(timeout=patience(120)), expected)


@pytest.mark.thorough
def test_a_machine_that_is_more_than_busy_only_takes_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "count_threads", lambda: 4)
    expected = compute()
    with ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        for _ in range(2):
            assert_equal(compute(), expected)


def test_waiting_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's would spin, and take the cores from whatever else runs."""
    monkeypatch.setattr(kernels, "count_threads", lambda: 4)
    compute()
    time.sleep(0.01)  # they spin for a tenth of a millisecond
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.02


PROCESS = """
import os, torch
from dallemini import kernels
def count():
    return len(os.listdir("/proc/self/task"))
def compute():
    return kernels.linear(torch.ones(2, 1024), torch.ones(4096, 1024))
torch.set_num_threads(1)
kernels.count_threads = lambda: 3
kernels.linear(torch.ones(2, 1024), torch.ones(16, 1024))  # too small for a second one
before = count()
for attempt in range(3):  # the first fork is of a process that has no threads yet
    child = os.fork()
    if child == 0:
        exact = bool((compute() == 1024).all()) and bool((compute() == 1024).all())
        os._exit(0 if exact else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert count() == before + 2 * (attempt > 0), (before, count())
    assert (compute() == 1024).all()
assert count() == before + 2, (before, count())
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_are_made_when_they_are_needed_and_by_each_fork_for_itself() -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROCESS]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patience(120), check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("torch_threads")
def test_kernels_take_as_many_threads_as_torch_but_no_more_than_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    for torch_s, expected in ((1, 1), (2, 2), (8, 3)):
        torch.set_num_threads(torch_s)
        assert count_threads() == expected


@pytest.mark.usefixtures("torch_threads")
def test_torch_alone_leaves_threads_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: 3)
    torch.set_num_threads(4)
    if threads._openmp() is None:
        pytest.skip("this torch has no OpenMP that the whole process shares")
    with keep_torch_alone():
        assert torch.get_num_threads() == 1
        assert count_threads() == 3
        with keep_torch_alone():
            assert count_threads() == 3
        assert torch.get_num_threads() == 1
        others: list[int] = []
        other = threading.Thread(target=lambda: others.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert others == [4]  # nothing but the calling thread
    assert torch.get_num_threads() == 4
    with pytest.raises(KeyError), keep_torch_alone():
        raise KeyError
    assert torch.get_num_threads() == 4
    assert count_threads() == 3


def test_torch_is_left_as_it_is_where_it_has_no_openmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_openmp", lambda: None)
    before = torch.get_num_threads(), count_threads()
    with keep_torch_alone():
        assert (torch.get_num_threads(), count_threads()) == before


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


CPU1 = "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "399999 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/seen/outside\n", "sys/fs/cgroup/cpu.max": "30000 10000"}, 3),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "9900000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "100000 0\n"}, 8),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "broken\n"}, 8),
        (
            {
                "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
                f"{CPU1}quota_us": "250000\n",
                f"{CPU1}period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpuacct,cpu:/docker/abc\n",
                f"{CPU1}quota_us": "-1\n",
                f"{CPU1}period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_a_quota_of_processor_time_limits_the_cores(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_cores(root=write(tmp_path, files)) == expected


def test_a_process_bound_to_few_cores_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert available_cores(root=tmp_path) == 1
