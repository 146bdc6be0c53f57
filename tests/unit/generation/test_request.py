"""One call, checked: batches, owners, seeds, ranking."""

from __future__ import annotations

import pytest
import torch

from dallemini.errors import InputError
from dallemini.generation import GenerationConfig, TopSampler
from dallemini.generation.request import Request, choose_seeds, make_request
from dallemini.testing import tiny_tokenizer, tiny_transformer, tiny_vqgan


def request(count: int, *, batch_size: int = 6, candidates: int = 1, rank: bool = False) -> Request:
    """A request for so many images of two prompts."""
    config = GenerationConfig(
        num_images_per_prompt=count // 2 // candidates, seed=5, candidates=candidates, rank=rank
    )
    return Request(
        prompts=("first", "second"),
        drawings=(),
        config=config,
        seeds=choose_seeds(config, count),
        sampler=TopSampler(),
        batch_size=batch_size,
    )


@pytest.mark.parametrize(("batch_size", "sizes"), [(6, [6]), (4, [4, 2]), (1, [1] * 6), (99, [6])])
def test_batches_cover_every_image_once(batch_size: int, sizes: list[int]) -> None:
    batches = request(6, batch_size=batch_size).batches
    assert [len(batch) for batch in batches] == sizes
    assert [image for batch in batches for image in batch] == list(range(6))


def test_a_call_is_tokenized_and_gets_seeds_and_batches() -> None:
    made = make_request(
        ["a cat", "a dog"],
        tokenizer=tiny_tokenizer(),
        transformer=tiny_transformer(),
        vqgan=tiny_vqgan(),
        config=GenerationConfig(num_images_per_prompt=2, seed=3, top_k=7, batch_size=3),
        sampler=None,
    )
    assert (made.prompts, made.seeds) == (("a cat", "a dog"), (3, 4, 5, 6))
    texts = [drawing.texts[0] for drawing in made.drawings]
    assert [drawing.seed for drawing in made.drawings] == [3, 4, 5, 6]
    assert texts[0] is texts[1]
    assert texts[2] is texts[3]
    assert torch.equal(texts[2].input_ids, tiny_tokenizer()("a dog").input_ids)
    assert made.sampler == TopSampler(top_k=7)
    assert [len(batch) for batch in made.batches] == [3, 1]


def test_images_belong_to_prompts_in_order() -> None:
    assert [request(6).prompt_of(image) for image in range(6)] == [0, 0, 0, 1, 1, 1]


def test_ranking_sorts_within_a_prompt_and_keeps_ties_in_order() -> None:
    ranked = request(6, rank=True)
    assert ranked.choose([1.0, 3.0, 2.0, 5.0, 5.0, 9.0]) == [1, 2, 0, 5, 3, 4]


def test_the_best_of_each_group_of_candidates_is_kept() -> None:
    scores = [1.0, 3.0, 2.0, 2.0, 5.0, 4.0, 0.0, 9.0]
    chosen = request(8, candidates=2)
    assert [chosen.prompt_of(image) for image in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert chosen.choose(scores) == [1, 2, 4, 7]
    assert request(8, candidates=2, rank=True).choose(scores) == [1, 2, 7, 4]


def test_a_single_seed_counts_up_and_a_list_is_taken_as_it_is() -> None:
    assert choose_seeds(GenerationConfig(seed=3), 3) == (3, 4, 5)
    assert choose_seeds(GenerationConfig(seed=(9, 9, 1)), 3) == (9, 9, 1)


def test_seeds_are_chosen_freshly_without_one() -> None:
    state = torch.get_rng_state()
    first, second = (choose_seeds(GenerationConfig(), 2) for _ in range(2))
    assert first != second
    assert first[1] == first[0] + 1
    assert torch.equal(torch.get_rng_state(), state)


def test_the_last_seeds_still_count_up() -> None:
    assert choose_seeds(GenerationConfig(seed=2**63 - 3), 2) == (2**63 - 3, 2**63 - 2)
    assert choose_seeds(GenerationConfig(seed=2**63 - 1), 1) == (2**63 - 1,)
    with pytest.raises(InputError, match="leaves no room to count up 3 pictures; take a lower"):
        choose_seeds(GenerationConfig(seed=2**63 - 2), 3)


def test_another_number_of_seeds_is_refused() -> None:
    with pytest.raises(InputError, match="3 pictures need 3 seeds, one each, not 2; or give a"):
        choose_seeds(GenerationConfig(seed=(1, 2)), 3)
