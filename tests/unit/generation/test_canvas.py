"""Windows over a canvas: what they cover, in which order, and that a seed draws one picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.errors import InputError
from dallemini.generation import Canvas, Drawing, Slots, TopSampler
from dallemini.generation.canvas import draw_canvases
from dallemini.testing import tiny_tokenizer, tiny_transformer

TEXT, BLANK = tiny_tokenizer()("a red apple"), tiny_tokenizer().unconditional()
TRANSFORMER = tiny_transformer()


def every_token(height: int, width: int) -> Tensor:
    return torch.ones(height, width, dtype=torch.bool)


def corners(canvas: Canvas, free: Tensor) -> list[tuple[int, int]]:
    places = [int(window.index[0]) for window in canvas.plan(free)]
    return [divmod(place, canvas.width) for place in places]


def drawing(seed: int, fixed: Tensor | None = None) -> Drawing:
    fixed = None if fixed is None else fixed.flatten()
    return Drawing(texts=(TEXT,), weights=(3.0,), base=BLANK, seed=seed, fixed=fixed)


def draw(canvas: Canvas, *drawings: Drawing, **settings: Any) -> Tensor:
    given: dict[str, Any] = {
        "sampler": TopSampler(),
        "batch_size": 8,
        "lookahead": 3,
        "num_codes": 64,
        **settings,
    }
    steps = list(draw_canvases(drawings, TRANSFORMER, canvas, **given))
    return torch.cat([tokens for _, tokens in steps if bool((tokens >= 0).all())])


def test_windows_lie_half_over_each_other_and_cover_every_token_once() -> None:
    canvas = Canvas(height=7, width=10, side=4)
    drawn = torch.zeros(70, dtype=torch.int64)
    for number, window in enumerate(canvas.plan(every_token(7, 10))):
        drawn[window.index[window.free]] += 1
        assert number == 0 or int((~window.free).sum()) >= 8
    assert drawn.tolist() == [1] * 70
    assert corners(canvas, every_token(7, 10))[:5] == [(0, 0), (0, 2), (0, 4), (0, 6), (2, 0)]


def test_a_hole_is_drawn_in_a_window_around_it() -> None:
    free = torch.zeros(10, 12, dtype=torch.bool)
    free[3:6, 7:9] = True
    assert corners(Canvas(height=10, width=12, side=4), free) == [(2, 6)]


def test_going_on_to_the_left_begins_beside_what_is_there() -> None:
    free = torch.zeros(4, 10, dtype=torch.bool)
    free[:, :5] = True
    canvas = Canvas(height=4, width=10, side=4)
    assert corners(canvas, free) == [(0, 4), (0, 2), (0, 0)]


def test_seams_are_drawn_again_in_windows_around_the_edge() -> None:
    canvas = Canvas(height=4, width=8, side=4, wraps=True)
    plan = canvas.plan(every_token(4, 8))
    seams = plan[len(Canvas(height=4, width=8, side=4).plan(every_token(4, 8))) :]
    again = {int(place) for window in seams for place in window.index[window.free]}
    assert again == {
        row * 8 + column
        for row in range(4)
        for column in range(8)
        if row in (0, 3) or column in (0, 7)
    }
    corner = plan[-1]
    assert corner.index.view(4, 4)[:, 0].tolist() == [22, 30, 6, 14]
    assert sorted(corner.index[corner.free].tolist()) == [0, 7, 24, 31]


def test_what_is_kept_stays_even_at_a_seam() -> None:
    free = every_token(4, 4)
    free[0, 0] = False
    plan = Canvas(height=4, width=4, side=4, wraps=True).plan(free)
    assert all(0 not in window.index[window.free] for window in plan)


@pytest.mark.parametrize(("height", "width"), [(4, 3), (3, 4)])
def test_a_canvas_smaller_than_the_grid_is_refused(height: int, width: int) -> None:
    with pytest.raises(InputError, match="smaller than the 4x4 that this model draws"):
        Canvas(height=height, width=width, side=4)


def test_an_endless_canvas_is_refused() -> None:
    with pytest.raises(InputError, match="too large: 20000 of at most 16384"):
        Canvas(height=100, width=200, side=4)


def test_a_canvas_of_the_models_size_is_drawn_as_without_one() -> None:
    slots = Slots(TRANSFORMER, TopSampler(), num_codes=64)
    slot = slots.add(drawing(3))
    while slot.tokens is None:
        slots.step()
    assert torch.equal(draw(Canvas(height=4, width=4, side=4), drawing(3))[0], slot.tokens)


@pytest.mark.thorough
def test_a_seed_draws_one_picture_in_any_batch() -> None:
    canvas = Canvas(height=4, width=7, side=4, wraps=True)
    hole = torch.arange(28).view(4, 7).clone()
    hole[1:3, 2:4] = -1
    drawings = [drawing(3), drawing(4, hole), drawing(5)]
    together = draw(canvas, *drawings)
    assert len({tuple(row) for row in together.tolist()}) == 3
    for number, one in enumerate(drawings):
        assert torch.equal(draw(canvas, one)[0], together[number])
    assert torch.equal(draw(canvas, *drawings, batch_size=2), together)
    kept = hole >= 0
    assert torch.equal(together[1].view(4, 7)[kept], hole[kept])


def test_unfinished_pictures_are_seen_on_the_way() -> None:
    canvas = Canvas(height=4, width=6, side=4)
    told: list[int] = []
    steps = list(
        draw_canvases(
            [drawing(3)],
            TRANSFORMER,
            canvas,
            sampler=TopSampler(),
            batch_size=1,
            lookahead=2,
            num_codes=64,
            every=7,
            told=told.append,
        )
    )
    drawn = [int((tokens >= 0).sum()) for _, tokens in steps]
    assert drawn[0] == 7
    assert drawn == sorted(drawn)
    assert drawn[-2] < 24 == drawn[-1]
    assert (sum(told), max(told)) == (24, 1)  # after each token, not only after each window
