"""What is remembered for a browser, and what is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dallemini.app.limits import AppLimits
from dallemini.app.sessions import Drawn, Sessions
from dallemini.app.wish import Wish

WISH = Wish(prompt="a cat", seed=0)


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(AppLimits(max_history=3, max_sessions=2))


def draw(folder: Path, *names: str) -> list[Drawn]:
    for name in names:
        (folder / name).touch()
    return [Drawn(path=folder / name, wish=WISH) for name in names]


def test_newest_click_comes_first_and_the_oldest_pictures_go(
    sessions: Sessions, tmp_path: Path
) -> None:
    key = sessions.open(None)
    sessions.add(key, WISH, draw(tmp_path, "a", "b"))
    sessions.add(key, WISH, draw(tmp_path, "c", "d"))
    assert [drawn.path.name for drawn in sessions.drawn(key)] == ["c", "d", "a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_nobody_sees_the_pictures_of_another_key(sessions: Sessions, tmp_path: Path) -> None:
    key = sessions.open(None)
    sessions.add(key, WISH, draw(tmp_path, "a"))
    assert sessions.open(key) == key
    for other in ("", "made up", None, 7, ["x"]):
        assert sessions.drawn(other) == []
        assert sessions.last_wish(other) is None
        assert sessions.open(other) != other


def test_session_that_was_idle_longest_is_forgotten_with_its_files(
    sessions: Sessions, tmp_path: Path
) -> None:
    first, second = sessions.open(None), sessions.open(None)
    sessions.add(first, WISH, draw(tmp_path, "a"))
    sessions.add(second, WISH, draw(tmp_path, "b"))
    sessions.open(first)
    sessions.open(None)
    assert (sessions.drawn(second), sessions.last_wish(second)) == ([], None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    sessions.add(second, WISH, draw(tmp_path, "c"))  # it was drawing meanwhile
    assert not (tmp_path / "c").exists()


def test_caption_tells_seed_and_score() -> None:
    drawn = Drawn(path=Path("x.png"), wish=WISH)
    assert drawn.caption == "seed 0"
    assert Drawn(path=Path("x.png"), wish=WISH, score=1.5).caption == "seed 0 · 1.50"
