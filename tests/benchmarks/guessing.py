"""What guessing tokens saves: pictures drawn with and without it, in turn, in one run.

    python tests/benchmarks/guessing.py [--model dalle-mini/dalle-mini] [--rounds 8] [--threads 2]

draws pictures with a model, one by one, checks that guesses changed no token, and prints tokens a
pass and how much faster the tokens came: by the clock, and by processor time, which other programs
disturb less. Then it does the same at the size of mini, whose weights cannot be had everywhere:
they are random, and a guess is right as often as it was with the model before. JSON and a table in
Markdown. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from dallemini import Pipeline
from dallemini.generation import Drawing, Sampler, Slots, TopSampler
from dallemini.generation.guessing import _Ahead
from dallemini.models import Transformer, TransformerConfig
from dallemini.testing import tiny_tokenizer
from dallemini.text.tokenizer import Tokenizer

PROMPTS = (
    "a red apple",
    "cat face",
    "rocket",
    "a snowman",
    "a slice of pizza",
    "guitar",
    "angry face",
    "castle",
)
DEPTHS = 7  # guesses of a pass of 8, of which it is counted how many hold


@dataclass
class Timed:
    """Some tokens that were drawn: what they are and what they took."""

    tokens: list[int]
    steps: int
    passes: int
    clock: float
    processor: float
    held: list[tuple[float, float]]


@dataclass
class Case:
    """Pictures drawn with guesses and without: two lists of the same length."""

    alone: list[Timed] = field(default_factory=list)
    guessed: list[Timed] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return ratios with their spread, and what a token takes without guesses."""
        pairs = list(zip(self.alone, self.guessed, strict=True))
        ratios = {
            name: [getattr(one, name) / getattr(other, name) for one, other in pairs]
            for name in ("clock", "processor")
        }
        steps = sum(one.steps for one in self.guessed)
        return {
            "pictures": len(pairs),
            "same": sum(one.tokens == other.tokens for one, other in pairs),
            "tokens_per_pass": steps / sum(one.passes for one in self.guessed),
            "ms_alone": statistics.median(1e3 * one.clock / one.steps for one in self.alone),
            "faster": {
                name: {"median": statistics.median(each), "spread": [min(each), max(each)]}
                for name, each in ratios.items()
            },
        }


def draw(
    transformer: Transformer,
    drawings: Sequence[Drawing],
    sampler: Sampler,
    *,
    codes: int,
    guess: int | None,
    most: int | None = None,
) -> Timed:
    """Draw pictures together, or their first tokens, which begin behind those that are given."""
    slots = Slots(transformer, sampler, num_codes=codes, guess=guess)
    added = [slots.add(one) for one in drawings]
    slots.step()  # reads the prompt, and what is given
    slots.tally.steps = slots.tally.passes = 0
    clock, processor = time.perf_counter(), time.process_time()
    while slots.live and (most is None or slots.tally.steps < most):
        slots.step()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    found = slots.tokens if slots.live else torch.stack([_finished(slot) for slot in added])
    pace = slots._guesses._pace
    held = list(zip(pace._held[:DEPTHS], pace._made[:DEPTHS], strict=True))
    tally = slots.tally
    tokens = found.flatten().tolist()
    return Timed(tokens, tally.steps, tally.passes, clock, processor, held)


def _finished(slot: Any) -> torch.Tensor:
    tokens: torch.Tensor = slot.tokens
    return tokens


def measure_model(
    transformer: Transformer,
    tokenizer: Tokenizer,
    sampler: Sampler,
    *,
    scale: float,
    codes: int,
    together: int,
    rounds: int,
) -> Case:
    """Draw pictures of a model, with guesses and without in turn."""
    case = Case()
    for number in range(rounds):
        drawings = [
            Drawing(
                texts=(tokenizer(PROMPTS[number % len(PROMPTS)]),),
                weights=(scale,),
                base=tokenizer.unconditional(),
                seed=number * together + picture,
            )
            for picture in range(together)
        ]
        for guess in (1, None) if number % 2 else (None, 1):
            timed = draw(transformer, drawings, sampler, codes=codes, guess=guess)
            (case.guessed if guess is None else case.alone).append(timed)
    return case


def chances(case: Case) -> list[float]:
    """Return how often the first, the second, ... guess of a pass held where it was looked at."""
    sums = [
        [sum(timed.held[depth][side] for timed in case.guessed) for side in (0, 1)]
        for depth in range(DEPTHS)
    ]
    return [held / made for held, made in sums]


