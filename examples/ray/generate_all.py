"""Draw all prompts of a Parquet file on a cluster of Ray: pictures and manifests out.

    python examples/ray/generate_all.py prompts.parquet drawn --actors 2

`prompts.parquet` has a column `prompt`; the folder must be one that every node sees. Each actor
holds a model, draws batches and lists every picture when it is saved, so that the same command goes
on after a stop of all, and a worker that is killed costs the batch it was at: Ray starts another
one, which reads what is listed. The pictures are those of
`dallemini generate --prompts prompts.parquet --output drawn`, to the bit, and either goes on with
what the other began.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from dallemini import Pipeline
from dallemini.data.prompts import read_prompts
from dallemini.pipeline.bulk import DRAWN, Bulk, Manifest, split_units

Batch = dict[str, Any]  # of numpy arrays, one a column


class Draw:
    """An actor: holds a model, and draws batches of prompts.

    Args:
        model: Hub id or local folder of a pipeline; each node has a cache of its own.
        folder: for pictures and manifests.
        count: of all prompts.
        settings: of `GenerationConfig`, instead of the model's.
        device: where to compute.
    """

    def __init__(
        self, model: str, folder: str, count: int, settings: dict[str, Any], device: str
    ) -> None:
        self.pipe = Pipeline.from_pretrained(model, device=device)
        self.config = self.pipe.config.override(**settings)
        self.count = count
        # a process that Ray starts anew is another one: it never goes on with a dead one's part
        part = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.manifest = Manifest(folder, part).__enter__()
        self.bulk = Bulk(self.pipe, self.config, self.manifest)

    def __call__(self, batch: Batch) -> Batch:
        """Draw the pictures of these prompts that are not listed; return the lines of all new."""
        places = zip(batch["place"].tolist(), batch["prompt"].tolist(), strict=True)
        units = split_units(self.config, places, count=self.count)
        lines = [line for line in self.bulk.draw(units) if line["status"] == DRAWN]
        return {name: [line[name] for line in lines] for name in ("number", "file", "seed")}


def draw_all(
    prompts: Sequence[str],
    folder: Path,
    *,
    model: str,
    actors: int,
    cpus: float,
    gpus: float,
    batch_size: int,
    settings: dict[str, Any],
) -> int:
    """Draw all prompts that a folder does not have yet.

    Args:
        prompts: all of them; their places are the numbers of the pictures.
        folder: for pictures and manifests.
        model: Hub id or local folder of a pipeline.
        actors: how many models draw at the same time.
        cpus: of each actor, as Ray counts them.
        gpus: likewise; 0 draws on the CPU.
        batch_size: prompts that an actor gets at once, which a killed one has lost.
        settings: of `GenerationConfig`.

    Returns:
        How many pictures were drawn now.
    """
    table = pa.table({"place": range(len(prompts)), "prompt": list(prompts)})
    # Small blocks: each is a task, and what is half done is done again. They are cut here, because
    # tasks that cut them would wait for processors that the actors have.
    size = max(1, min(4 * batch_size, -(-len(prompts) // actors)))
    rows = ray.data.from_arrow([table.slice(at, size) for at in range(0, len(prompts), size)])
    drawn = rows.map_batches(
        Draw,
        fn_constructor_args=(model, str(folder), len(prompts), settings, "cuda" if gpus else "cpu"),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus or None,
    )
    return sum(len(batch["number"]) for batch in drawn.iter_batches(batch_size=None))


def main(argv: Sequence[str]) -> None:
    """Read the command, start Ray or join its cluster, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="dallemini/emoji")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--cpus", type=float, default=1, help="of each actor")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    parser.add_argument("--batch-size", type=int, default=32, help="prompts an actor gets at once")
    parser.add_argument("--images", type=int, default=1, help="of each prompt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if not ray.is_initialized():
        ray.init()
    folder = options.folder.absolute()
    drawn = draw_all(
        read_prompts(options.prompts),
        folder,
        model=options.model,
        actors=options.actors,
        cpus=options.cpus,
        gpus=options.gpus,
        batch_size=options.batch_size,
        settings={"num_images_per_prompt": options.images, "seed": options.seed},
    )
    print(f"{drawn} pictures were drawn into {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
