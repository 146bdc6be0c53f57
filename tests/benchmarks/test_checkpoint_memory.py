"""Loading a released-size Flax file takes little memory beyond the mapped result.

A process of its own loads the model while a thread watches its anonymous memory: what it holds
privately, the mapped files not counted. The first load converts, the second maps.

    pytest -n 0 tests/benchmarks/test_checkpoint_memory.py -m "benchmark or slow" -s
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from random_checkpoints import Leaf, config, leaf_shapes, write_transformer

LIMIT = 1.5e9
PARAMETERS = {"mini": 437_833_712, "mega": 2_587_521_024}

LOAD = """
import json, sys, threading, time
from pathlib import Path

def anonymous():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.003):
        peak = max(peak, anonymous())

thread = threading.Thread(target=watch)
thread.start()
started = time.perf_counter()
from dallemini.models.transformer import Transformer
imported, before = time.perf_counter(), anonymous()
model = Transformer.from_pretrained(sys.argv[1], cache_dir=sys.argv[2])
loaded = time.perf_counter()
done.set()
thread.join()
print(json.dumps({
    "import_seconds": imported - started,
    "load_seconds": loaded - imported,
    "imported_bytes": before,
    "peak_bytes": peak,
    "left_bytes": anonymous(),
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "gate": model.decoder.layers[3].glu.in_proj.weight[5, :8].tolist(),
    "head": model.lm_head.weight[16384, :8].tolist(),
}))
"""


def load(folder: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", LOAD, str(folder), str(cache)]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(shown)
    return result


def check_values(found: dict[str, Any], size: str) -> None:
    """Compare a few weights with those that were written."""
    shapes = leaf_shapes(config(size))
    gate = "model/decoder/layers/FlaxBartDecoderLayers/GLU_0/Dense_0/kernel"
    for name, key in ((gate, "gate"), ("lm_head/kernel", "head")):
        values = Leaf(name, shapes[name]).array()
        column = values[3][:8, 5] if key == "gate" else values[:8, 16384]
        np.testing.assert_array_equal(np.float32(found[key]), column)


def measure(size: str, folder: Path) -> None:
    write_transformer(folder / "model", config(size))
    first = load(folder / "model", folder / "cache")
    check_values(first, size)
    second = load(folder / "model", folder / "cache")
    check_values(second, size)
    report = {
        "benchmark": f"load {size} from Flax, float32",
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "safetensors": safetensors.__version__,
        "n": 1,
        "first": {key: first[key] for key in first if key not in ("gate", "head")},
        "next": {key: second[key] for key in second if key not in ("gate", "head")},
    }
    print(json.dumps(report, indent=2))
    for result in (first, second):
        assert result["parameters"] == PARAMETERS[size]
        assert result["peak_bytes"] < LIMIT, result
    assert second["peak_bytes"] - second["imported_bytes"] < 1e8  # mapped, not read


@pytest.mark.benchmark
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_mini_loads_within_the_memory_limit(tmp_path: Path) -> None:
    measure("mini", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_mega_loads_within_the_memory_limit(tmp_path: Path) -> None:
    """Needs 21 GB on the disk."""
    measure("mega", tmp_path)
