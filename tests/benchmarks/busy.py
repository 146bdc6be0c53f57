"""Generating on an idle machine and beside a busy process, and another version of this package too.

    python tests/benchmarks/busy.py [--baseline OTHER_CHECKOUT] [--output busy.json]

prints JSON: for each case the median and the spread of n calls, `idle` and `busy`, in milliseconds
(of a whole picture, or of a token), and with a baseline how many times as long that one takes. All
alternate: this version and the baseline, idle and beside a loop of Python on one core. Every
version computes in a process of its own that has loaded everything and is warm. Weights are random
but for those of the bundled model; that does not change the time. Nothing else should run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOKENS = 12  # of a call that measures tokens
LOADS = ("idle", "busy")


def load_picture() -> Callable[[], float]:
    """Return what draws a picture with the bundled model and returns its milliseconds."""
    from dallemini import Pipeline

    pipe = Pipeline.from_pretrained()

    def draw() -> float:
        start = time.perf_counter()
        pipe("red apple", seed=0, candidates=1, progress=False)
        return (time.perf_counter() - start) * 1e3

    return draw


def load_tokens(precision: str, images: int) -> Callable[[], float]:
    """Return what decodes some tokens with mini's decoder and returns the milliseconds of each."""
    import torch

    from dallemini.generation import TopSampler, generate_tokens, make_generators

    transformer, tokenizer = _make_mini(precision)
    settings = {
        "unconditional": tokenizer.unconditional(),
        "prompt_of_image": torch.zeros(images, dtype=torch.int64),
        "guidance_scale": 10.0,
        "sampler": TopSampler(),
        "num_codes": transformer.config.image_vocab_size,
    }

    def draw() -> float:
        generators = make_generators(range(images))
        tokens = generate_tokens(
            transformer, tokenizer("a red apple"), generators=generators, **settings
        )
        next(tokens)  # reads the prompt as well
        start = time.perf_counter()
        for _ in range(TOKENS):
            next(tokens)
        return (time.perf_counter() - start) * 1e3 / TOKENS

    return draw


def _make_mini(precision: str) -> tuple[Any, Any]:
    """Return a transformer with mini's decoder, and a tokenizer."""
    from dallemini import Transformer
    from dallemini.models import TransformerConfig
    from dallemini.testing import tiny_tokenizer

    config = TransformerConfig(encoder_layers=1, text_vocab_size=1024)
    transformer = Transformer.from_config(config).eval()
    return transformer.quantize("int8") if precision == "int8" else transformer, tiny_tokenizer()


CASES: dict[str, Callable[[], Callable[[], float]]] = {
    "bundled, a picture": load_picture,
    "mini int8, a token": lambda: load_tokens("int8", 1),
    "mini float32, a token": lambda: load_tokens("float32", 1),
    "mini int8, a token of 9 images": lambda: load_tokens("int8", 9),
    "mini float32, a token of 9 images": lambda: load_tokens("float32", 9),
}


def work(root: str, cases: Sequence[str]) -> None:
    """Load a checkout's cases; then measure those named on standard input, one a line."""
    sys.path.insert(0, root)
    loaded = {name: CASES[name]() for name in cases}
    for draw in loaded.values():
        draw()
    import torch

    print(json.dumps({"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(loaded[line.strip()]()), flush=True)


class Worker:
    """A process that measures one checkout."""

    def __init__(self, root: Path, cases: Sequence[str]) -> None:
        command = [sys.executable, __file__, "--work", str(root), "--cases", *cases]
        environment = os.environ | {"PYTHONPATH": str(root)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def read(self) -> Any:
        """Return what it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process failed: {self._process.args!r}")
        return json.loads(line)

    def measure(self, case: str) -> float:
        """Return the milliseconds of a case."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{case}\n")
        self._process.stdin.flush()
        return float(self.read())

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Run a loop of Python that never ends, meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        yield
    finally:
        process.kill()
        process.wait()


def measure(
    roots: dict[str, Path], cases: Sequence[str], *, loads: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Measure all checkouts in turns; return the report."""
    workers = {name: Worker(root, cases) for name, root in roots.items()}
    found: dict[str, Any] = {
        case: {load: {name: [] for name in roots} for load in loads} for case in cases
    }
    try:
        threads = {name: worker.read()["threads"] for name, worker in workers.items()}
        for _ in range(rounds):
            for load in loads:
                with busy_process() if load == "busy" else contextlib.nullcontext():
                    for case in cases:
                        for name, worker in workers.items():
                            found[case][load][name].append(worker.measure(case))
    finally:
        for worker in workers.values():
            worker.end()
    return {"threads": threads["this"], "n": rounds, "cases": _summarize(found)}


def _summarize(found: dict[str, Any]) -> dict[str, Any]:
    for loads in found.values():
        for load, sides in loads.items():
            medians = {name: statistics.median(times) for name, times in sides.items()}
            loads[load] = {
                f"{name}_{key}": value
                for name, times in sides.items()
                for key, value in (("ms", medians[name]), ("spread", [min(times), max(times)]))
            }
            if "baseline" in medians:
                loads[load]["baseline_over_this"] = medians["baseline"] / medians["this"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description="Measure generating beside a busy process.")
    parser.add_argument("--baseline", type=Path, help="another checkout, with built kernels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work, options.cases)
        return
    roots = {"this": ROOT}
    if options.baseline:
        roots["baseline"] = options.baseline.resolve()
    report = measure(roots, options.cases, loads=options.loads, rounds=options.rounds)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    describe = importlib.import_module("benchmarks.side_by_side.machine").describe
    machine = describe(report["threads"], ("dallemini", "torch"))
    report = {"machine": machine, **report}
    print(json.dumps(report, indent=2))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
