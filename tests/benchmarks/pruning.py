"""What pruning of candidates saves and keeps, on the bundled model or another one.

    python tests/benchmarks/pruning.py [--model MODEL] [--candidates 8] [--prompts 6]

prints JSON: for each judge (the scorer, the likelihood of the text) the processor's seconds of all
calls with and without pruning; how often the candidate that would have been chosen survives; and
the gain that is kept, which is how far the chosen one's score is above the mean of all candidates,
against the best one's. A candidate chosen blindly keeps nothing of it, the best one all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch

from dallemini import GenerationOutput, Pipeline, __version__

PROMPTS = (
    "a red apple",
    "a slice of pizza",
    "light bulb",
    "a dog and a cat",
    "rocket on a blue background",
    "an angry face",
    "green heart",
    "a blue car",
    "penguin",
    "castle",
    "a purple cat",
    "guitar",
)


def timed(pipe: Pipeline, prompt: str, **settings: Any) -> tuple[GenerationOutput, float]:
    """Return what a call draws, and the processor's seconds that it took."""
    start = time.process_time()
    drawn = pipe(prompt, progress=False, **settings)
    return drawn, time.process_time() - start


def compare(
    pipe: Pipeline,
    prompts: Sequence[str],
    *,
    rank: Literal["scorer", "likelihood"],
    candidates: int,
) -> dict[str, Any]:
    """Draw each prompt's candidates: all to the end, ranked, and with pruning."""
    whole_time = pruned_time = 0.0
    survived, gains = [], []
    for number, prompt in enumerate(prompts):
        seed = 1000 * number
        asked: dict[str, Any] = {"rank": rank, "candidates": candidates, "seed": seed}
        every = pipe(prompt, num_images_per_prompt=candidates, rank=rank, seed=seed, progress=False)
        _, seconds = timed(pipe, prompt, **asked)
        whole_time += seconds
        pruned, seconds = timed(pipe, prompt, prune=True, **asked)
        pruned_time += seconds
        assert every.scores is not None
        best, mean = every.scores[0], statistics.mean(every.scores)
        found = dict(zip(every.seeds, every.scores, strict=True))[pruned.seeds[0]]
        survived.append(pruned.seeds[0] == every.seeds[0])
        gains.append((found - mean) / (best - mean) if best > mean else 1.0)
    return {
        "rank": rank,
        "candidates": candidates,
        "prompts": len(prompts),
        "seconds_whole": round(whole_time, 2),
        "seconds_pruned": round(pruned_time, 2),
        "time": round(pruned_time / whole_time, 3),
        "best_survives": round(statistics.mean(survived), 3),
        "gain_kept": round(statistics.mean(gains), 3),
    }


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="dallemini/emoji")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=6)
    given = parser.parse_args()
    pipe = Pipeline.from_pretrained(given.model)
    pipe(PROMPTS[0], rank=True, seed=0, progress=False)  # everything is loaded
    judges: tuple[Literal["scorer", "likelihood"], ...] = ("scorer", "likelihood")
    cases = [
        compare(pipe, PROMPTS[: given.prompts], rank=rank, candidates=given.candidates)
        for rank in judges
    ]
    machine = {"processor": platform.processor(), "threads": torch.get_num_threads()}
    versions = {"dallemini": __version__, "torch": torch.__version__}
    print(json.dumps({**machine, **versions, "model": pipe.name, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
