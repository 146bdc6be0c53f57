"""What a form may ask for, and the settings that it means."""

from __future__ import annotations

from typing import Any

import pytest

from dallemini.app.limits import AppLimits
from dallemini.app.wish import FRESH_SEEDS, MAX_SEED, Wish
from dallemini.errors import ConfigError, InputError

LIMITS = AppLimits(max_images=4, max_candidates=2, max_prompt_length=10)


def test_empty_seed_becomes_a_fresh_one_and_a_given_one_stays() -> None:
    fresh = [Wish(prompt="a cat", number=1).check(LIMITS).seed for _ in range(3)]
    assert all(seed is not None and 0 <= seed < FRESH_SEEDS for seed in fresh)
    assert len(set(fresh)) > 1
    assert Wish(prompt="a cat", number=1, seed=7).check(AppLimits()).seed == 7


def test_next_wish_begins_after_all_seeds_of_the_last_one() -> None:
    last = Wish(prompt="a cat", number=3, candidates=2, seed=10)
    assert Wish(prompt="a dog", number=1).after(last) == Wish(prompt="a dog", number=1, seed=16)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": " \n"}, "Write what the pictures should show"),
        ({"prompt": "x" * 11}, "The prompt has 11 characters; write at most 10"),
        ({"negative_prompt": "x" * 11}, "The negative prompt has 11 characters"),
        ({"number": 5}, "The number of pictures is from 1 to 4, not 5"),
        ({"candidates": 0}, "The number of candidates is from 1 to 2, not 0"),
        ({"seed": -1}, "The seed is from 0 to"),
        ({"seed": MAX_SEED}, "The seed is from 0 to"),
        ({"shape": "round"}, "The shape is one of square, wide, tall, not 'round'"),
    ],
)
def test_wish_beyond_the_limits_is_refused(fields: dict[str, Any], told: str) -> None:
    wish = Wish(**{"prompt": "a cat", "number": 1, **fields})
    with pytest.raises(InputError, match=told):
        wish.check(LIMITS)


def test_wrong_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompt"):
        Wish.from_dict({"prompt": ["a cat"]})
    with pytest.raises(ConfigError, match="max_images must be at least 1, not 0"):
        AppLimits(max_images=0)


def test_what_is_left_alone_is_left_to_the_model() -> None:
    usual = Wish(prompt="a cat", seed=1).overrides((160, 160))
    assert usual == {"num_images_per_prompt": 9, "seed": 1, "rank": False, "candidates": 1}
    wide = Wish(prompt="a cat", seed=1, shape="wide", upscale=2, guidance_scale=3.0)
    assert wide.overrides((160, 160)) == {
        **usual, "width": 320, "height": 160, "upscale": 2, "guidance_scale": 3.0
    }  # fmt: skip
    with pytest.raises(ConfigError, match="guidance_scale"):
        Wish(prompt="a cat", guidance_scale=-1.0).overrides((160, 160))
