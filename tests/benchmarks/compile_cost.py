"""What compiling costs and what it gains: seconds of drawing before, the first time and after.

    python tests/benchmarks/compile_cost.py [--model mini] [--images 1] [--device cpu]

prints JSON. `first_seconds` is a drawing that compiles, with the code in no cache of torch's on the
disk; `plain_seconds` and `compiled_seconds` have alternated, n times. A drawing is the tokens of
the pictures, with guidance and without their pixels. The machine should do nothing else.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

import dallemini
from dallemini import Transformer
from dallemini.generation import TopSampler, generate_tokens, make_generators
from dallemini.models import TransformerConfig
from dallemini.testing import tiny_tokenizer, tiny_transformer


def measure(transformer: Transformer, *, images: int, backend: str, rounds: int) -> dict[str, Any]:
    """Draw with a model and with a compiled copy of it; return seconds of both."""
    compiled = copy.deepcopy(transformer)
    start = time.perf_counter()
    compiled.compile_decoding(backend=backend)
    draw(compiled, images)
    first = time.perf_counter() - start
    draw(transformer, images)
    seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
    for _ in range(rounds):
        seconds["plain"].append(draw(transformer, images))
        seconds["compiled"].append(draw(compiled, images))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    gained = medians["plain"] - medians["compiled"]
    return {
        "images": images,
        "n": rounds,
        "first_seconds": first,
        **{f"{name}_seconds": median for name, median in medians.items()},
        **{f"{name}_spread": [min(found), max(found)] for name, found in seconds.items()},
        "plain_over_compiled": medians["plain"] / medians["compiled"],
        "drawings_until_it_pays": first / gained if gained > 0 else None,
    }


def draw(transformer: Transformer, images: int) -> float:
    """Draw the tokens of so many pictures of one prompt; return the seconds it took."""
    tokenizer = tiny_tokenizer()
    tokens = generate_tokens(
        transformer,
        tokenizer("an armchair in the shape of an avocado"),
        unconditional=tokenizer.unconditional(),
        prompt_of_image=torch.zeros(images, dtype=torch.int64),
        guidance_scale=10.0,
        sampler=TopSampler(),
        generators=make_generators(range(images)),
        num_codes=transformer.config.image_vocab_size,
    )
    start = time.perf_counter()
    torch.stack(list(tokens)).cpu()  # which waits for a GPU
    return time.perf_counter() - start


def make(name: str, device: str, dtype: str) -> Transformer:
    """Return a transformer of random weights; what they are costs no time."""
    if name == "tiny":
        return tiny_transformer()
    kind: torch.dtype = getattr(torch, dtype)
    return Transformer.from_config(TransformerConfig(), device=device, dtype=kind).eval()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what compiling costs and gains.")
    add = parser.add_argument
    add("--model", choices=("mini", "tiny"), default="mini")
    add("--images", type=int, nargs="+", default=[1])
    add("--device", default="cpu")
    add("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    add("--backend", default="inductor")
    add("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    transformer = make(options.model, options.device, options.dtype)
    report: dict[str, Any] = {
        **vars(options),
        "threads": torch.get_num_threads(),
        "versions": {"dallemini": dallemini.__version__, "torch": torch.__version__},
        "drawings": [],
    }
    for images in options.images:
        found = measure(transformer, images=images, backend=options.backend, rounds=options.rounds)
        report["drawings"].append(found)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        main()
