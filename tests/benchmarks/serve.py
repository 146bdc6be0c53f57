"""Many clients of the service beside one, on this machine, with the bundled model.

    python tests/benchmarks/serve.py [--clients 32] [--requests 2] [--output serve.json]

starts `dallemini serve` as a process of its own and prints JSON: pictures a second and the seconds
of a request (p50, p95), asked one after the other and by all clients at once, in turns so that
other work on the machine meets both; how many of some pictures are, to the bit, what their seeds
draw alone in this process; bytes that the service holds after each round. Some clients hang up in
the middle, and in the end the service is told to stop while it draws, and answers first.
Nothing else should run; where it does, the ratio means more than the seconds.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import importlib
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATH = "/v1/images/generations"
PROMPTS = ("a red apple", "a blue bird", "a rocket", "a smiling cat")


@contextlib.contextmanager
def running_service() -> Iterator[tuple[int, int]]:
    """Run the service; yields its process and port, and ends it by SIGTERM."""
    command = [sys.executable, "-m", "dallemini.cli", "serve", "--port", "0", "--no-access-log"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise SystemExit("the service did not start")
        yield process.pid, int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask(port: int, number: int) -> tuple[float, bytes]:
    """Ask for picture `number`; return the seconds and the PNG file."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        connection.request("POST", PATH, _body(number), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != 200:
        raise SystemExit(f"the service answered {answer.status}: {content[:200]!r}")
    (picture,) = json.loads(content)["data"]
    return time.perf_counter() - start, base64.b64decode(picture["b64_json"])


def hang_up(port: int, number: int) -> None:
    """Ask for a picture and leave."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", PATH, _body(number), {"Content-Type": "application/json"})
    time.sleep(0.05)
    connection.close()


def _body(number: int) -> str:
    return json.dumps({"prompt": PROMPTS[number % len(PROMPTS)], "seed": number})


def memory(process: int) -> int:
    """Return the bytes of a process that are its own: of Linux, without mapped files."""
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"^RssAnon:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def measure(*, clients: int, requests: int, alone: int, rounds: int) -> dict[str, Any]:
    """Return the report."""
    times: dict[str, list[float]] = {"one": [], "many": []}
    spent = {"one": 0.0, "many": 0.0}
    pictures: dict[int, bytes] = {}
    held: list[int] = []
    with running_service() as (process, port), ThreadPoolExecutor(clients) as pool:
        list(pool.map(lambda number: ask(port, number), range(clients)))  # warm
        for _ in range(rounds):
            for kind, numbers in (("one", range(alone)), ("many", range(clients * requests))):
                start = time.perf_counter()
                each = pool.map if kind == "many" else map
                found = list(each(lambda number: ask(port, number), numbers))
                spent[kind] += time.perf_counter() - start
                times[kind] += [seconds for seconds, _ in found]
                pictures |= {n: png for n, (_, png) in zip(numbers, found, strict=True)}
            list(pool.map(lambda number: hang_up(port, number), range(clients // 4)))
            held.append(memory(process))
        ask(port, 0)
        waited = time.perf_counter()
        while (left := _number(port, "dallemini_drawing")) and time.perf_counter() - waited < 60:
            time.sleep(0.1)
        answered = stop_while_drawing(process, port, pool)
    rate = {kind: len(times[kind]) / spent[kind] for kind in times}
    return {
        "clients": clients,
        "n": {kind: len(found) for kind, found in times.items()},
        "pictures_a_second": rate,
        "many_over_one": rate["many"] / rate["one"],
        "seconds": {kind: _spread(found) for kind, found in times.items()},
        "same_as_alone": _compare(pictures),
        "still_drawn_after_hanging_up": left,
        "own_bytes_after_each_round": held,
        "answered_after_sigterm": answered,
    }


def stop_while_drawing(process: int, port: int, pool: ThreadPoolExecutor, count: int = 4) -> str:
    """Send SIGTERM in the middle of some pictures, and say how many of them came."""
    asked = [pool.submit(ask, port, number) for number in range(count)]
    waited = time.perf_counter()
    while _number(port, "dallemini_drawing") < count and time.perf_counter() - waited < 60:
        time.sleep(0.01)
    os.kill(process, signal.SIGTERM)
    return f"{sum(one.exception() is None for one in asked)} of {count}"


def _number(port: int, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def _spread(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {"p50": statistics.median(ordered), "p95": p95}


def _compare(pictures: dict[int, bytes]) -> str:
    """Draw some of the pictures alone, here, and say how many are the same to the bit."""
    from PIL import Image

    from dallemini import Pipeline

    pipe, same = Pipeline.from_pretrained(), 0
    checked = sorted(pictures)[:: max(1, len(pictures) // 8)]
    for number in checked:
        prompt = PROMPTS[number % len(PROMPTS)]
        # candidates play no part in a service
        mine = pipe(prompt, seed=number, candidates=1, progress=False).images[0]
        same += mine.tobytes() == Image.open(io.BytesIO(pictures[number])).tobytes()
    return f"{same} of {len(checked)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description="Measure the service.")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2, help="of each client, in a round")
    parser.add_argument("--alone", type=int, default=8, help="requests one by one, in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    report = measure(
        clients=options.clients,
        requests=options.requests,
        alone=options.alone,
        rounds=options.rounds,
    )
    describe = importlib.import_module("benchmarks.side_by_side.machine").describe
    import torch

    report = {"machine": describe(torch.get_num_threads(), ("dallemini", "torch")), **report}
    print(json.dumps(report, indent=2))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
