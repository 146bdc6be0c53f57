"""What a pipeline does with the answers of a safety checker; the scores are stand-ins."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import Blend, Pipeline, SafetyFlag, Watermark, WordSafetyChecker
from dallemini.cli.saving import join
from dallemini.errors import DalleMiniWarning, InputTypeError, SafetyError
from dallemini.safety import SafetyAction, SafetyChecker
from dallemini.testing import tiny_pipeline

BLACK = ((0, 0),) * 3


class Scores:
    """Flags the pictures whose score a test says is high."""

    def __init__(self, action: SafetyAction, score: Callable[[Image.Image], float]) -> None:
        self.action, self.score = action, score

    def check_prompt(self, prompt: str, /) -> SafetyFlag | None:
        return None

    def check_image(self, image: Image.Image, /) -> SafetyFlag | None:
        high = self.score(image) > 0.5
        return SafetyFlag(action=self.action, reason="a high score") if high else None


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def drawn(plain: Pipeline) -> Any:
    return plain("a red apple", num_images_per_prompt=2, seed=0, progress=False)


@pytest.fixture
def guarded(plain: Pipeline, drawn: Any) -> Callable[[SafetyAction], Pipeline]:
    """Make a pipeline whose checker flags the second picture of seed 0, and no other."""
    second = drawn.images[1].tobytes()

    def make(action: SafetyAction) -> Pipeline:
        checker = Scores(action, lambda image: float(image.tobytes() == second))
        return Pipeline(**{**_parts(plain), "safety_checker": checker})

    return make


def test_a_flagged_picture_is_blanked_and_said_to_be(
    guarded: Any, drawn: Any, tmp_path: Path
) -> None:
    out = guarded("blank")("a red apple", num_images_per_prompt=2, seed=0, progress=False)
    assert out.nsfw_content_detected == (False, True)
    assert out.images[0].tobytes() == drawn.images[0].tobytes()
    assert out.images[1].getextrema() == BLACK
    assert out.metadata(1)["safety"] == "blank: a high score"
    assert "safety" not in out.metadata(0)
    paths = out.save(tmp_path)
    assert [out.read_metadata(path).safety for path in paths] == [(), ("blank: a high score",)]
    grid = out.save_grid(tmp_path / "grid.png")
    assert out.read_metadata(grid).safety == ("", "blank: a high score")
    assert join([out, out]).nsfw_content_detected == (False, True) * 2
    assert join([out, drawn]).nsfw_content_detected is None is drawn.nsfw_content_detected


def test_blur_and_warn_show_what_they_say(guarded: Any, drawn: Any) -> None:
    asked: Any = {"num_images_per_prompt": 2, "seed": 0, "progress": False}
    blurred = guarded("blur")("a red apple", **asked).images[1]
    assert blurred.tobytes() != drawn.images[1].tobytes()
    assert blurred.getextrema() != BLACK
    with pytest.warns(DalleMiniWarning, match="'a red apple' was flagged for a high score"):
        out = guarded("warn")("a red apple", **asked)
    assert out.images[1].tobytes() == drawn.images[1].tobytes()
    assert out.nsfw_content_detected == (False, True)


def test_refuse_ends_the_call(guarded: Any) -> None:
    with pytest.raises(SafetyError, match="flagged for a high score, and is not shown"):
        guarded("refuse")("a red apple", num_images_per_prompt=2, seed=0, progress=False)


def test_looks_on_the_way_are_covered_too(plain: Pipeline) -> None:
    checker = Scores("blank", lambda image: 1.0)
    pipe = Pipeline(
        tokenizer=plain.tokenizer,
        transformer=plain.transformer,
        vqgan=plain.vqgan,
        safety_checker=checker,
    )
    steps = list(pipe.stream("a red apple", seed=0, every=4, progress=False))
    assert len(steps) == 4
    assert all(step.images[0].getextrema() == BLACK for step in steps)
    assert all(step.nsfw_content_detected == (True,) for step in steps)
    assert steps[-1].output is not None
    assert steps[-1].output.images[0].getextrema() == BLACK
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 8))
    edited = pipe.inpaint("a cat", Image.new("RGB", (16, 16)), mask, seed=0, progress=False)
    assert edited.nsfw_content_detected == (True,)


def test_flagged_candidates_that_are_not_kept_do_not_count(plain: Pipeline) -> None:
    seen: list[Image.Image] = []

    def note(image: Image.Image) -> float:
        seen.append(image)
        return 0.0

    pipe = Pipeline(**{**_parts(plain), "safety_checker": Scores("blank", note)})
    out = pipe("a red apple", seed=0, candidates=3, progress=False)
    assert len(seen) == len(out.images) == 1


def test_words_stop_the_call_before_it_begins(plain: Pipeline) -> None:
    pipe = Pipeline(**_parts(plain))
    pipe.safety_checker = WordSafetyChecker()
    for prompt in ("a naked man", ["a cat", "a naked man"], Blend({"a cat": 1, "naked": 1})):
        with pytest.raises(SafetyError, match=r'the word "naked" \(sexual\); ask in other words'):
            pipe(prompt)
        with pytest.raises(SafetyError):
            pipe.stream(prompt)
    assert pipe("a cat", negative_prompt="naked", seed=0, progress=False)
    pipe.safety_checker = None
    assert pipe("naked", seed=0, progress=False).nsfw_content_detected is None


def test_words_can_blank_the_pictures_of_their_prompt_alone(plain: Pipeline) -> None:
    pipe = Pipeline(**{**_parts(plain), "safety_checker": WordSafetyChecker(action="blank")})
    out = pipe(["a cat", "nude"], seed=0, watermark=Watermark("key"), progress=False)
    assert out.nsfw_content_detected == (False, True)
    assert "watermark" in out.metadata(0)
    assert "watermark" not in out.metadata(1)  # a black picture has none


def test_a_checker_is_a_part_that_is_not_saved(plain: Pipeline, tmp_path: Path) -> None:
    checker = WordSafetyChecker()
    pipe = Pipeline(**{**_parts(plain), "safety_checker": checker})
    assert pipe.components["safety_checker"] is checker
    pipe.save_pretrained(tmp_path)
    assert Pipeline.from_pretrained(tmp_path).safety_checker is None
    loaded = Pipeline.from_pretrained(tmp_path, safety_checker=checker)
    assert loaded.safety_checker is checker
    again = pickle.loads(pickle.dumps(pipe))
    assert again.safety_checker.check_prompt("nude")


def test_what_cannot_be_asked_is_refused(plain: Pipeline) -> None:
    wrong: Any = "words"
    with pytest.raises(InputTypeError, match="str lacks check_prompt and check_image"):
        plain.safety_checker = wrong

    class Mute(WordSafetyChecker):
        def check_prompt(self, prompt: str, /) -> Any:
            return True

    pipe = Pipeline(**{**_parts(plain), "safety_checker": Mute()})
    with pytest.raises(InputTypeError, match="returns a SafetyFlag or None, not True"):
        pipe("a cat")


def _parts(pipe: Pipeline) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if part is not None}


def test_any_class_with_the_methods_is_a_checker() -> None:
    checker: SafetyChecker = Scores("warn", lambda image: 0.0)
    assert checker.check_prompt("a cat") is None
