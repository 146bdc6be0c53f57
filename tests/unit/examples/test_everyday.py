"""What a choice among candidates is worth, counted over all sets of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from dallemini.testing import tiny_pipeline

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "emoji"))

from evaluate import choices
from everyday import Candidates, Judge, draw_candidates

# The scorer finds the only right picture of the first sentence, and misses that of the second.
DRAWN = Candidates(
    torch.tensor([[0, 7, 7, 7], [7, 7, 7, 3]]),
    {"scorer": torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])},
)


def test_a_choice_is_right_as_often_as_over_all_sets() -> None:
    assert DRAWN.right("none", 1, below=1).tolist() == [0.25, 0.0]
    assert DRAWN.right("scorer", 2, below=1).tolist() == [0.5, 0.0]  # it is in half of the pairs
    assert DRAWN.right("scorer", 4, below=1).tolist() == [1.0, 0.0]
    assert DRAWN.right("any", 2, below=5).tolist() == [0.5, 0.5]
    assert DRAWN.right("scorer", 2, below=5).tolist() == [0.5, 0.0]


def test_the_report_has_gains_over_no_choice() -> None:
    report = choices(DRAWN)
    assert list(report) == ["best_of_1", "best_of_2", "best_of_4"]
    found = report["best_of_4"]["scorer"]  # type: ignore[index]
    assert (found["first"]["value"], found["gain_first"]["value"]) == (0.5, 0.375)
    assert (found["first"]["count"], found["gain_among_five"]["value"]) == (2, 0.25)


class Redness(Judge):
    """Ranks pictures by the red in them."""

    def __init__(self) -> None: ...

    def ranks(self, images: Sequence[Image.Image], codes: Sequence[str]) -> list[int]:
        assert {image.size for image in images} == {(160, 160)}
        return [image.resize((1, 1)).tobytes()[0] for image in images]


def test_every_candidate_is_judged_and_scored() -> None:
    pipe, texts = tiny_pipeline(), ["a red apple", "a bird"]
    drawn = draw_candidates(pipe, Redness(), [(text, "") for text in texts], count=3)
    assert drawn.ranks.shape == drawn.scores["likelihood"].shape == (2, 3)
    out = pipe(texts, num_images_per_prompt=3, seed=0, rank=True)
    best = drawn.scores["scorer"].sort(descending=True).values
    torch.testing.assert_close(best.flatten(), torch.tensor(out.scores))
    large = [image.resize((160, 160), Image.Resampling.BOX) for image in out.images]
    assert sorted(drawn.ranks.flatten().tolist()) == sorted(Redness().ranks(large, []))
