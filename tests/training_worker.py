"""One process of training runs, for tests that start several with torchrun or kill one.

    python tests/training_worker.py JSON

`fork` starts the same from a process that has imported torch, which spares each of them seconds.

JSON holds a list of runs: the task's name, the folder, and changes to the configuration. The
environment variable PAUSE holds seconds to sleep in every step; in a run in a folder named `fails`
the last process fails. At the end of a run the first process writes the weights to FOLDER/final.pt.
A name that begins with "train " is a whole run from files, with the output FOLDER/model and the run
in FOLDER.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dallemini import Pipeline, TextTokens
from dallemini.config import Config
from dallemini.errors import InputError
from dallemini.testing import tiny_clip_scorer, tiny_transformer, tiny_vqgan
from dallemini.training import (
    CLIPBatch,
    CLIPTask,
    Task,
    TrainingConfig,
    TransformerBatch,
    TransformerTask,
    VQGANTask,
    run,
)
from dallemini.training.distributed import connected, full, own_rows, pick_device, rank, world_size
from dallemini.training.recipes import (
    CLIPTrainingConfig,
    TransformerTrainingConfig,
    VQGANTrainingConfig,
    train_clip,
    train_transformer,
    train_vqgan,
)
from dallemini.training.vqgan import VQGANLossConfig

ROWS = 8
BASE = {
    "steps": 8,
    "batch_size": ROWS,
    "warmup_steps": 2,
    "learning_rate": 3e-4,  # small: rounding grows with every step of Adam
    "optimizer": "adamw",
    "log_every": 1,
    "evaluate_every": 4,
    "device": "cpu",
    "progress": False,
}


def randint(high: int, *shape: int, seed: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def text(index: int, *, vocabulary: int) -> TextTokens:
    ids = randint(vocabulary - 10, ROWS, 6, seed=index) + 5
    return TextTokens(ids, torch.ones_like(ids, dtype=torch.bool))


def make_transformer() -> Task:
    model = tiny_transformer()
    config = model.config

    def batch(index: int) -> TransformerBatch:
        tokens = text(index, vocabulary=config.text_vocab_size)
        codes = randint(config.image_vocab_size, ROWS, config.image_length, seed=index + 10**6)
        return TransformerBatch(
            TextTokens(own_rows(tokens.input_ids), own_rows(tokens.attention_mask)),
            own_rows(codes),
        )

    alone = text(10**5, vocabulary=config.text_vocab_size)
    codes = randint(config.image_vocab_size, ROWS, config.image_length, seed=7)
    return TransformerTask(
        model,
        batches=batch,
        evaluation={"train": TransformerBatch(alone, codes)},
        blank=TextTokens(alone.input_ids[:1], alone.attention_mask[:1]),
        codebook_size=config.image_vocab_size,
    )


def pictures(index: int) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    colours = torch.rand(ROWS, 3, 2, 2, generator=generator)
    return torch.nn.functional.interpolate(colours, size=16, mode="bilinear")


def make_vqgan() -> Task:
    return VQGANTask(
        tiny_vqgan(),
        batches=lambda index: own_rows(pictures(index)),
        held_out=pictures(10**6),
        config=VQGANLossConfig(quantize_from=2, adversarial_from=4, kmeans_batches=2),
    )


def make_clip() -> Task:
    clip = tiny_clip_scorer().clip
    size = clip.config.image_size
    assert isinstance(size, int)

    def batch(index: int) -> CLIPBatch:
        pixels = torch.rand(ROWS, 3, size, size, generator=torch.Generator().manual_seed(index))
        ids = randint(500, ROWS, 5, seed=index)
        ids[:, -1] = clip.config.vocab_size - 1  # where a sentence is read off
        ids[1] = ids[0]  # two pictures of one caption
        return CLIPBatch(own_rows(pixels), own_rows(ids))

    return CLIPTask(clip, batches=batch, evaluation={})


MAKERS = {"transformer": make_transformer, "vqgan": make_vqgan, "clip": make_clip}


RECIPES: dict[str, tuple[type[Config], Callable[[Any], Any]]] = {
    "train transformer": (TransformerTrainingConfig, train_transformer),
    "train vqgan": (VQGANTrainingConfig, train_vqgan),
    "train clip": (CLIPTrainingConfig, train_clip),
}


def train_from_files(kind: str, folder: str, changes: dict[str, Any]) -> None:
    configuration, recipe = RECIPES[kind]
    files = {"run": folder, "output": f"{folder}/model", "data": {"min_side": 8}}
    trained = recipe(configuration.from_dict({**BASE, **files, **changes}))
    module = trained.transformer if isinstance(trained, Pipeline) else trained
    module = getattr(module, "clip", module)
    if rank() == 0:
        torch.save(module.state_dict(), Path(folder) / "final.pt")


def fail(task: Task) -> None:
    compute = task.losses

    def losses(index: int) -> dict[str, Tensor]:
        if index == 2 and rank() == world_size() - 1:
            raise InputError("this process fails")
        return compute(index)

    task.losses = losses  # type: ignore[method-assign]


def slow_down(task: Task, pause: float) -> None:
    compute = task.losses

    def losses(index: int) -> dict[str, Tensor]:
        time.sleep(pause)
        return compute(index)

    task.losses = losses  # type: ignore[method-assign]


def train(kind: str, folder: str, changes: dict[str, Any]) -> None:
    if kind in RECIPES:
        train_from_files(kind, folder, changes)
        return
    config = TrainingConfig.from_dict({**BASE, **changes})
    task = MAKERS[kind]()
    if pause := float(os.environ.get("PAUSE", "0")):
        slow_down(task, pause)
    if Path(folder).name == "fails":
        fail(task)
    run(task, config, folder=folder)
    weights = {name: full(value).clone() for name, value in task.module.state_dict().items()}
    if rank() == 0:
        torch.save(weights, Path(folder) / "final.pt")


def fork(runs: str, *, processes: int, errors: Path, **extra: str) -> list[BaseProcess]:
    """Start processes as torchrun would, from a server that has imported torch; see `main`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dallemini.training.recipes", "dallemini.testing"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1", **extra}
    if processes > 1:
        shared["WORLD_SIZE"] = str(processes)
    started: list[BaseProcess] = []
    for number in map(str, range(processes)):
        own = {**shared, "RANK": number, "LOCAL_RANK": number}
        process = context.Process(target=work, args=(runs, own, errors), daemon=True)
        process.start()
        started.append(process)
    return started


def work(runs: str, environment: Mapping[str, str], errors: Path) -> None:
    """Be one process: say what goes wrong in a file, as it would be printed."""
    os.environ.update(environment)
    with errors.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    main(runs)


def main(runs: str) -> None:
    torch.set_num_threads(1)
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # curves take longer than a run
    logging.getLogger("dallemini.training").setLevel(logging.ERROR)
    with connected(pick_device("cpu")):
        for kind, folder, changes in json.loads(runs):
            train(kind, folder, changes)


if __name__ == "__main__":
    main(sys.argv[1])
