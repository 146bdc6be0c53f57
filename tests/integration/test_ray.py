"""`examples/ray`: all prompts on a local Ray, a worker killed on the way, and once more."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dallemini import Pipeline
from dallemini.pipeline.bulk import Bulk, Manifest, split_units
from dallemini.testing import tiny_pipeline
from patience import patience

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs the extra ray"),
]

ROOT = Path(__file__).parents[2]
PROMPTS = [f"{kind} {number}" for number in range(12) for kind in ("a cat", "a dog")]
# More logical processors than there are, and actors that take their time, to be killed meanwhile.
DRIVER = """
import sys, time
import ray
ray.init(num_cpus=4, include_dashboard=False, object_store_memory=80 * 2**20)
import generate_all

class Slowly(generate_all.Draw):
    def __call__(self, batch):
        time.sleep(0.5)
        return super().__call__(batch)

generate_all.Draw = Slowly
generate_all.main(sys.argv[1:])
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model, prompts and the script that starts Ray."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    tiny_pipeline().save_pretrained(tmp_path / "model")
    parquet.write_table(pyarrow.table({"prompt": PROMPTS}), tmp_path / "prompts.parquet")
    (tmp_path / "driver.py").write_text(DRIVER)
    return tmp_path


def start(place: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "examples" / "ray"), *sys.path])
    rest = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    words = ["--model", "model", "--actors", "2", "--batch-size", "2", "--images", "2"]
    return subprocess.Popen(
        [sys.executable, "driver.py", "prompts.parquet", "drawn", *words, "--cpus", "2"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": paths, **rest},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def listed(folder: Path) -> list[dict[str, Any]]:
    parts = sorted(folder.glob("manifest*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def kill_a_worker(folder: Path, driver: subprocess.Popen[str]) -> int:
    """Kill the process of an actor that has drawn something, and return its number."""
    while driver.poll() is None:
        for part in folder.glob("manifest*.jsonl"):
            if part.stat().st_size:
                number = int(part.stem.split("-")[-2])
                os.kill(number, signal.SIGKILL)
                return number
        time.sleep(0.05)
    raise AssertionError(driver.communicate()[0])


def test_a_killed_worker_is_replaced_and_nothing_is_drawn_twice(place: Path) -> None:
    folder = place / "drawn"
    driver = start(place)
    killed = kill_a_worker(folder, driver)
    told, _ = driver.communicate(timeout=patience(300))
    assert driver.returncode == 0, told
    lines = listed(folder)
    assert sorted(line["number"] for line in lines) == list(range(2 * len(PROMPTS)))
    parts = [part.stem.split("-")[-2] for part in folder.glob("manifest*.jsonl")]
    assert len(parts) >= 3, told  # two, and the one that came for the killed one
    assert str(killed) in parts

    pipe = Pipeline.from_pretrained(place / "model")
    pipe.name = "model"  # as the actors call it
    config = pipe.config.override(num_images_per_prompt=2, seed=0)
    units = split_units(config, enumerate(PROMPTS), count=len(PROMPTS))
    with Manifest(place / "alone") as manifest:
        alone = list(Bulk(pipe, config, manifest).draw(units))
    assert len(alone) == len(lines)
    for line in alone:
        made = (folder / line["file"]).read_bytes()
        assert made == (place / "alone" / line["file"]).read_bytes(), line

    again = start(place)
    told, _ = again.communicate(timeout=patience(300))
    assert "0 pictures were drawn into" in told
    assert len(listed(folder)) == len(lines)
