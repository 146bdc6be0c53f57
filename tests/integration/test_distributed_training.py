"""Training on two processes, killed runs, and another number of processes: the same losses."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dallemini import Pipeline
from dallemini.testing import tiny_pipeline
from dallemini.training.checkpoint import newest, read_progress
from dallemini.training.log import read_log
from patience import patience
from training_worker import fork

pytestmark = pytest.mark.thorough

WORKER = Path(__file__).parents[1] / "training_worker.py"
HALF: dict[str, Any] = {"steps": 4, "schedule": "constant"}
MUON: dict[str, Any] = {"optimizer": "muon", "matrix_learning_rate": 1e-3}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


Run = tuple[str, Path, dict[str, Any]]  # the task's name, the folder, changes to the configuration


def command(runs: Sequence[Run], *, processes: int) -> list[str]:
    start = [sys.executable] if processes == 1 else [sys.executable, *TORCHRUN, str(processes)]
    return [*start, str(WORKER), told(runs)]


def told(runs: Sequence[Run]) -> str:
    return json.dumps([(kind, str(folder), changes) for kind, folder, changes in runs])


def environment(**extra: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **extra}


def train_forked(runs: Sequence[Run], *, processes: int, fails: bool = False) -> None:
    """Do some runs in processes that a server forks, to the end or until the last fails."""
    errors = Path(runs[0][1]).parent / "errors.txt"
    errors.parent.mkdir(parents=True, exist_ok=True)
    started = fork(told(runs), processes=processes, errors=errors)
    for process in started:
        process.join(patience(280))
        process.kill()  # nothing, where it has ended
    said = errors.read_text(encoding="utf-8")
    assert [bool(process.exitcode) for process in started] == [fails] * processes, said[-3000:]
    assert ("this process fails" in said) == fails, said[-3000:]


def train(runs: Sequence[Run], *, processes: int, fails: bool = False) -> None:
    """Do some runs in processes that torchrun starts, to the end or until the last fails."""
    done = subprocess.run(
        command(runs, processes=processes),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(280),
        check=False,
    )
    assert bool(done.returncode) == fails, done.stderr[-3000:]
    assert ("this process fails" in done.stderr) == fails, done.stderr[-3000:]


def rows(folder: Path) -> list[dict[str, float]]:
    log = list(read_log(folder))
    for row in log:
        for name in ("images_per_second", "tokens_per_second", "memory_gb", "time"):
            row.pop(name, None)
    return log


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "final.pt")
    return state


def assert_alike(first: Path, second: Path, *, atol: float = 1e-5) -> None:
    """Compare the logs of two runs."""
    one, other = rows(first), rows(second)
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert left == pytest.approx(right, abs=atol, rel=1e-5)


def assert_same_weights(first: Path, second: Path) -> None:
    """Compare final weights; where gradients are nothing but rounding, Adam makes steps of it."""
    expected = weights(second)
    for name, value in weights(first).items():
        torch.testing.assert_close(value, expected[name], atol=5e-4, rtol=1e-3)


ONE: dict[str, dict[str, Any]] = {
    "transformer": {},
    "accumulated": {"accumulation": 2},
}
TWO: dict[str, tuple[str, str, dict[str, Any]]] = {  # what must be like which of ONE
    "ddp": ("transformer", "transformer", {}),
    "fsdp": ("transformer", "transformer", {"strategy": "fsdp"}),
    "fsdp, accumulated": (
        "accumulated",
        "transformer",
        {"strategy": "fsdp", "accumulation": 2, "gradient_checkpointing": True},
    ),
    "first half": ("constant", "transformer", {**HALF, "strategy": "fsdp"}),
}


FILES: dict[str, tuple[str, dict[str, Any]]] = {  # whole runs
    "from files": ("train transformer", {"prompts": ["a red square"]}),
    "adapters": ("train transformer", {"prompts": ["a red square"], "lora_rank": 2}),
}
MORE_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "vqgan from files": ("train vqgan", {"loss": {"adversarial_from": 2}}),
    "clip from files": ("train clip", {}),
}


def whole_runs(
    files: Mapping[str, tuple[str, dict[str, Any]]], place: Path, source: Path, *, processes: int
) -> list[Run]:
    """Runs from pictures to a saved model; those with split weights are made in two parts."""
    pictures = [str(source / "pictures")]
    common: dict[str, Any] = {
        "train_data": pictures,
        "eval_data": pictures,
        "init_from": str(source / "model"),
    }
    common |= {"schedule": "constant", "evaluate_every": 2}
    runs: list[Run] = []
    for name, (kind, changes) in files.items():
        split = processes == 2 and kind == "train transformer"
        told = {**common, **changes, "strategy": "fsdp" if split else "ddp"}
        for steps in (2, 4) if split else (4,):
            runs.append((kind, place / name, {**told, "steps": steps}))
    return runs


def make_source(place: Path) -> Path:
    """Pictures with captions, and a model to start from."""
    (place / "pictures").mkdir(parents=True)
    for name in ("red", "green", "blue", "orange", "purple", "yellow"):
        Image.new("RGB", (20, 16), name).save(place / "pictures" / f"{name}.png")
        (place / "pictures" / f"{name}.txt").write_text(f"a {name} square")
    tiny_pipeline().save_pretrained(place / "model")
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on one process, and on two; the last of these fails, and one is killed."""
    place = tmp_path_factory.mktemp("runs")
    runs_of_one_and_two(place, train_forked)
    go_on = kill_while_training("transformer", place, seed=0)
    constant: Run = ("transformer", place / "from two", {"schedule": "constant"})
    train_forked([constant, *go_on], processes=1)
    return place


