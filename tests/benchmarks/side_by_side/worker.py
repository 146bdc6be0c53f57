"""One process of the benchmark: does a job given as JSON and writes what it found as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from .memory import peak_bytes


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Do a job: "prepare", "machine" or "measure"."""
    if job["task"] == "measure":
        return _measure(job)
    if job["task"] == "machine":
        from .machine import describe, rates

        return {"machine": describe(job["threads"]), **rates(**job["rates"])}
    return _prepare(job)


def _prepare(job: dict[str, Any]) -> dict[str, Any]:
    from .models import SIZES, write_model
    from .ours import convert

    folder, size = Path(job["folder"]), SIZES[job["size"]]
    write_model(folder, size)
    for precision in job["sides"]:
        convert(folder, size, precision)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    disk = sum(path.stat().st_size for path in files)
    shutil.rmtree(folder / "cache")  # of the conversion
    return {"disk_bytes": disk}


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()  # importing torch is part of it, on both sides
    side = _import(job)
    imported = time.perf_counter()
    drawing = side()
    loaded = time.perf_counter()
    import torch

    torch.set_num_threads(job["threads"])  # min-dalle takes all cores when it is imported
    result = {
        "import_seconds": imported - start,
        "load_seconds": loaded - imported,
        "load_peak_bytes": peak_bytes(),
        "greedy": drawing.greedy(job["greedy"]),  # which also warms up
    }
    drawing.warm_up()
    result["images"] = drawing.measure(job["images"], seed=job["seed"])
    if job["breakdown"] and job["side"] != "min-dalle":
        result["breakdown"] = {
            str(images): drawing.breakdown(images, positions=job["breakdown"])
            for images in sorted({job["images"][0], job["images"][-1]})
        }
    return result


def _import(job: dict[str, Any]) -> Any:
    """Import one side only, and return what loads it."""
    from .models import SIZES

    folder, size = Path(job["folder"]), SIZES[job["size"]]
    if job["side"] == "min-dalle":
        from .peer import Peer, import_peer

        import_peer()
        return lambda: Peer(folder, size, positions=job["positions"])
    from .ours import Ours

    return lambda: Ours(folder, job["side"])


if __name__ == "__main__":
    found = main(json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found))
