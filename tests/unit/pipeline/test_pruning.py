"""Pruning: the weaker half of the candidates leaves half-way, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini import Blend, GenerationOutput, Pipeline
from dallemini.errors import DalleMiniWarning
from dallemini.generation.completion import complete_tokens
from dallemini.generation.loop import half_length
from dallemini.testing import tiny_pipeline

PROMPTS: list[str | Blend] = ["a red apple", Blend({"a blue bird": 1, "a rocket": 1})]


class Darkness:
    """Prefers dark pictures, and counts what it sees."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen.append(len(images))
        return -images.mean((1, 2, 3))


@pytest.fixture
def scorer() -> Darkness:
    return Darkness()


@pytest.fixture(scope="module")
def parts() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture
def pipe(parts: Pipeline, scorer: Darkness) -> Pipeline:
    return Pipeline(
        tokenizer=parts.tokenizer,
        transformer=parts.transformer,
        vqgan=parts.vqgan,
        scorer=scorer,
    )


def draw(pipe: Pipeline, **settings: Any) -> GenerationOutput:
    return pipe(PROMPTS, **{"candidates": 6, "seed": 1, "progress": False, **settings})


@pytest.mark.slow_except("False", "likelihood")
@pytest.mark.parametrize("rank", [False, True, "likelihood"])
def test_the_weaker_half_leaves_half_way(pipe: Pipeline, scorer: Darkness, rank: Any) -> None:
    whole = pipe(PROMPTS, num_images_per_prompt=6, seed=1, progress=False)
    pruned = draw(pipe, prune=True, rank=rank)
    survivors = []
    for number, prompt in enumerate(PROMPTS):
        half = whole.image_tokens[6 * number : 6 * number + 6, : half_length(16)]
        scores = halves(pipe, prompt, half, by_likelihood=rank == "likelihood")
        best = sorted(range(6), key=lambda place: -scores[place])[:3]
        survivors.append({whole.seeds[6 * number + place] for place in best})
    assert pruned.seeds[0] in survivors[0]
    assert pruned.seeds[1] in survivors[1]
    for index, seed in enumerate(pruned.seeds):
        assert torch.equal(pruned.image_tokens[index], whole.image_tokens[seed - 1])
    steps = list(pipe.stream(PROMPTS, candidates=6, seed=1, every=8, prune=True, rank=rank))
    assert [len(step) for step in steps] == [6, 6]
    assert set(steps[-1].seeds) == survivors[0] | survivors[1]


def halves(pipe: Pipeline, prompt: Any, half: Tensor, *, by_likelihood: bool) -> list[float]:
    """Score beginnings by hand."""
    texts = [(prompt, 1.0)] if isinstance(prompt, str) else list(prompt.weights.items())
    read = [pipe.tokenizer(text) for text, _ in texts]
    shares = [share for _, share in texts]
    if not by_likelihood:
        whole = complete_tokens(pipe.transformer, read, shares, half, num_codes=64)
        pixels = torch.cat([pipe.vqgan.decode(row) for row in whole.split(1)])
        return (-((pixels * 255).floor() / 255).mean((1, 2, 3))).tolist()
    blank, total = pipe.tokenizer.unconditional(), torch.zeros(len(half))
    with torch.no_grad():
        for text, share in zip(read, shares, strict=True):
            for tokens, sign in ((text, 1), (blank, -1)):
                for row, one in enumerate(half):
                    logits = pipe.transformer(tokens.trim(), one[None])[0, :, :64].log_softmax(-1)
                    mean = logits.gather(1, one[:, None]).mean()
                    total[row] += sign * share * float(mean)
    found: list[float] = total.tolist()
    return found


@pytest.mark.parametrize("sizes", [(5, None), pytest.param((1, 7, 13), marks=pytest.mark.slow)])
def test_no_batch_changes_what_pruning_chooses(pipe: Pipeline, sizes: tuple[int | None]) -> None:
    whole = draw(pipe, prune=True, num_images_per_prompt=2)
    for size in sizes:
        other = draw(pipe, prune=True, num_images_per_prompt=2, batch_size=size)
        assert other.seeds == whole.seeds
        assert other.scores == whole.scores
        assert torch.equal(other.image_tokens, whole.image_tokens)


def test_off_is_as_if_there_were_no_pruning(pipe: Pipeline, scorer: Darkness) -> None:
    every = pipe(PROMPTS, num_images_per_prompt=6, rank=True, seed=1, progress=False)
    off = draw(pipe)
    assert off.seeds == (every.seeds[0], every.seeds[6])
    scorer.seen.clear()
    assert draw(pipe, prune=True, candidates=3).seeds == draw(pipe, candidates=3).seeds
    assert sum(scorer.seen) == 2 * (3 + 2 * 3)  # of three candidates none is dropped


def test_the_work_is_told_in_full(pipe: Pipeline) -> None:
    told: list[Any] = []
    draw(pipe, prune=True, callback=told.append)
    tokens = [step for step in told if step.stage == "tokens"]
    assert tokens[-1].done == tokens[-1].total == 12 * 16
    assert (told[-1].stage, told[-1].done, told[-1].total) == ("pictures", 6, 6)


def test_unfinished_pictures_are_completed_by_likely_tokens(parts: Pipeline) -> None:
    text = parts.tokenizer("a red apple")
    half = torch.arange(8)[None]
    whole = complete_tokens(parts.transformer, [text], [1.0], half, num_codes=64)
    assert torch.equal(whole[:, :8], half)
    repeated = torch.cat([half, half[:, 4:], half[:, 4:]], dim=1)
    with torch.no_grad():
        logits = parts.transformer(text.trim(), repeated)[..., :64]
    assert torch.equal(whole[:, 8:], logits[:, 8:].argmax(-1))
    twice = complete_tokens(parts.transformer, [text, text], [0.5, 0.5], half, num_codes=64)
    assert torch.equal(twice, whole)


def test_pruning_that_plays_no_part_is_told(pipe: Pipeline, scorer: Darkness) -> None:
    kept: Any = {"candidates": 4, "seed": 1, "progress": False, "guidance_scale": 1.0}
    for settings in ({"width": 20}, {"tile": True}, {"start_image": torch.zeros(3, 16, 16)}):
        with pytest.warns(DalleMiniWarning, match="prune=True plays no part in edits, tiles"):
            pruned = pipe("a cat", prune=True, **settings, **kept)
        whole = pipe("a cat", **settings, **kept)
        assert pruned.seeds == whole.seeds
        assert torch.equal(pruned.image_tokens, whole.image_tokens)
    assert set(scorer.seen) == {4}  # all candidates were finished
