"""How wide a pass should be, from what rows cost and guesses held."""

from __future__ import annotations

import pytest

from dallemini.generation.pace import WIDTHS, Pace


def taught(cost: float, *, width: int, kept: int) -> Pace:
    """A pace that has seen rows beyond the first two cost so much each, and guesses hold."""
    pace = Pace()
    for rows in (2, 8, 16, 32) * 8:
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
    assert most_chosen(taught(0.5, width=16, kept=2)) == 1
    assert most_chosen(taught(0.1, width=16, kept=1)) == 1


def test_a_middle_width_is_chosen_between() -> None:
    assert most_chosen(taught(0.05, width=16, kept=4)) in (3, 4, 5, 6)


def test_expected_tokens_are_those_that_were_kept() -> None:
    pace = Pace()
    for kept in (1, 2, 3, 4) * 200:
        pace.learn_kept(4, kept)
    assert pace.tokens(1) == 1.0
    assert pace.tokens(4) == pytest.approx(2.5, abs=0.02)


def test_of_several_pictures_the_one_that_is_behind_counts() -> None:
    pace = taught(0.0, width=16, kept=4)
    assert pace.tokens(4, pictures=3) < pace.tokens(4, pictures=2) < pace.tokens(4)
    halved = Pace()
    for kept in (1, 2) * 500:
        halved.learn_kept(2, kept)
    assert halved.tokens(2, pictures=4) == pytest.approx(1 + 0.5**4, abs=0.01)
    assert Pace().choose(8, most=4, pictures=4) == 1


def test_given_tokens_are_guessed_for_certain() -> None:
    pace = taught(0.1, width=16, kept=1)
    assert 5 <= pace.tokens(6, pictures=4, sure=4) < 5.2
    assert pace.choose(2, most=6, pictures=4, sure=5) == 6


def test_costs_are_a_line_through_the_fastest_passes() -> None:
    pace = Pace()
    assert pace.costs()[0] == 1.0
    for _ in range(50):  # far more than what is taken for granted
        for rows in (2, 8, 16, 32):
            pace.learn_time(rows, 3 * (1 + rows))
        pace.learn_time(8, 99.0)
    whole, each = pace.costs()
    assert whole + 16 * each == pytest.approx(51.0, rel=0.35)
    assert each == pytest.approx(3.0, rel=0.15)


def test_wide_passes_are_tried_before_anything_is_known_of_them() -> None:
    pace = Pace()
    pace.learn_time(2, 1.0)
    assert 2 < pace.choose(2, most=16) < 16


def test_other_widths_are_tried_now_and_then() -> None:
    pace = taught(0.05, width=16, kept=4)
    chosen = {pace.choose(2, most=16) for _ in range(64)}
    assert len(chosen) == 3
    assert chosen < set(WIDTHS)