def runs_of_one_and_two(place: Path, train: Callable[..., None]) -> None:
    """Every run on one process, and on two; the last of these fails."""
    kinds = {"accumulated": "transformer"}
    one: list[Run] = [
        (kinds.get(name, name), place / name, changes) for name, changes in ONE.items()
    ]
    constant: dict[str, Any] = {"schedule": "constant"}
    one += [("transformer", place / "constant", constant)]
    one += [("transformer", place / "half", HALF)]
    train(one, processes=1)
    two: list[Run] = [
        (kind, place / "two" / name, changes) for name, (_, kind, changes) in TWO.items()
    ]
    shutil.copytree(place / "half", place / "from one")
    two += [("transformer", place / "from one", {**constant, "strategy": "fsdp"})]
    train([*two, ("transformer", place / "fails", {})], processes=2, fails=True)
    shutil.copytree(place / "two" / "first half", place / "from two")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs from pictures to a saved model, on one process and on two."""
    place = tmp_path_factory.mktemp("files")
    source = make_source(place / "source")
    for processes, folder in ((1, place), (2, place / "two")):
        train(whole_runs(FILES, folder, source, processes=processes), processes=processes)
    return place


@pytest.mark.parametrize("name", [name for name in TWO if name != "first half"])
def test_two_processes_learn_as_one(folder: Path, name: str) -> None:
    expected = TWO[name][0]
    assert_alike(folder / "two" / name, folder / expected)
    assert_same_weights(folder / "two" / name, folder / expected)


@pytest.mark.slow
def test_processes_of_torchrun_learn_as_one(tmp_path: Path) -> None:
    """As users start them; the tests beside this one fork the same processes."""
    runs_of_one_and_two(tmp_path, train)
    for name in [name for name in TWO if name != "first half"]:
        test_two_processes_learn_as_one(tmp_path, name)
    test_a_process_that_fails_ends_the_run(tmp_path)


@pytest.mark.slow
def test_other_networks_and_muon_learn_as_one(tmp_path: Path) -> None:
    """Muon nearly: it orthogonalises in bfloat16, which makes steps of the last bits."""
    kinds = ("vqgan", "clip")
    runs: list[Run] = [(kind, tmp_path / kind, {}) for kind in kinds]
    train([*runs, ("transformer", tmp_path / "muon", MUON)], processes=1)
    runs = [(kind, tmp_path / "two" / kind, {}) for kind in kinds]
    split = {**MUON, "strategy": "fsdp"}
    train([*runs, ("transformer", tmp_path / "two" / "muon", split)], processes=2)
    for kind in kinds:
        assert_alike(tmp_path / "two" / kind, tmp_path / kind)
        assert_same_weights(tmp_path / "two" / kind, tmp_path / kind)
    pairs = zip(rows(tmp_path / "two" / "muon"), rows(tmp_path / "muon"), strict=True)
    for two, one in pairs:
        assert two == pytest.approx(one, abs=5e-3)


@pytest.mark.parametrize("name", ["from one", "from two"])
def test_another_number_of_processes_goes_on(folder: Path, name: str) -> None:
    resumed = rows(folder / name)
    assert [row["step"] for row in resumed] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert_alike(folder / name, folder / "constant")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FILES))
def test_whole_runs_on_two_processes_stop_and_go_on_as_on_one(files: Path, name: str) -> None:
    assert_alike(files / "two" / name, files / name, atol=3e-5)  # the gap is a difference
    assert_same_weights(files / "two" / name, files / name)


@pytest.mark.slow
def test_whole_runs_of_the_small_networks_learn_as_on_one(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source")
    for processes, place in ((1, tmp_path), (2, tmp_path / "two")):
        runs = whole_runs(MORE_FILES, place, source, processes=processes)
        train(runs, processes=processes)
    for name in MORE_FILES:
        assert_alike(tmp_path / "two" / name, tmp_path / name, atol=3e-5)
        assert_same_weights(tmp_path / "two" / name, tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FILES))
def test_split_weights_draw_and_are_saved_whole(files: Path, name: str) -> None:
    for step in (2, 4):
        one, two = (
            (place / name / "images" / f"samples-{step:07}.png").read_bytes()
            for place in (files, files / "two")
        )
        assert one == two
    saved = Pipeline.from_pretrained(files / "two" / name / "model").transformer.state_dict()
    for key, value in weights(files / "two" / name).items():
        assert torch.equal(saved[key], value)
    assert (files / "two" / name / "model" / "adapter").exists() == (name == "adapters")


def test_a_process_that_fails_ends_the_run(folder: Path) -> None:
    assert [row["step"] for row in rows(folder / "fails")] == [1, 2]
    assert not (folder / "fails" / "final.pt").exists()


@pytest.mark.slow
def test_processes_that_are_told_to_end_leave_a_checkpoint(tmp_path: Path) -> None:
    """Slurm and Kubernetes send SIGTERM to torchrun, and torchrun to its processes."""
    process = subprocess.Popen(
        command([("transformer", tmp_path, {"steps": 1000})], processes=2),
        env=environment(PAUSE="0.05"),
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + patience(200)
    while not (tmp_path / "log.jsonl").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=patience(100)) != 0
    path = newest(tmp_path)
    assert path is not None
    assert read_progress(path)["step"] == int(path.name.rpartition("-")[2]) < 1000


def kill_while_training(kind: str, place: Path, *, seed: int) -> list[Run]:
    """Kill a run with SIGKILL after its first checkpoint; return it, and what it is like."""
    changes = {"steps": 20, "optimizer": "muon"}
    killed = place / "killed"
    run = told([(kind, killed, {**changes, "save_minutes": 0.003})])
    (process,) = fork(run, processes=1, errors=place / "errors.txt", PAUSE="0.1")
    deadline = time.monotonic() + patience(120)
    while newest(killed) is None:
        assert process.is_alive(), "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0, 0.5))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    path = newest(killed)
    assert path is not None
    assert 0 < int(path.name.rpartition("-")[2]) < 20
    return [(kind, place / "whole", changes), (kind, killed, changes)]


def assert_exactly_alike(place: Path) -> None:
    assert rows(place / "killed") == rows(place / "whole")
    for name, value in weights(place / "whole").items():
        assert torch.equal(weights(place / "killed")[name], value)


def test_a_killed_run_goes_on_exactly(folder: Path) -> None:
    assert_exactly_alike(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("transformer", 2), ("vqgan", 1), ("clip", 3)])
def test_any_killed_run_goes_on_exactly(tmp_path: Path, kind: str, seed: int) -> None:
    train(kill_while_training(kind, tmp_path, seed=seed), processes=1)
    assert_exactly_alike(tmp_path)
