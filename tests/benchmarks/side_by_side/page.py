"""The page docs/benchmarks.md, made from reports only: no figure stands in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .models import PROMPT
from .summary import Report
from .table import breakdown_table, floor_table, medians_table, show, wanted_table

PEER_VERSION = "0.4.11"
PEER_INSTALL = f"pip install --no-deps min-dalle=={PEER_VERSION} && pip install requests emoji"
COMMAND = "python tests/benchmarks/speed.py"

HEAD = """# Benchmarks

dallemini compared with min-dalle {peer}, another port of the same models, on one processor. The
benchmark itself writes this page from its JSON.

{table}
Ratios (x) are min-dalle's median over dallemini's; memory and shares are dallemini's own. In
brackets, what was aimed at.

## How it is measured

- The same random weights, in min-dalle's files (float16), are read by both. dallemini converts them
  to its native layout once, before; what is timed is how a user loads them from then on. Every
  process first draws some tokens with top-k 1, which warms it up; those of dallemini in float32
  must be those of min-dalle, or the benchmark stops.
- Each side runs in a fresh process of its own, in turns, the order reversed in every other round;
  rounds: {rounds}; threads of each: {threads}. Figures are medians; behind ± stands half the
  distance of the extremes, where there was more than one round. Files lie in the system's file
  cache as far as it holds them.
- One prompt of twelve tokens ("{prompt}"),
  guidance 16, temperature 1, top-k 256: min-dalle's own settings. min-dalle draws grids of 1x1,
  2x2 and 3x3 in float32, `is_reusable=True`; the one thing changed is that it asks no server for a
  file that it does not read.
- "A token" is one position of all images, sampling and loop included. Tokens of random weights are
  hardly ever guessed right, so nearly every pass brings one; trained models need fewer passes
  ([several tokens a pass](throughput.md#several-tokens-a-pass)).
- "int8" is what `dtype="int8"` loads: the image tokenizer is in bfloat16 where the processor has
  that.
- Peak memory is the most that lay in RAM, mapped weights included (VmHWM); "private" is without
  them, after the call.
"""

SECTION = """
## {size}

{parameters:,} parameters; {weights:,} weights are read for every token. Measuring took
{minutes:.0f} minutes and {disk} of disk.

{medians}{composed}
### How far from the floor

A step reads every decoder weight once (4 bytes, or 1 in int8), which this machine does at
{bandwidth:.1f} GB/s; with few images that is the least time it can take. With many, multiplying
takes over: {flops:.0f} GF/s in float32. Both were measured in the same run.

{floor}"""

COMPOSED = """
min-dalle's steps were computed at the positions {positions} only (nothing in them depends on the
position), and its whole call is composed of its parts.
"""

BREAKDOWN = """
### What takes the time of a step

By torch's profiler, which itself costs about a microsecond an operation. "python" is what lies
between the operations; "other operations" are norms, sums and copies.

{table}
Projections and the head are bound by reading weights: smaller weights (int8) are what helps.
Attention grows with the position and with the images, for it reads keys and values. The rest is
paid once a step whatever the weights, so its share is largest for small models and one image.
"""

TAIL = """
## Machine

{machine}

## Repeat it

<!-- needs the network -->
```bash
{install}
{command} --model mini mega --output benchmark.json --page docs/benchmarks.md
```

Seconds differ from machine to machine; ratios much less. Nothing else should run meanwhile: two
threads that share a core with another program wait for each other. `--render` makes this page again
from the JSON; `--rounds`, `--threads` and `--images` change how much is measured.
"""


def render(reports: Mapping[str, Report]) -> str:
    """Return the page in Markdown."""
    first = next(iter(reports.values()))
    machine = first["machine"]
    peer = machine["versions"]["min-dalle"]
    page = HEAD.format(
        peer=peer,
        table=wanted_table(reports),
        rounds=" and ".join(dict.fromkeys(str(x["rounds"]) for x in reports.values())),
        threads=machine["threads"],
        prompt=PROMPT,
    )
    page += "".join(map(_section, reports.values()))
    return page + TAIL.format(machine=_machine(machine), install=PEER_INSTALL, command=COMMAND)


def _section(report: Report) -> str:
    positions = report["positions"]
    composed = COMPOSED.format(positions=_ranges(positions)) if positions else ""
    section = SECTION.format(
        size=report["size"],
        parameters=report["parameters"],
        weights=report["weights_per_token"],
        minutes=report["seconds"] / 60,
        disk=show(report["disk_bytes"], "GB"),
        medians=medians_table(report),
        composed=composed,
        bandwidth=report["rates"]["bytes_per_second"]["median"] / 1e9,
        flops=report["rates"]["flops_per_second"]["median"] / 1e9,
        floor=floor_table(report),
    )
    table = breakdown_table(report)
    return section + (BREAKDOWN.format(table=table) if table else "")


def _ranges(positions: list[int]) -> str:
    """Return rising positions as "0 to 3, 64 to 67"."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    abilities = ", ".join(machine["abilities"])
    return "\n".join(
        [
            f"- {machine['processor']}, {machine['cores']} cores ({abilities})",
            f"- {show(machine['memory_bytes'], 'GB')} of memory, {machine['system']}",
            f"- {machine['threads']} threads; Python {machine['python']}, {versions}",
        ]
    )
