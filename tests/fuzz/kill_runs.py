"""Kill training and encoding at random moments, and start them again: nothing may be lost.

    python tests/fuzz/kill_runs.py --kills 50

A run that was killed any number of times must end with the weights and the log of one that was
not, and its checkpoints must only go forward; encoded files must be whole or not there, and in the
end the same, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import Image

from dallemini import VQGAN
from dallemini.data import CaptionedImages, DataConfig, encode_images
from dallemini.data.token_shards import TokenShard
from dallemini.files import finish_folder
from dallemini.testing import tiny_pipeline
from dallemini.training.checkpoint import newest, read_progress
from dallemini.training.log import read_log
from dallemini.training.recipes import TransformerTrainingConfig, train_transformer

DATA = DataConfig(image_size=16, min_side=8, caption_dropout=0.1)
NOTES = "README.md", "evaluation.json"
CLOCK = {"images_per_second", "tokens_per_second", "memory_gb", "time"}
SIGNALS = signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT


def main() -> None:
    """Make a set and a model, then kill what works on them."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=50, help="of each of the two")
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        prepare(place)
        for what, check, state in (
            (train, check_training, trained),
            (encode, check_encoding, encoded),
        ):
            chance = random.Random(chosen.seed)
            torment(place, what, check, state, chosen.kills, chance)


def prepare(place: Path) -> None:
    """Write twenty pictures with captions, and a model to start from."""
    (place / "set").mkdir()
    for number in range(20):
        path = place / "set" / f"{number}.png"
        Image.new("RGB", (20, 16), (10 * number, 255 - 10 * number, 90)).save(path)
        path.with_suffix(".txt").write_text(f"square {number}")
    tiny_pipeline().save_pretrained(place / "model")
    older = tiny_pipeline(seed=7)
    older.save_pretrained(place / "older")
    for name in NOTES:
        (place / "older" / name).write_text("of the older weights")


def train(place: Path, output: Path) -> None:
    """Fine-tune, with a checkpoint at every step, and save over an older model."""
    if not (output / "model").exists():
        shutil.rmtree(output / "copied", ignore_errors=True)
        shutil.copytree(place / "older", output / "copied")
        os.replace(output / "copied", output / "model")
    train_transformer(
        TransformerTrainingConfig(
            train_data=(str(place / "set"),),
            eval_data=(str(place / "set"),),
            init_from=str(place / "model"),
            output=str(output / "model"),
            run=str(output / "run"),
            data=DATA,
            steps=24,
            batch_size=4,
            log_every=1,
            evaluate_every=6,
            save_minutes=0.0,
            keep_last=2,
            device="cpu",
            progress=False,
        )
    )


def check_training(output: Path, before: int) -> int:
    """Return the steps that are safe; they never get fewer."""
    path = newest(output / "run")
    step = 0 if path is None else int(read_progress(path)["step"])
    assert step >= before, f"{before} steps were done, and {step} are left"
    if (output / "model").exists():
        check_notes(output / "model", output.parent / "older")
    return step


def check_notes(model: Path, older: Path) -> None:
    """Look whether an older card and evaluation lie beside the older weights, and nowhere else."""
    finish_folder(model)
    name = Path("transformer", "model.safetensors")
    is_older = (model / name).read_bytes() == (older / name).read_bytes()
    found = [
        (model / note).exists() and (model / note).read_text() == (older / note).read_text()
        for note in NOTES
    ]
    assert found == [is_older] * len(NOTES), "notes of other weights"


def trained(output: Path) -> Any:
    """Return all that a run comes to."""
    rows = [{n: v for n, v in row.items() if n not in CLOCK} for row in read_log(output / "run")]
    weights = (output / "model" / "transformer" / "model.safetensors").read_bytes()
    return rows, weights


def encode(place: Path, output: Path) -> None:
    """Write a file for every two pictures."""
    images = CaptionedImages.open(place / "set", config=DATA)
    vqgan = VQGAN.from_pretrained(place / "model", subfolder="vqgan")
    encode_images(vqgan, images, output, shard_size=2, batch_size=1, progress=False)


def check_encoding(output: Path, before: int) -> int:
    """Return how many files are there, all of them whole."""
    paths = list(output.glob("tokens-*.parquet"))
    assert all(TokenShard.read(path).rows == 2 for path in paths)
    assert len(paths) >= before, f"{before} files were there, and {len(paths)} are left"
    return len(paths)


def encoded(output: Path) -> Any:
    """Return what every file holds."""
    return {path.name: path.read_bytes() for path in output.glob("*")}


def work(do: Callable[[], None]) -> NoReturn:
    """Work in a process of its own, which ends here whatever happens."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        do()
        os._exit(0)
    finally:
        os._exit(1)


def torment(
    place: Path,
    what: Callable[[Path, Path], None],
    check: Callable[[Path, int], int],
    state: Callable[[Path], Any],
    kills: int,
    chance: random.Random,
) -> None:
    """Start work again and again, each time killed at a random moment."""
    started = time.monotonic()
    what(place, place / "whole")
    took, wanted = time.monotonic() - started, state(place / "whole")
    safe = finished = 0
    output = place / "killed"
    for number in range(kills):
        child = os.fork()
        if child == 0:
            work(lambda: what(place, output))
        time.sleep(chance.uniform(0, took))
        how = chance.choice(SIGNALS)
        os.kill(child, how)
        _, status = os.waitpid(child, 0)
        if output.exists():
            safe = check(output, safe)
        print(f"{what.__name__} {number}: {how.name}, safe: {safe}", flush=True)
        if status == 0:
            finished += 1
            assert state(output) == wanted, "it differs from the one that nobody disturbed"
            shutil.rmtree(output)
            safe = 0
    what(place, output)
    assert state(output) == wanted, "it differs from the one that nobody disturbed"
    print(f"{what.__name__}: {kills} kills, {finished} times finished, nothing lost", flush=True)
    shutil.rmtree(output)
    shutil.rmtree(place / "whole")


if __name__ == "__main__":
    main()
