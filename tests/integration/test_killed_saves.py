"""A save over an older pipeline that is killed, or that fills the disk, is not half believed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dallemini import Pipeline
from dallemini.errors import StorageError
from dallemini.testing import tiny_pipeline
from full_disk import full_disk
from patience import patience

PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from dallemini import Pipeline, Tokenizer
from dallemini.testing import tiny_pipeline, tiny_tokenizer

def weights(pipe):
    parts = [pipe.transformer, pipe.vqgan] + ([pipe.scorer.clip] if pipe._find_scorer() else [])
    return [float(sum(v.double().sum() for v in part.state_dict().values())) for part in parts]

def state(folder):
    pipe = Pipeline.from_pretrained(folder)
    notes = [(folder / name).exists() for name in ("NOTICE", "mine.txt")]
    return weights(pipe), pipe.config.seed, pipe.tokenizer.config.max_length, notes

def make(seed):
    pipe = tiny_pipeline(seed=seed)
    pipe.config = pipe.config.override(seed=seed)
    return pipe

folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
first, second = make(1), make(2)
second = Pipeline(tokenizer=second.tokenizer, transformer=second.transformer, vqgan=second.vqgan,
                  config=second.config)
source = folder.with_name("source")
first.save_pretrained(source)
(source / "NOTICE").write_text("of the first")
first = Pipeline.from_pretrained(source)
folder.mkdir()
(folder / "mine.txt").write_text("mine")
whole, started = [], time.monotonic()
for pipe in (first, second):
    pipe.save_pretrained(folder)
    whole.append(state(folder))
took = (time.monotonic() - started) / 2
assert whole[0] != whole[1], whole
for _ in range(kills):
    child = os.fork()
    if child == 0:
        while True:
            for pipe in (first, second):
                pipe.save_pretrained(folder)
    time.sleep(chance.uniform(0, 2 * took))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = state(folder)
    print(whole.index(found) if found in whole else found, flush=True)
second.save_pretrained(folder)
assert state(folder) == whole[1]
print(sorted(path.name for path in folder.iterdir()))
"""
FILES = [
    "README.md", "generation_config.json", "mine.txt", "model_index.json", "tokenizer",
    "transformer", "vqgan",
]  # fmt: skip


def state(folder: Path) -> tuple[Any, ...]:
    """What a saved pipeline is: its weights, its settings, a scorer."""
    pipe = Pipeline.from_pretrained(folder)
    weights = [
        float(sum(value.double().sum() for value in part.state_dict().values()))
        for part in (pipe.transformer, pipe.vqgan)
        if isinstance(part, nn.Module)
    ]
    return weights, pipe.config.seed, pipe._find_scorer() is not None


def test_what_lies_there_at_any_step_of_a_save_is_the_old_pipeline_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed leaves what is copied here before each file is moved."""
    old, parts = tiny_pipeline(seed=1), tiny_pipeline(seed=2)
    new = Pipeline(
        tokenizer=parts.tokenizer,
        transformer=parts.transformer,
        vqgan=parts.vqgan,
        config=parts.config.override(seed=2),
    )
    place, left = tmp_path / "place", list[Path]()
    old.save_pretrained(place / "model")
    before = state(place / "model")

    def copying(move: Callable[..., None]) -> Callable[..., None]:
        def copied(*paths: Path) -> None:
            left.append(tmp_path / f"left-{len(left)}")
            shutil.copytree(place, left[-1])
            move(*paths)

        return copied

    with monkeypatch.context() as patch:
        for name in ("replace", "rename"):
            patch.setattr(os, name, copying(getattr(os, name)))
        new.save_pretrained(place / "model")
    after = state(place / "model")
    chosen = [0, *sorted(random.Random(0).sample(range(1, len(left) - 1), 4)), -1]
    found = [state(left[step] / "model") for step in chosen]
    assert all(one in (before, after) for one in found)
    assert (found[0], found[-1], len(left) > 10) == (before, after, True)


@pytest.mark.thorough
@pytest.mark.parametrize("kills", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_killed_save_leaves_the_old_pipeline_or_the_new_one(kills: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model"), str(kills), "0"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=patience(600)
    )
    assert done.returncode == 0, done.stderr
    *found, left = done.stdout.splitlines()
    assert len(found) == kills
    assert set(found) <= {"0", "1"}, found
    assert left == str(FILES)


@pytest.mark.thorough
def test_a_full_disk_leaves_the_old_pipeline_and_no_picture(tmp_path: Path) -> None:
    old, pipe = tiny_pipeline(seed=1), tiny_pipeline(seed=2)
    old.save_pretrained(tmp_path / "model")
    out = pipe("a red apple", seed=0, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for size in (50, 1000, 20_000, 100_000):
        saves: list[Callable[[Path], object]] = [pipe.save_pretrained]
        for save in [*saves, *([out.save] if size < 100 else [])]:
            for folder in (tmp_path / "model", tmp_path / "new"):
                with full_disk(size), pytest.raises(StorageError) as told:
                    save(folder)
                assert str(told.value).startswith(f"Could not write {tmp_path}")
                assert "(File too large)" in str(told.value)
                assert ".dallemini" not in str(told.value)
    # `new` may be left by the pictures' attempt, empty; nothing else may
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob("new/*"))
    assert Pipeline.from_pretrained(tmp_path / "model").config == old.config
