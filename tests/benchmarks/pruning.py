"""What pruning of candidates keeps and what it saves: both tables of docs/guidance.md.

    python tests/benchmarks/pruning.py [--model MODEL] [--sentences 60] [--timed 12] [--record FILE]

Candidates of unseen sentences (those of the split "test" in `examples/emoji`, chosen by chance) are
drawn to the end and scored by the scorer and by the likelihood of the text. Then each half-way
judge looks at their upper halves and keeps the better half of the candidates. The first table says
how often the best one is among those, and how much of its lead over the mean of all is left. For
the second, whole calls are made with and without pruning, in seconds of the processor. It prints
JSON, and both tables in Markdown. Sentences that the record has are not drawn again, so that it may
be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dallemini import GenerationOutput, Pipeline, __version__
from dallemini.evaluation import Interval, mean_interval, wilson_interval
from dallemini.generation import Drawing, Slots, TopSampler, text_likelihood
from dallemini.generation.completion import complete_tokens
from dallemini.generation.loop import half_length
from dallemini.pipeline.steps import UNDRAWN_GRAY

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "emoji"))

from draw_grid import sentences

CANDIDATES = 8
FINAL = ("scorer", "likelihood")
CHANCE = "chance"
Scores = dict[str, list[float]]


class Judges:
    """Everything that scores candidates of one prompt, at their end or half-way."""

    def __init__(self, pipe: Pipeline) -> None:
        self.pipe = pipe
        length, columns = pipe.transformer.config.image_length, pipe.transformer.config.grid[1]
        self.half = half_length(length, columns)

    def final(self, prompt: str, tokens: Tensor) -> Scores:
        """Score finished candidates i64[n,L]."""
        return {
            "scorer": self._seen(prompt, self._decode(tokens)),
            "likelihood": self._likelihood(prompt, tokens),
        }

    def half_way(self, prompt: str, tokens: Tensor) -> Scores:
        """Score candidates i64[n,L] by their upper halves alone."""
        top = tokens[:, : self.half]
        return {
            "likelihood of the first half": self._likelihood(prompt, top),
            "scorer, the lower half gray": self._seen(prompt, self._gray_below(top)),
            "scorer, completed in one pass": self._seen(prompt, self._guessed(prompt, top)),
            "scorer, completed token by token": self._seen(prompt, self._finished(prompt, top)),
        }

    def _decode(self, tokens: Tensor) -> Tensor:
        pixels: Tensor = self.pipe.vqgan.decode(tokens).float()
        return (pixels * 255).floor() / 255

    def _seen(self, prompt: str, pixels: Tensor) -> list[float]:
        assert self.pipe.scorer is not None
        found: list[float] = self.pipe.scorer.score(pixels, [prompt] * len(pixels)).tolist()
        return found

    def _likelihood(self, prompt: str, tokens: Tensor) -> list[float]:
        pipe, codes = self.pipe, self.pipe.vqgan.codebook_size
        texts, blank = pipe.tokenizer([prompt] * len(tokens)), pipe.tokenizer.unconditional()
        scores = text_likelihood(pipe.transformer, texts, blank, tokens, num_codes=codes)
        found: list[float] = scores.tolist()
        return found

    def _gray_below(self, top: Tensor) -> Tensor:
        left = self.pipe.transformer.config.image_length - self.half
        pixels = self._decode(torch.cat([top, top[:, -1:].expand(-1, left)], dim=1))
        rows = pixels.shape[2] * self.half // (self.half + left)
        pixels[:, :, rows:] = UNDRAWN_GRAY
        return pixels

    def _guessed(self, prompt: str, top: Tensor) -> Tensor:
        text, codes = self.pipe.tokenizer([prompt]), self.pipe.vqgan.codebook_size
        whole = complete_tokens(self.pipe.transformer, [text], [1.0], top, num_codes=codes)
        return self._decode(whole)

    @torch.no_grad()
    def _finished(self, prompt: str, top: Tensor) -> Tensor:
        pipe, text = self.pipe, self.pipe.tokenizer([prompt])
        slots = Slots(pipe.transformer, TopSampler(top_k=1), num_codes=pipe.vqgan.codebook_size)
        left = pipe.transformer.config.image_length - self.half
        fixed = torch.cat([top, top.new_full((len(top), left), -1)], dim=1)
        added = [slots.add(Drawing(texts=(text,), seed=0, fixed=one)) for one in fixed]
        finished: list[Tensor] = []
        while len(finished) < len(added):
            slots.step()
            finished = [slot.tokens for slot in added if slot.tokens is not None]
        return self._decode(torch.stack(finished))


def kept(judged: Sequence[float], final: Sequence[float]) -> tuple[bool, float]:
    """Return whether the best one is in the better half, and the share of its lead that is."""
    size = len(final)
    going_on = sorted(range(size), key=lambda place: -judged[place])[: (size + 1) // 2]
    best, mean = max(final), sum(final) / size
    found = max(final[place] for place in going_on)
    return found == best, (found - mean) / (best - mean) if best > mean else 1.0


def by_chance(final: Sequence[float]) -> tuple[float, float]:
    """Return what `kept` gives on average over all halves that could be chosen."""
    size, half = len(final), (len(final) + 1) // 2
    falling, mean = sorted(final, reverse=True), sum(final) / len(final)
    if falling[0] == mean:
        return 1.0, 1.0
    ways = [math.comb(size - 1 - place, half - 1) for place in range(size)]
    expected = sum(way * score for way, score in zip(ways, falling, strict=True)) / sum(ways)
    return half / size, (expected - mean) / (falling[0] - mean)


def compare(
    pipe: Pipeline,
    prompts: Sequence[str],
    *,
    candidates: int = CANDIDATES,
    record: Path | None = None,
) -> list[dict[str, Any]]:
    """Judge candidates of each prompt half-way, against each final judge.

    Args:
        pipe: draws, and has a scorer.
        prompts: each with a seed of its own.
        candidates: of each prompt.
        record: a file of JSON lines; prompts that it has are skipped, others are added.

    Returns:
        For each prompt, by final judge and half-way judge: what `kept` gives.
    """
    known = record.read_text(encoding="utf-8") if record and record.exists() else ""
    rows: list[dict[str, Any]] = [json.loads(line) for line in known.splitlines()]
    judges = Judges(pipe)
    for number in range(len(rows), len(prompts)):
        drawn = pipe(
            prompts[number],
            num_images_per_prompt=candidates,
            candidates=1,
            seed=1000 * number,
            progress=False,
        )
        half_way = judges.half_way(prompts[number], drawn.image_tokens)
        row: dict[str, Any] = {"prompt": prompts[number]}
        for last, scores in judges.final(prompts[number], drawn.image_tokens).items():
            row[last] = {CHANCE: by_chance(scores)}
            row[last] |= {name: kept(judged, scores) for name, judged in half_way.items()}
        rows.append(row)
        if record is not None:
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return rows


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return by final judge and half-way judge how often the best one survives, and its lead."""
    report: dict[str, dict[str, dict[str, Interval]]] = {}
    for last in FINAL:
        report[last] = {}
        for name in rows[0][last]:
            survived, leads = zip(*(row[last][name] for row in rows), strict=True)
            report[last][name] = {
                "survives": wilson_interval(round(sum(survived)), count=len(rows)),
                "lead": mean_interval(torch.tensor(leads, dtype=torch.float64)),
            }
    return report


