"""Candidates: more pictures are drawn than are kept, and the seed that is kept draws one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini import Pipeline
from dallemini.errors import ConfigError, InputError
from dallemini.generation import text_likelihood
from dallemini.scorer import Scorer
from dallemini.testing import tiny_pipeline

PROMPTS = ["a red apple", "a blue bird"]


class Brightness:
    """Prefers bright pictures."""

    def __init__(self) -> None:
        self.seen = 0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen += len(images)
        return images.mean((1, 2, 3))


def made_with(scorer: Scorer | None) -> Pipeline:
    parts = tiny_pipeline()
    return Pipeline(
        tokenizer=parts.tokenizer,
        transformer=parts.transformer,
        vqgan=parts.vqgan,
        scorer=scorer,
        config=parts.config,
    )


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return made_with(None)


def with_scorer() -> tuple[Pipeline, Brightness]:
    scorer = Brightness()
    return made_with(scorer), scorer


def test_the_scorer_chooses_the_best_of_each_group() -> None:
    pipe, scorer = with_scorer()
    every = pipe(PROMPTS, num_images_per_prompt=6, seed=3, progress=False)
    bright = [torch.tensor(list(image.tobytes())).float().mean() for image in every.images]
    kept = pipe(PROMPTS, num_images_per_prompt=2, candidates=3, seed=3, progress=False)
    assert scorer.seen == 12
    groups = [range(start, start + 3) for start in range(0, 12, 3)]
    best = [max(group, key=lambda index: float(bright[index])) for group in groups]
    assert kept.seeds == tuple(3 + index for index in best)
    assert torch.equal(kept.image_tokens, every.image_tokens[best])
    assert kept.scores is not None
    assert len(kept.scores) == len(kept.images) == 4


def test_the_seed_that_is_kept_draws_the_picture_alone(plain: Pipeline) -> None:
    kept = plain(PROMPTS, candidates=4, seed=3, progress=False)
    for index, seed in enumerate(kept.seeds):
        alone = plain(PROMPTS[index], seed=seed, progress=False)
        assert torch.equal(alone.image_tokens[0], kept.image_tokens[index])
        assert alone.images[0].tobytes() == kept.images[index].tobytes()
        assert '"candidates": 1' in kept.metadata(index)["config"]


def test_without_a_scorer_the_likelihood_of_the_text_chooses(plain: Pipeline) -> None:
    every = plain(PROMPTS, num_images_per_prompt=4, seed=3, progress=False)
    texts = plain.tokenizer([prompt for prompt in PROMPTS for _ in range(4)])
    blank = plain.tokenizer.unconditional()
    scores = text_likelihood(
        plain.transformer, texts, blank, every.image_tokens, num_codes=plain.vqgan.codebook_size
    )
    kept = plain(PROMPTS, candidates=4, seed=3, progress=False)
    best = [int(scores[:4].argmax()), 4 + int(scores[4:].argmax())]
    assert kept.seeds == tuple(3 + index for index in best)
    assert kept.scores == pytest.approx(tuple(scores[best].tolist()), abs=1e-5)


def test_likelihood_of_the_blank_text_itself_is_zero(plain: Pipeline) -> None:
    tokens = plain(PROMPTS, seed=0, progress=False).image_tokens
    blank = plain.tokenizer.unconditional()
    same = plain.tokenizer.unconditional(2)
    assert text_likelihood(plain.transformer, same, blank, tokens).abs().max() < 1e-5


def test_one_text_for_each_picture_is_needed(plain: Pipeline) -> None:
    tokens = plain(PROMPTS, seed=0, progress=False).image_tokens
    with pytest.raises(InputError, match="Each of the 2 pictures needs one text, not 3 in all"):
        text_likelihood(
            plain.transformer,
            plain.tokenizer(["a"] * 3),
            plain.tokenizer.unconditional(),
            tokens,
        )


def test_ranking_sorts_those_that_are_kept() -> None:
    pipe, _ = with_scorer()
    out = pipe("a red apple", num_images_per_prompt=3, candidates=2, rank=True, seed=1)
    assert out.scores is not None
    assert list(out.scores) == sorted(out.scores, reverse=True)


def test_a_list_of_seeds_has_one_for_each_candidate(plain: Pipeline) -> None:
    out = plain("a red apple", candidates=3, seed=[9, 4, 7], progress=False)
    assert out.seeds[0] in (9, 4, 7)
    with pytest.raises(InputError, match="3 pictures need 3 seeds, one each, not 2"):
        plain("a red apple", candidates=3, seed=[9, 4], progress=False)


@pytest.mark.thorough
def test_the_last_step_of_a_stream_has_what_a_call_returns() -> None:
    pipe, _ = with_scorer()
    for settings in ({"rank": True}, {"candidates": 3}, {"rank": "likelihood", "batch_size": 2}):
        asked: dict[str, Any] = {"num_images_per_prompt": 2, "seed": 2, **settings}
        called = pipe(PROMPTS, progress=False, **asked)
        steps = list(pipe.stream(PROMPTS, every=8, progress=False, **asked))
        assert [step.output for step in steps[:-1]] == [None] * (len(steps) - 1)
        output = steps[-1].output
        assert output is not None
        assert output.seeds == called.seeds
        assert output.scores == called.scores
        assert torch.equal(output.image_tokens, called.image_tokens)
        assert [i.tobytes() for i in output] == [i.tobytes() for i in called]
    assert len(steps[0]) == 2
    with pytest.raises(InputError, match=r"This pipeline has no scorer; .* rank='likelihood'"):
        made_with(None).stream("a red apple", rank=True)


def test_likelihood_ranks_without_a_scorer_and_beside_one(plain: Pipeline) -> None:
    with_one, scorer = with_scorer()
    for pipe in (plain, with_one):
        out = pipe(PROMPTS, num_images_per_prompt=4, rank="likelihood", seed=3, progress=False)
        assert out.scores is not None
        for start in (0, 4):
            group = out.scores[start : start + 4]
            assert list(group) == sorted(group, reverse=True)
        again = plain(PROMPTS[0], candidates=4, seed=3, progress=False)
        assert again.seeds[0] == out.seeds[0]
    assert scorer.seen == 0


@pytest.mark.parametrize("candidates", [0, -1, True, 1.5, "4", None])
def test_wrong_numbers_of_candidates_are_refused(plain: Pipeline, candidates: object) -> None:
    with pytest.raises(ConfigError, match="candidates"):
        plain("a red apple", candidates=candidates)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="times candidates must be at most 100000"):
        plain("a red apple", num_images_per_prompt=1000, candidates=1000)
