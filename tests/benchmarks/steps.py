"""Time a decoding step of mini, of two checkouts in turn.

    python tests/benchmarks/steps.py OLD NEW [--rounds 3] [--threads 2]

Weights are random, since time does not depend on them. Each round starts one process for each
checkout; what is printed is JSON: the median and the range of the milliseconds of a step, for one
picture and for nine, unguided, in float32 and int8. Kernels must be built in both checkouts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

STEPS = 24


def measure(threads: int) -> None:
    """Print the milliseconds of steps of the checkout that is imported."""
    import torch

    from dallemini.models import Transformer, TransformerConfig

    torch.set_num_threads(threads)
    model, found = Transformer.from_config(TransformerConfig()).eval(), {}
    for precision in ("float32", "int8"):
        if precision == "int8":
            model.quantize()
        for images in (1, 9):
            found[f"{precision}, {images}"] = time_steps(model, images)
    print(json.dumps(found))


def time_steps(model: object, images: int) -> list[float]:
    """Return the milliseconds of each step, the first two of which only warm up."""
    import torch

    from dallemini.models import EncoderOutput, Transformer

    assert isinstance(model, Transformer)
    times = []
    with torch.no_grad():
        states = torch.ones(1, 16, model.config.d_model, dtype=torch.float32, device="cpu")
        mask = torch.ones(1, 16, dtype=torch.bool, device="cpu")
        rows = torch.zeros(images, dtype=torch.int64, device="cpu")
        cache = model.init_cache(EncoderOutput(states, mask), rows=rows)
        tokens = model.start_tokens(images)
        for _ in range(STEPS + 2):
            begun = time.perf_counter()
            model.decode_step(tokens, cache)
            times.append(1e3 * (time.perf_counter() - begun))
    return times[2:]


def main() -> None:
    """Measure both checkouts in turn and print the summary."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkouts", type=Path, nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", action="store_true")
    asked = parser.parse_args()
    if asked.child:
        measure(asked.threads)
        return
    times: dict[str, dict[str, list[float]]] = {str(path): {} for path in asked.checkouts}
    for _ in range(asked.rounds):
        for path in asked.checkouts:
            command = [sys.executable, __file__, "--child", "--threads", str(asked.threads)]
            environment = {**os.environ, "PYTHONPATH": str(path.resolve())}
            done = subprocess.run(command, env=environment, check=True, capture_output=True)
            for name, several in json.loads(done.stdout).items():
                times[str(path)].setdefault(name, []).extend(several)
    summary = {
        path: {
            name: {
                "median": round(statistics.median(several), 2),
                "range": [round(min(several), 2), round(max(several), 2)],
                "n": len(several),
            }
            for name, several in found.items()
        }
        for path, found in times.items()
    }
    about = {"machine": platform.processor() or platform.machine(), "threads": asked.threads}
    print(json.dumps({**about, "milliseconds a step": summary}, indent=2))


if __name__ == "__main__":
    main()
