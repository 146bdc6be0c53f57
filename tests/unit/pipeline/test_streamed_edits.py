"""Edits that are looked at on the way: what is kept stays, and the last look is the call's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dallemini import Inpaint, Outpaint, Pipeline, Vary
from dallemini.errors import InputError, InputTypeError
from dallemini.testing import tiny_pipeline

PICTURE = Image.effect_noise((16, 16), 90).convert("RGB")
MASK = Image.new("L", (16, 16))
MASK.paste(255, (4, 4, 12, 8))


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def same_as_call(pipe: Pipeline, edit: Any, call: Any) -> list[Any]:
    settings: Any = {"seed": 5, "num_images_per_prompt": 2, "batch_size": 2, "progress": False}
    settings["lookahead"] = 2
    steps = list(pipe.stream("a bird", edit=edit, every=3, **settings))
    last, expected = steps[-1].output, call(**settings)
    assert last is not None
    assert torch.equal(last.image_tokens, expected.image_tokens)
    assert [one.tobytes() for one in last] == [one.tobytes() for one in expected]
    assert last.edit == expected.edit
    assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps) > 2
    return steps


def test_a_hole_is_seen_on_the_way(pipe: Pipeline) -> None:
    steps = same_as_call(
        pipe, Inpaint(PICTURE, MASK), lambda **rest: pipe.inpaint("a bird", PICTURE, MASK, **rest)
    )
    outside = np.asarray(MASK) == 0
    for image in (image for step in steps for image in step.images):
        assert (np.asarray(image)[outside] == np.asarray(PICTURE)[outside]).all()
    assert steps[0].images[0].tobytes() != steps[-1].images[0].tobytes()


def test_what_lies_around_is_seen_on_the_way(pipe: Pipeline) -> None:
    edit = Outpaint(PICTURE, right=8, top=4)
    steps = same_as_call(
        pipe, edit, lambda **rest: pipe.outpaint(PICTURE, "a bird", right=8, top=4, **rest)
    )
    for image in (image for step in steps for image in step.images):
        assert (np.asarray(image)[4:, :16] == np.asarray(PICTURE)).all()


def test_a_variation_is_seen_on_the_way_with_and_without_the_old_pixels(pipe: Pipeline) -> None:
    def vary(**rest: Any) -> Any:
        return pipe.vary(PICTURE, "a bird", strength=0.5, paste=False, **rest)

    same_as_call(pipe, Vary(PICTURE, strength=0.5, paste=False), vary)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"start_image": PICTURE}, "edit= says what is kept: leave out start_image="),
        ({"rows": 1}, "leave out start_image= and rows="),
        ({"paste": False}, "give paste= to the edit itself"),
        ({"edit": Outpaint(PICTURE)}, "There is nothing to draw"),
        ({"edit": Vary(PICTURE, strength=2)}, "strength must be above 0"),
    ],
)
def test_what_does_not_go_together_is_refused_at_the_call(
    pipe: Pipeline, given: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pipe.stream("a bird", **{"edit": Vary(PICTURE), **given})


def test_what_is_no_edit_is_refused(pipe: Pipeline) -> None:
    wrong: Any = "inpaint"
    with pytest.raises(InputTypeError, match="edit must be an Inpaint, a Vary or an Outpaint, not"):
        pipe.stream("a bird", edit=wrong)
