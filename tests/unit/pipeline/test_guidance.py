"""Guidance that people steer: negative prompts, mixtures, schedules, all of them together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini import Blend, GenerationOutput, Pipeline
from dallemini.errors import ConfigError, DalleMiniWarning, InputError
from dallemini.generation import Drawing, Slots, TopSampler
from dallemini.testing import tiny_pipeline

APPLE, BIRD = "a red apple", "a blue bird"
MIX = Blend({APPLE: 0.6, BIRD: 0.4})


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def quantized() -> Pipeline:
    return tiny_pipeline().quantize()


def draw(pipe: Pipeline, prompts: Any, **settings: Any) -> GenerationOutput:
    return pipe(prompts, progress=False, **{"seed": 5, "guidance_scale": 4.0, **settings})


def tokens(pipe: Pipeline, prompts: Any, **settings: Any) -> list[list[int]]:
    found: list[list[int]] = draw(pipe, prompts, **settings).image_tokens.tolist()
    return found


def by_hand(pipe: Pipeline, weights: Any, texts: list[str], base: str | None) -> list[int]:
    """Draw by a `Drawing` made here."""
    read = [pipe.tokenizer(text) for text in texts]
    blank = pipe.tokenizer.unconditional() if base is None else pipe.tokenizer(base)
    slots = Slots(pipe.transformer, TopSampler(), num_codes=pipe.vqgan.codebook_size)
    slot = slots.add(Drawing(texts=tuple(read), weights=weights, base=blank, seed=5))
    while slot.tokens is None:
        slots.step()
    found: list[int] = slot.tokens.tolist()
    return found


def test_each_setting_is_the_formula_that_it_says(pipe: Pipeline) -> None:
    def rising(share: float) -> float:
        return 1.0 + 6.0 * share * share

    wanted: list[tuple[dict[str, Any], Any, list[str], str | None]] = [
        ({"negative_prompt": BIRD}, (4.0,), [APPLE], BIRD),
        ({"guidance_scale": (2, 8)}, lambda share: [2 + 6 * share], [APPLE], None),
        ({"guidance_scale": rising}, lambda share: [rising(share)], [APPLE], None),
    ]
    plain = tokens(pipe, APPLE)[0]
    for settings, weights, texts, base in wanted:
        drawn = tokens(pipe, APPLE, **settings)[0]
        assert drawn == by_hand(pipe, weights, texts, base)
        assert drawn != plain
    mixed = tokens(pipe, MIX)[0]
    assert mixed == by_hand(pipe, (4.0 * 0.6, 4.0 * 0.4), [APPLE, BIRD], None)
    assert mixed not in (plain, tokens(pipe, BIRD)[0])


def test_what_changes_nothing_draws_todays_picture(pipe: Pipeline) -> None:
    plain = tokens(pipe, APPLE)
    assert tokens(pipe, Blend({APPLE: 7})) == plain
    assert tokens(pipe, APPLE, guidance_scale=(4, 4)) == plain
    assert tokens(pipe, APPLE, guidance_scale=lambda share: 4) == plain
    assert tokens(pipe, APPLE, negative_prompt="  ") == plain
    unguided = tokens(pipe, APPLE, guidance_scale=1)
    assert tokens(pipe, APPLE, guidance_scale=(1, 1), negative_prompt="") == unguided


@pytest.mark.thorough
@pytest.mark.slow_except("float32")
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_all_of_them_draw_the_same_in_any_batch_and_alone(
    pipe: Pipeline, quantized: Pipeline, kind: str
) -> None:
    used = {"float32": pipe, "int8": quantized}[kind]
    prompts: list[str | Blend] = [APPLE, MIX, Blend({APPLE: 1, BIRD: 1, "a rocket": 2}), BIRD]
    settings: dict[str, Any] = {
        "guidance_scale": (2, 9),
        "negative_prompt": ["", "green", BIRD, "green"],
        "num_images_per_prompt": 2,
    }
    whole = draw(used, prompts, batch_size=None, **settings)
    for size in (1, 3):
        assert tokens(used, prompts, batch_size=size, **settings) == whole.image_tokens.tolist()
    for image, prompt in ((3, 1), (4, 2)):
        alone = {**settings, "num_images_per_prompt": 1}
        alone["negative_prompt"] = settings["negative_prompt"][prompt]
        again = draw(used, prompts[prompt], **{**alone, "seed": whole.seeds[image]})
        assert torch.equal(again.image_tokens[0], whole.image_tokens[image])
    *_, last = used.stream(prompts, seed=5, progress=False, **settings)
    assert torch.equal(last.image_tokens, whole.image_tokens)
    assert last.prompts[2] == MIX


def test_metadata_show_a_mixture_and_hold_what_draws_it_again(
    pipe: Pipeline, tmp_path: Path
) -> None:
    out = draw(pipe, [MIX, BIRD], negative_prompt=["green", ""], guidance_scale=(2, 8))
    chunks = out.metadata(0)
    assert chunks["prompt"] == "0.6 a red apple + 0.4 a blue bird"
    assert json.loads(chunks["blend"]) == MIX.weights
    config = json.loads(chunks["config"])
    assert (config["negative_prompt"], config["guidance_scale"]) == ("green", [2.0, 8.0])
    again = draw(pipe, Blend(json.loads(chunks["blend"])), **config)
    assert torch.equal(again.image_tokens[0], out.image_tokens[0])
    assert json.loads(out.metadata(-1)["config"])["negative_prompt"] == ""
    assert "blend" not in out.metadata(1)
    assert "0-6-a-red-apple" in out.save(tmp_path)[0].name


def test_a_function_of_guidance_is_named_but_not_kept(pipe: Pipeline) -> None:
    def falling(share: float) -> float:
        return 8 - 4 * share

    out = draw(pipe, APPLE, guidance_scale=falling)
    assert out.metadata(0)["guidance"] == "falling"
    assert "guidance_scale" not in json.loads(out.metadata(0)["config"])
    with pytest.raises(ConfigError, match="A function given as guidance_scale cannot be saved"):
        out.config.save("nowhere.json")


def test_scores_of_a_mixture_are_those_of_its_texts(pipe: Pipeline) -> None:
    mixed = draw(pipe, MIX, rank=True, num_images_per_prompt=2)
    pixels = torch.stack([torch.tensor(list(image.tobytes())) for image in mixed.images])
    images = pixels.view(2, 16, 16, 3).permute(0, 3, 1, 2) / 255
    one, other = (pipe.scorer.score(images, [text] * 2) for text in (APPLE, BIRD))
    assert mixed.scores == pytest.approx((0.6 * one + 0.4 * other).tolist(), abs=1e-4)


def test_likelihood_compares_with_what_the_picture_is_led_away_from() -> None:
    parts = tiny_pipeline()
    pipe = Pipeline(tokenizer=parts.tokenizer, transformer=parts.transformer, vqgan=parts.vqgan)
    out = draw(pipe, [MIX, APPLE], candidates=2, negative_prompt=APPLE)
    assert out.scores is not None
    assert out.scores[1] == pytest.approx(0, abs=1e-5)  # its text is its base
    assert abs(out.scores[0]) > 1e-3


def number(value: object) -> Callable[[float], Any]:
    return lambda share: value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negative_prompt": "x", "guidance_scale": 1}, "plays no part at guidance_scale=1; give"),
        ({"negative_prompt": 3}, "negative_prompt must be str"),
        ({"negative_prompt": MIX}, "negative_prompt cannot be a Blend; write all .* into one text"),
        ({"negative_prompt": ["green", MIX]}, "negative_prompt cannot be a Blend"),
        ({"negative_prompt": [None]}, "negative_prompt must be str"),
        ({"guidance_scale": (1, 2, 3)}, "one number, or two for its start and end, not 3"),
        ({"guidance_scale": ()}, "one number, or two for its start and end, not 0"),
        ({"guidance_scale": (1, -2)}, r"must be a finite number from 0, not -2\.0"),
        ({"guidance_scale": (1, "2")}, "guidance_scale must be float"),
        ({"guidance_scale": float}, "guidance_scale must be float"),
        ({"guidance_scale": number(None)}, "from 0, but for the share 0 it returned None"),
        ({"guidance_scale": number(-1)}, "from 0, but for the share 0 it returned -1"),
        ({"guidance_scale": number(float("inf"))}, "must return a finite number from 0"),
    ],
)
def test_what_cannot_steer_is_refused(pipe: Pipeline, settings: Any, message: str) -> None:
    for call in (pipe, pipe.stream):
        with pytest.raises(ConfigError, match=message):
            call(APPLE, **settings)


def test_a_function_that_fails_later_says_where(pipe: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"but for the share 0\.5 it returned nan"):
        draw(pipe, APPLE, guidance_scale=lambda share: 2.0 if share < 0.5 else float("nan"))


@pytest.mark.parametrize(
    ("prompts", "negative", "name"),
    [
        ([APPLE, "cat " * 99], None, r"prompts\[1\]"),
        ([Blend({APPLE: 0.5, BIRD: 0.5}), "cat " * 99], None, r"prompts\[1\]"),
        ([APPLE, BIRD], "cat " * 99, "negative_prompt"),
        ([APPLE, BIRD], ["", "cat " * 99], r"negative_prompt\[1\]"),
    ],
)
def test_warnings_name_the_prompt_that_they_mean(
    pipe: Pipeline, prompts: Any, negative: Any, name: str
) -> None:
    settings: Any = {} if negative is None else {"negative_prompt": negative}
    with pytest.warns(DalleMiniWarning, match=rf"^{name} \('cat cat.* were dropped") as told:
        draw(pipe, prompts, **settings)
    assert len(told) == 1


def test_another_number_of_negative_prompts_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(InputError, match="2 prompts need 2 negative prompts, one each, or one str"):
        draw(pipe, [APPLE, BIRD], negative_prompt=["green"])


@pytest.mark.parametrize(
    ("keyword", "answer"),
    [
        ("prompt", "Prompts, one or a list of them, are the first argument or prompts="),
        ("generator", "give seed=0, or a list of seeds, instead of generator"),
        ("num_inference_steps", "leave out num_inference_steps"),
        ("output_type", "image_to_tensor makes tensors of them"),
        ("callback_on_step_end", "A call tells how far it is by callback="),
    ],
)
def test_keywords_of_other_libraries_are_answered(
    pipe: Pipeline, keyword: str, answer: str
) -> None:
    with pytest.raises(ConfigError, match=answer):
        pipe(**{keyword: 1})  # type: ignore[arg-type]


def test_a_schedule_goes_once_over_a_canvas_and_not_over_each_window(pipe: Pipeline) -> None:
    shares: list[float] = []

    def watching(share: float) -> float:
        shares.append(share)
        return 2 + share

    out = draw(pipe, APPLE, width=24, guidance_scale=watching)
    drawn = shares[1:]  # the first one checks the function
    assert drawn[0] == 0
    assert drawn == sorted(drawn)
    # 16 tokens of the first window, then 8 in a second one that begins behind two kept ones
    assert 15 / 24 in drawn
    assert min(share for share in drawn if share > 15 / 24) == (16 + 8 * 2 / 16) / 24
    assert drawn[-1] == (16 + 8 * 15 / 16) / 24
    numbers = draw(pipe, APPLE, width=24, guidance_scale=(2, 3))
    assert torch.equal(numbers.image_tokens, out.image_tokens)
