"""Encoding in real processes: killed at any time and gone on with, and shared under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dallemini.data.tokens import EncodedImages
from dallemini.testing import tiny_vqgan
from patience import patience

ROOT = Path(__file__).parents[2]
COUNT, SHARD_SIZE = 40, 5
SHARDS = COUNT // SHARD_SIZE
# Each picture takes a moment, so that there is a time in which to be killed; and the process kills
# itself when it has written the file number KILLED_AT, before that gets its name.
SLOWLY = """
import os, signal, time
import tyro
from dallemini.cli.encode import Encode
from dallemini.models.vqgan import VQGAN
encode = VQGAN.encode
def slowly(self, images):
    time.sleep(0.03)
    return encode(self, images)
VQGAN.encode = slowly
left, sync = int(os.environ.get("KILLED_AT", 0)), os.fsync
def deadly(file):
    global left
    left -= 1
    sync(file)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = deadly
tyro.cli(Encode).run()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, a VQGAN, the command, and what one process makes of them."""
    root = tmp_path_factory.mktemp("encode")
    (root / "pictures").mkdir()
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        path = root / "pictures" / f"{number:02}.png"
        Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"picture {number}\n")
    tiny_vqgan().save_pretrained(root / "vqgan")
    (root / "slowly.py").write_text(SLOWLY)
    done = subprocess.run(
        command(root, "alone"), env=environment(), check=False, timeout=patience(120)
    )
    assert done.returncode == 0
    return root


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def words(place: Path, output: str) -> list[str]:
    sources = ["--data", str(place / "pictures"), "--model", str(place / "vqgan")]
    sizes = ["--shard-size", str(SHARD_SIZE), "--batch-size", "1", "--no-progress"]
    return [str(place / "slowly.py"), *sources, "--output", str(place / output), *sizes]


def command(place: Path, output: str) -> list[str]:
    return [sys.executable, *words(place, output)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file, the hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def finished(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("tokens-*.parquet")}


def kill_when(process: subprocess.Popen[bytes], folder: Path, shards: int) -> None:
    """Kill a process some time after it wrote so many shards."""
    deadline = time.monotonic() + 60
    while len(finished(folder)) < shards:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=patience(30)) == -signal.SIGKILL


@pytest.mark.slow  # tests/unit/data/test_encode.py has runs that end early, in one process
def test_killed_runs_go_on_and_end_with_the_same_files(place: Path) -> None:
    """Killed from outside while it works, then in the middle of writing a file."""
    output = place / "killed"
    call = [*command(place, output.name), "--workers", "1"]
    with subprocess.Popen(call, env=environment(), stderr=subprocess.PIPE) as process:
        kill_when(process, output, 1)
    before = finished(output)
    assert len(before) in range(1, SHARDS - 2)
    for name in before:  # whatever has its name is whole
        assert (output / name).read_bytes() == (place / "alone" / name).read_bytes()
    done = subprocess.run(
        command(place, "killed"),
        env=environment() | {"KILLED_AT": "2"},
        check=False,
        timeout=patience(120),
    )
    assert done.returncode == -signal.SIGKILL
    assert before < finished(output)  # the one that was being written does not count
    assert len(finished(output)) == len(before) + 1
    assert len(list(output.glob(".dallemini-*.tmp"))) == 1
    assert go_on(place, "killed") == f"there already: {len(before) + 1}"
    assert contents(output) == contents(place / "alone")


def go_on(place: Path, output: str) -> str:
    """Run the command to its end and return the last words that it printed."""
    done = subprocess.run(
        command(place, output),
        env=environment(),
        check=False,
        timeout=patience(120),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition(", ")[2]


@pytest.mark.slow  # one process that is told its rank: test_torchrun_says_which_part_is_mine
@pytest.mark.parametrize("processes", [2])
def test_processes_under_torchrun_make_the_whole_set_once(place: Path, processes: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", str(processes), *words(place, "shared")],
        env=environment(),
        check=False,
        timeout=patience(240),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for rank in range(processes):
        line = f"process {rank} of {processes}: {COUNT // processes} pictures in "
        assert line in done.stdout
    assert done.stdout.count(f"shards written: {SHARDS // processes}, there already: 0") == 2
    assert contents(place / "shared") == contents(place / "alone")
    encoded = EncodedImages.open(place / "shared")
    assert [item.captions for item in encoded] == [(f"picture {n}",) for n in range(COUNT)]
