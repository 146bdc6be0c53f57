"""What the studio draws: with looks on the way, within limits, saved with metadata."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from certificates import make_signer
from dallemini import Watermark, WordSafetyChecker
from dallemini.app.limits import AppLimits
from dallemini.app.studio import Look, Studio
from dallemini.app.watching import THREAD
from dallemini.app.wish import Wish
from dallemini.errors import InputError
from dallemini.pipeline.signing import read_credentials
from dallemini.testing import tiny_pipeline
from patience import patience

WISH = Wish(prompt="a red apple", number=3, seed=5)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tiny_pipeline(), tmp_path_factory.mktemp("pictures"))


def texts(path: Path) -> dict[str, str]:
    with PIL.Image.open(path) as image:
        image.load()
        found: Any = image
        return dict(found.text)


@pytest.mark.thorough
def test_looks_come_before_the_pictures_that_are_saved(studio: Studio) -> None:
    *looks, last = studio.draw(WISH)
    looks = [look for look in looks if look.previews]
    shares = [look.share for look in looks]
    assert len(shares) >= 3
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    assert [*looks[0].previews] == [5, 6, 7]
    assert not any(look.drawn for look in looks)
    assert [drawn.wish.seed for drawn in last.drawn] == [5, 6, 7]
    again = studio.pipe("a red apple", seed=6, progress=False)
    told = texts(last.drawn[1].path)
    assert (told["prompt"], told["seed"]) == ("a red apple", "6")
    with PIL.Image.open(last.drawn[1].path) as image:
        assert image.tobytes() == again.images[0].tobytes()


def test_ranked_pictures_come_best_first_with_scores(studio: Studio) -> None:
    *_, last = studio.draw(Wish(prompt="a red apple", number=4, seed=5, rank=True))
    scores = [drawn.score or 0.0 for drawn in last.drawn]
    expected = studio.pipe("a red apple", num_images_per_prompt=4, seed=5, rank=True)
    assert scores == sorted(scores, reverse=True)
    assert tuple(drawn.wish.seed for drawn in last.drawn) == expected.seeds
    assert float(texts(last.drawn[0].path)["score"]) == pytest.approx(scores[0], abs=1e-3)


def test_size_is_that_of_the_shape(studio: Studio) -> None:
    *_, last = studio.draw(Wish(prompt="a red apple", number=1, seed=1, shape="tall"))
    with PIL.Image.open(last.drawn[0].path) as image:
        assert image.size == (studio.size[0], 2 * studio.size[1])


@pytest.mark.filterwarnings("ignore:.*were dropped")
def test_warnings_of_the_library_are_notes(studio: Studio) -> None:
    look = next(studio.draw(Wish(prompt="word " * 99, number=1)))
    assert any("were dropped" in note for note in look.notes)


def test_wish_is_checked_before_anything_is_drawn(tmp_path: Path) -> None:
    small = Studio(tiny_pipeline(), tmp_path, AppLimits(max_images=2))
    with pytest.raises(InputError, match="from 1 to 2, not 3"):
        next(small.draw(WISH))
    with pytest.raises(InputError, match="from 1 to 2, not 3"):
        next(small.vary(WISH, PIL.Image.new("RGB", (16, 16)), 0.5))
    assert [*tmp_path.iterdir()] == []


def test_candidates_are_drawn_and_the_best_of_each_is_kept(studio: Studio) -> None:
    wish = Wish(prompt="a red apple", number=2, seed=5, candidates=3)
    *looks, last = studio.draw(wish)
    expected = studio.pipe("a red apple", num_images_per_prompt=2, seed=5, candidates=3)
    assert max(len(look.previews) for look in looks) == 2
    assert tuple(drawn.wish.seed for drawn in last.drawn) == expected.seeds
    assert [read(drawn.path) for drawn in last.drawn] == [i.tobytes() for i in expected.images]


def test_nine_pictures_of_four_candidates_fill_nine_places_in_several_looks(
    studio: Studio,
) -> None:
    looks = studio.draw(Wish(prompt="a red apple", number=9, seed=5, candidates=4))
    shown = [[*look.previews] for look in looks if look.previews]
    assert max(map(len, shown)) == 9
    assert shown[-1] == [*range(5, 41, 4)]  # the first candidate of each
    assert len(shown) >= 3


def read(path: Path) -> bytes:
    with PIL.Image.open(path) as image:
        return image.tobytes()


def test_dropped_drawing_is_cancelled(studio: Studio) -> None:
    looks = studio.draw(replace(WISH, candidates=8))
    before = len([*studio._folder.iterdir()])
    next(looks)
    assert isinstance(looks, Generator)
    looks.close()
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(patience(20))
    assert len([*studio._folder.iterdir()]) == before


def last_of(looks: Any, *, shows: bool = False) -> Look:
    *before, last = looks
    assert any(look.previews for look in before) or not shows
    assert isinstance(last, Look)
    return last


def test_edits_are_seen_on_the_way_and_saved_with_what_they_were(studio: Studio) -> None:
    picture, mask = PIL.Image.new("RGB", (16, 16), "red"), PIL.Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    around = {"left": 0, "right": 8, "top": 0, "bottom": 0}
    for looks, operation, size in (
        (studio.redraw(WISH, picture, mask), "inpaint", (16, 16)),
        (studio.vary(WISH, picture, 0.5), "vary", (16, 16)),
        (studio.extend(WISH, picture, around), "outpaint", (24, 16)),
    ):
        last = last_of(looks, shows=True)
        assert [drawn.wish.seed for drawn in last.drawn] == [5, 6, 7]
        assert json.loads(texts(last.drawn[0].path)["edit"])["operation"] == operation
        with PIL.Image.open(last.drawn[0].path) as image:
            assert image.size == size


def test_edit_that_cannot_be_is_told(studio: Studio) -> None:
    picture = PIL.Image.new("RGB", (16, 16))
    with pytest.raises(InputError, match="A side grows by 0 to 16 pixels in one go"):
        list(studio.extend(WISH, picture, {"right": 32}))
    with pytest.raises(InputError, match="The mask is black"):
        list(studio.redraw(WISH, picture, PIL.Image.new("L", (16, 16))))


def test_pictures_have_the_mark_and_say_what_was_flagged(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.safety_checker = WordSafetyChecker({"fruit": ["apple"]}, action="blur")
    studio = Studio(pipe, tmp_path, watermark=Watermark("secret"))
    last = last_of(studio.draw(replace(WISH, prompt="a cat")))
    assert texts(last.drawn[0].path)["watermark"] == "dallemini-codes-1"
    assert last.drawn[0].caption == "seed 5"
    flagged = last_of(studio.draw(WISH)).drawn[0]
    assert flagged.flag == texts(flagged.path)["safety"] == 'blur: the word "apple" (fruit)'
    assert flagged.caption == "seed 5 · flagged"
    origin = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert origin.encode() in flagged.path.read_bytes()


def test_pictures_are_signed(studio: Studio, tmp_path: Path) -> None:
    signing = Studio(studio.pipe, tmp_path, c2pa=make_signer(tmp_path))
    (drawn,) = last_of(signing.draw(replace(WISH, number=1))).drawn
    told = read_credentials(drawn.path.read_bytes())
    assert told is not None
    assert told.state == "valid"
