"""The mark in tokens alone, at the size of DALL-E Mini: 16x16 tokens of 16,384 codes.

    python tests/benchmarks/watermark_tokens.py --count 200

No weights are needed, since the mark knows nothing but codes: a codebook of random vectors, random
logits, and the sampler's defaults. Logits are scaled so that a token has so many bits; that of the
released models is not known here. Reading pictures back is stood in for by errors: a share of the
tokens becomes any other code, which is the worst that can be read. Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dallemini import Watermark
from dallemini.evaluation.metrics import wilson_interval
from dallemini.generation import SamplerState, TopSampler, make_generators
from dallemini.generation.watermark import CodeGroups, group_codes, weigh_evidence

SIDE, CODES, WIDTH = 16, 16_384, 8  # the width of the vectors plays no part where they are random
BITS = (0.5, 1.0, 2.0, 4.0)
ERRORS = (0.0, 0.3, 0.5, 0.7)
ALPHA, POOLED = 1e-3, 4


def heat_of(bits: float, *, codes: int, sampler: TopSampler) -> float:
    """Return the scale of normal logits at which a token of the sampler has so many bits."""
    logits = torch.randn(64, codes, generator=torch.Generator().manual_seed(0))
    best = logits.topk(min(sampler.top_k or codes, codes), dim=-1).values
    low, high = 0.0, 200.0
    for _ in range(40):
        middle = (low + high) / 2
        chances = (best * middle).softmax(-1)
        found = float(-(chances * chances.clamp(min=1e-30).log2()).sum(-1).mean())
        low, high = (middle, high) if found > bits else (low, middle)
    return low


def draw(groups: CodeGroups, mark: Watermark, count: int, side: int, heat: float) -> Tensor:
    """Return i64[N,side,side] that the default sampler drew towards a key."""
    codes = len(groups.pairs)
    sampler = mark.lean(TopSampler(), groups, side=side)
    generators = make_generators(range(count))
    tokens = torch.zeros(count, 0, dtype=torch.int64)
    noise = torch.Generator().manual_seed(1)
    for _ in range(side * side):
        logits = heat * torch.randn(count, codes, generator=noise)
        chosen = sampler(logits, SamplerState(generators, tokens))
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
    return tokens.view(count, side, side)


def misread(tokens: Tensor, share: float, codes: int) -> Tensor:
    """Return tokens of which a share became any code."""
    generator = torch.Generator().manual_seed(2)
    wrong = torch.rand(tokens.shape, generator=generator) < share
    others = torch.randint(codes, tokens.shape, generator=generator)
    return torch.where(wrong, others, tokens)


def measure(count: int, *, side: int = SIDE, codes: int = CODES) -> Iterator[dict[str, Any]]:
    """Yield how many pictures are found, for each number of bits and each share of errors."""
    vectors = torch.randn(codes, WIDTH, generator=torch.Generator().manual_seed(3))
    groups, mark = group_codes(vectors), Watermark("a key")
    favoured = mark.favours(groups)
    for bits in BITS:
        heat = heat_of(bits, codes=codes, sampler=TopSampler())
        drawn = draw(groups, mark, count, side, heat)
        for share in ERRORS:
            read = misread(drawn, share, codes)
            found: dict[str, Any] = {"bits": bits, "errors": share}
            for pooled in (1, POOLED):
                values = [
                    # twice, as for a search that begins with the grid as it is
                    2 * weigh_evidence(list(part), groups, favoured)[0].p_value
                    for part in read.split(pooled)
                    if len(part) == pooled
                ]
                hits = wilson_interval(sum(value < ALPHA for value in values), count=len(values))
                found[f"found by {pooled}"] = [
                    round(number, 3) for number in (hits.value, hits.low, hits.high)
                ]
                found[f"median p of {pooled}"] = float(np.median(values))
            yield found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    rows = []
    for row in measure(given.count):
        print(json.dumps(row), flush=True)
        rows.append(row)
    print("| bits of a token | " + " | ".join(f"{share:.0%} misread" for share in ERRORS) + " |")
    for bits in BITS:
        cells = [f"{row['found by 1'][0]:.0%}" for row in rows if row["bits"] == bits]
        print(f"| {bits:g} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
