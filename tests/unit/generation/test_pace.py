"""How wide a pass should be, from what rows cost and guesses held."""

from __future__ import annotations

import pytest

from dallemini.generation.pace import WIDTHS, Pace


def taught(cost: float, *, width: int, kept: int) -> Pace:
    """A pace that has seen rows beyond the first two cost so much each, and guesses hold."""
    pace = Pace()
    for rows in (2, 8, 16, 32):
        pace.learn_time(rows, 1 + cost * (rows - 2))
    for _ in range(9):
        pace.learn_kept(width, kept)
    return pace


def most_chosen(pace: Pace, *, most: int = 16) -> int:
    chosen = [pace.choose(2, most=most) for _ in range(33)]
    return max(set(chosen), key=chosen.count)


def test_passes_are_wide_where_rows_cost_nothing_and_guesses_hold() -> None:
    assert most_chosen(taught(0.0, width=16, kept=16)) == 16
    assert most_chosen(taught(0.0, width=16, kept=16), most=7) == 6


def test_nothing_is_guessed_where_a_row_costs_as_much_as_a_pass_or_no_guess_holds() -> None:
    assert most_chosen(taught(0.5, width=16, kept=4)) == 1
    assert most_chosen(taught(0.1, width=16, kept=1)) == 1


def test_a_middle_width_is_chosen_between() -> None:
    assert most_chosen(taught(0.05, width=16, kept=4)) in (3, 4, 5, 6)


def test_expected_tokens_are_those_that_were_kept() -> None:
    pace = Pace()
    for kept in (1, 2, 3, 4) * 200:
        pace.learn_kept(4, kept)
    assert pace.tokens(1) == 1.0
    assert pace.tokens(4) == pytest.approx(2.5, abs=0.02)


def test_costs_lie_on_a_line_between_those_known_and_beyond() -> None:
    pace = Pace()
    assert pace.cost(4) == 1.0
    pace.learn_time(2, 3.0)
    assert pace.cost(8) == 3.0
    for seconds in (9.0, 6.0, 7.0):
        pace.learn_time(8, seconds)
    assert [pace.cost(rows) for rows in (2, 4, 8, 10)] == [3.0, 4.0, 6.0, 7.0]


def test_other_widths_are_tried_now_and_then() -> None:
    pace = taught(0.05, width=16, kept=4)
    chosen = {pace.choose(2, most=16) for _ in range(64)}
    assert len(chosen) == 3
    assert chosen < set(WIDTHS)
