"""All parts of a pipeline are moved, or none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dallemini import Pipeline
from dallemini.errors import UnsupportedOperationError
from dallemini.testing import tiny_clip_scorer, tiny_tokenizer, tiny_transformer, tiny_vqgan


class Stubborn:
    """A scorer that stays where it is."""

    def score(self, images: Any, prompts: Any) -> Any:
        raise NotImplementedError

    def to(self, **where: Any) -> None:
        raise UnsupportedOperationError("I stay in float32.")


def pipeline(scorer: Any) -> Pipeline:
    return Pipeline(
        tokenizer=tiny_tokenizer(),
        transformer=tiny_transformer(),
        vqgan=tiny_vqgan(),
        scorer=scorer,
    )


def weights(pipe: Pipeline) -> dict[str, torch.Tensor]:
    parts: dict[str, Any] = {"transformer": pipe.transformer, "vqgan": pipe.vqgan}
    return {
        f"{name}.{key}": value.clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


@pytest.mark.thorough
def test_nothing_is_moved_where_your_own_part_refuses() -> None:
    pipe = pipeline(Stubborn())
    before = weights(pipe)
    with pytest.raises(UnsupportedOperationError, match="I stay in float32"):
        pipe.to(dtype=torch.float16)
    after = weights(pipe)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.dtype for value in after.values()} == {torch.float32}


def test_what_was_moved_before_a_part_refused_is_put_back_to_the_bit() -> None:
    pipe = pipeline(tiny_clip_scorer())
    pipe.vqgan.register_module("last", tiny_transformer().quantize())  # type: ignore[attr-defined]
    before, drawn = weights(pipe), pipe("a cat", seed=0, progress=False).image_tokens
    for where in ({"dtype": torch.float16}, {"device": "meta"}):
        with pytest.raises(UnsupportedOperationError, match="int8 weights"):
            pipe.to(**where)
        after = weights(pipe)
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(pipe("a cat", seed=0, progress=False).image_tokens, drawn)
    assert pipe.scorer.clip.dtype == torch.float32  # type: ignore[attr-defined]


def test_a_quantised_pipeline_that_cannot_be_moved_stays_whole() -> None:
    pipe = pipeline(tiny_clip_scorer()).quantize()
    with pytest.raises(UnsupportedOperationError, match=r"cannot be moved to torch\.float16"):
        pipe.to(dtype=torch.float16)
    assert pipe.vqgan.dtype == torch.float32  # type: ignore[attr-defined]