@contextmanager
def guessing_right(tokens: list[int], chances: Sequence[float]) -> Iterator[None]:
    """Let guesses be these tokens, as often as they are to be right."""
    chance, plain = random.Random(0), _Ahead.write_line

    def write(ahead: _Ahead, start: int, drawn: list[int], end: int, columns: int) -> list[int]:
        line = plain(ahead, start, drawn, ahead.reach + 1, columns)
        for position in range(ahead.reach, end - 1):
            likely = chances[min(position - ahead.reach, len(chances) - 1)]
            line.append(tokens[position] if chance.random() < likely else tokens[position] ^ 1)
        return line

    _Ahead.write_line = write  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        _Ahead.write_line = plain  # type: ignore[method-assign]


def measure_mini(
    transformer: Transformer,
    right: Sequence[float],
    *,
    scale: float,
    rounds: int,
    given: int,
    most: int,
) -> Case:
    """Draw tokens in the middle of pictures of random weights, guessed right as often as told."""
    tokenizer, case = tiny_tokenizer(), Case()
    length, codes = transformer.config.image_length, transformer.config.image_vocab_size
    fixed = torch.full((length,), -1, dtype=torch.int64)
    fixed[:given] = torch.arange(given)
    drawing = Drawing(
        texts=(tokenizer("a red apple"),),
        weights=(scale,),
        base=tokenizer.unconditional(),
        fixed=fixed,
        seed=1,
    )
    sampler = TopSampler(top_k=50)
    tokens = draw(
        transformer, [drawing], sampler, codes=codes, guess=1, most=most + 2 * DEPTHS + 2
    ).tokens
    for number in range(rounds):
        for guess in (1, None) if number % 2 else (None, 1):
            with guessing_right(tokens, right):
                timed = draw(transformer, [drawing], sampler, codes=codes, guess=guess, most=most)
            timed.tokens = timed.tokens[: given + most]
            (case.guessed if guess is None else case.alone).append(timed)
    return case


def measure(
    pipe: Pipeline, mini: TransformerConfig, *, rounds: int, given: int, most: int
) -> dict[str, Any]:
    """Measure a model and the size of another, in float32 and int8."""
    config, found = pipe.config, dict[str, Any]()
    sampler = TopSampler(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    codes, scale = pipe.vqgan.codebook_size, config.guidance_at(0)
    large = Transformer.from_config(mini).eval()
    for precision in ("float32", "int8"):
        for together in (1, 4):
            case = measure_model(
                pipe.transformer,
                pipe.tokenizer,
                sampler,
                scale=scale,
                codes=codes,
                together=together,
                rounds=rounds,
            )
            found[f"the model, {precision}, {together} at once"] = told(case.report())
            if together == 1:
                right = chances(case)
        case = measure_mini(large, right, scale=10.0, rounds=rounds, given=given, most=most)
        report = told({**case.report(), "right": right})
        found[f"mini's size, {precision}, 1 at once"] = report
        if precision == "float32":
            pipe.transformer.quantize()
            large.quantize()
    return found


def told(report: dict[str, Any]) -> dict[str, Any]:
    """Say on the way what was found."""
    print(json.dumps(report), file=sys.stderr, flush=True)
    return report


def table(found: dict[str, Any]) -> str:
    """Write a report as a table in Markdown."""
    lines = [
        "| | tokens a pass | ms a token, one by one | faster (clock) | faster (processor time) |",
        "|---|---|---|---|---|",
    ]
    for name, case in found.items():
        ratios = [
            f"{ratio['median']:.2f}x ({ratio['spread'][0]:.2f} to {ratio['spread'][1]:.2f})"
            for ratio in case["faster"].values()
        ]
        cells = [name, f"{case['tokens_per_pass']:.2f}", f"{case['ms_alone']:.1f}", *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None, help="of a hub or a folder; the bundled one")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--given", type=int, default=96, help="tokens before, at mini's size")
    parser.add_argument("--tokens", type=int, default=64, help="that are drawn at mini's size")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    pipe = Pipeline.from_pretrained(*([options.model] if options.model else []))
    mini = TransformerConfig(encoder_layers=1, text_vocab_size=1024)
    found = measure(pipe, mini, rounds=options.rounds, given=options.given, most=options.tokens)
    about = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    print(json.dumps({**about, "cases": found}, indent=1))
    print(table(found))


if __name__ == "__main__":
    main()