def timed(
    pipe: Pipeline, prompts: Sequence[str], *, candidates: int = CANDIDATES
) -> dict[str, dict[str, float]]:
    """Return the processor's seconds of calls that rank, with pruning and without."""
    report: dict[str, dict[str, float]] = {}
    for rank in FINAL:
        seconds = {False: 0.0, True: 0.0}
        same = 0
        for number, prompt in enumerate(prompts):
            chosen = [
                _call(pipe, prompt, rank, candidates, 1000 * number, prune=prune, seconds=seconds)
                for prune in (False, True)
            ]
            same += chosen[0].seeds == chosen[1].seeds
        report[rank] = {
            "whole": seconds[False] / len(prompts),
            "pruned": seconds[True] / len(prompts),
            "same": float(same),
            "calls": float(len(prompts)),
        }
    return report


def _call(
    pipe: Pipeline,
    prompt: str,
    rank: str,
    candidates: int,
    seed: int,
    *,
    prune: bool,
    seconds: dict[bool, float],
) -> GenerationOutput:
    """Draw a prompt, and add the processor's seconds of that to others."""
    start = time.process_time()
    settings: Any = {"rank": rank, "candidates": candidates, "seed": seed, "prune": prune}
    drawn = pipe(prompt, progress=False, **settings)
    seconds[prune] += time.process_time() - start
    return drawn


def show(one: Interval, *, plainly: bool) -> str:
    """Write a share, with its interval unless it is known exactly."""
    return f"{one.value:.0%}" + ("" if plainly else f" ({one.low:.0%} to {one.high:.0%})")


def tables(report: dict[str, Any], seconds: dict[str, dict[str, float]]) -> str:
    """Write both tables in Markdown."""
    lines = [
        "| judged half-way by | the scorer's best survives | lead kept "
        "| the likelihood's best survives | lead kept |",
        "|---|---|---|---|---|",
    ]
    for name in report[FINAL[0]]:
        cells = [
            show(report[last][name][what], plainly=name == CHANCE)
            for last in FINAL
            for what in ("survives", "lead")
        ]
        lines.append(f"| {' | '.join([name, *cells])} |")
    lines += ["", "| ranked by | all are finished | pruned | the same one is chosen |"]
    lines += ["|---|---|---|---|"]
    for rank, row in seconds.items():
        same = f"{row['same']:.0f} of {row['calls']:.0f}"
        lines.append(f"| {rank} | {row['whole']:.1f} s | {row['pruned']:.1f} s | {same} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="dallemini/emoji")
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--timed", type=int, default=12)
    parser.add_argument("--record", type=Path)
    given = parser.parse_args()
    pipe = Pipeline.from_pretrained(given.model)
    prompts = sentences(given.sentences)
    report = summarise(compare(pipe, prompts, record=given.record))  # which loads everything
    seconds = timed(pipe, prompts[: given.timed])
    about: dict[str, object] = {
        "date": f"{date.today()}",
        "model": pipe.name,
        "dallemini": __version__,
    }
    about |= {"processor": platform.processor(), "torch": torch.__version__}
    about |= {"sentences": len(prompts), "candidates": CANDIDATES}
    plain = json.dumps({**about, "kept": report, "seconds": seconds}, indent=1, default=vars)
    print(plain)
    print(tables(report, seconds))


if __name__ == "__main__":
    main()
