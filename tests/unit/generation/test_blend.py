"""Mixtures of prompts: shares, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dallemini import Blend
from dallemini.errors import InputError, InputTypeError
from dallemini.generation.blend import check_prompts


def test_weights_are_divided_by_their_sum() -> None:
    blend = Blend({"a cat": 3, "a dog": np.float32(1)})
    assert blend.weights == {"a cat": 0.75, "a dog": 0.25}
    assert blend == Blend({"a cat": 0.75, "a dog": 0.25})
    assert Blend({"a cat": 1e308, "a dog": 1e308}).shares == (0.5, 0.5)


def test_a_blend_is_a_frozen_readable_value() -> None:
    blend = Blend({"a cat": 2, "a dog": 1})
    assert str(blend) == "0.667 a cat + 0.333 a dog"
    assert eval(repr(blend)) == blend == pickle.loads(pickle.dumps(blend))
    assert len({blend, Blend({"a cat": 2, "a dog": 1})}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        blend.texts = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, InputError, "A blend needs at least one prompt with a weight"),
        ({"a cat": 0}, InputError, "weight of 'a cat' must be finite and above 0, not 0"),
        ({"a": 1, "b": -1}, InputError, "above 0, not -1.0; what not to draw is .*negative_prompt"),
        ({"a": math.nan}, InputError, "must be finite and above 0, not nan"),
        ({"a": 10**400}, InputError, "must be finite and above 0, not inf"),
        ({"a": "1"}, InputTypeError, "The weight of 'a' must be a number, not '1'"),
        ({"a": True}, InputTypeError, "The weight of 'a' must be a number, not True"),
        ({3: 1.0}, InputTypeError, "prompts of a blend are strings, not 3"),
        (["a cat"], InputTypeError, "made from prompts with weights, .*, not from a list"),
    ],
)
def test_what_is_no_mixture_is_refused(weights: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Blend(weights)


def test_prompts_are_one_or_a_row_of_them() -> None:
    blend = Blend({"a cat": 1})
    assert check_prompts("a") == ("a",)
    assert check_prompts(blend) == (blend,)
    assert check_prompts(["a", blend]) == ("a", blend)
    row: Any = np.array(["a", "b"])
    assert check_prompts(row) == ("a", "b")
    with pytest.raises(InputTypeError, match=r"must not be a dict; write Blend\(\{...\}\)"):
        check_prompts({"a cat": 1.0})  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"prompts\[1\] .* not dict .*; write Blend\("):
        check_prompts(["a", {"a cat": 1.0}])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match="not Image; look at the order of the arguments"):
        check_prompts(Image.new("L", (1, 1)))  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"not generator; list\(\.\.\.\) makes a list"):
        check_prompts(text for text in "ab")  # type: ignore[arg-type]
