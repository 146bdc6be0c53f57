"""`dallemini edit` and `dallemini extend`: files, settings and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import Blend, Pipeline, Upscaler
from dallemini.generation.watermark import SCHEME
from dallemini.models import UpscalerConfig
from dallemini.pipeline.metadata import read_metadata


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16), "red").save("picture.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 12))
    mask.save("mask.png")


def edit_of(path: str) -> dict[str, Any]:
    with Image.open(path) as image:
        found: dict[str, Any] = json.loads(image.info["edit"])
        return found


def test_a_part_is_redrawn(run: Any, tiny: Path) -> None:
    result = run(
        "edit", "picture.png", "a bird", "--mask", "mask.png", "--model", tiny, "--seed", 3
    )
    assert (result.code, result.lines) == (0, ["a-bird-3.png"])
    assert edit_of("a-bird-3.png")["operation"] == "inpaint"
    with Image.open("a-bird-3.png") as drawn:
        assert drawn.getpixel((0, 0)) == (255, 0, 0)


def test_other_edits_take_the_settings_of_a_drawing(run: Any, tiny: Path) -> None:
    given = ["--model", tiny, "--seed", 3, "--num-images", 2, "--lookahead", 2]
    varied = run("edit", "picture.png", "a bird", "--strength", 0.4, "--no-paste", *given)
    assert varied.lines == ["a-bird-3.png", "a-bird-4.png"]
    found = edit_of("a-bird-3.png")
    assert (found["operation"], found["strength"], found["paste"]) == ("vary", 0.4, False)
    begun = run("edit", "picture.png", "a tree", "--rows", 1, "--output", "out", *given)
    assert edit_of(begun.lines[0])["rows"] == 1


def test_edits_are_marked_and_told_to_scripts(run: Any, tiny: Path) -> None:
    Path("key.txt").write_text("a secret")
    given = ["--model", tiny, "-s", 3, "-o", "out", "--json", "--watermark-key-file", "key.txt"]
    for words in (["edit", "--rows", 1], ["extend", "--top", 4]):
        result = run(words[0], "picture.png", "a bird", *words[1:], *given)
        told = json.loads(result.out)
        assert (told["prompt"], told["seed"]) == ("a bird", 3)
        with Image.open(told["path"]) as drawn:
            assert drawn.info["watermark"] == SCHEME


def test_a_beginning_is_shown_as_it_is_decoded(run: Any, tiny: Path) -> None:
    given = ["picture.png", "a tree", "--rows", 1, "--model", tiny, "--seed", 3]
    kept, bare = (run("edit", *given, *more).lines[0] for more in ((), ("--no-paste",)))
    assert (edit_of(kept)["paste"], edit_of(bare)["paste"]) == (True, False)
    with Image.open(kept) as one, Image.open(bare) as other:
        red, top = ((255, 255), (0, 0), (0, 0)), (0, 0, 16, 4)
        assert one.crop(top).getextrema() == red
        assert other.crop(top).getextrema() != red


def test_edits_are_ranked_enlarged_checked_and_laid_out_as_pictures_are(
    run: Any, tiny: Path
) -> None:
    config = UpscalerConfig(width=4, num_blocks=1, name="mine")
    Upscaler.from_config(config).save_pretrained("larger")
    more = ["--candidates", 2, "--rank-by", "likelihood", "--upscale", 2, "--upscaler", "larger"]
    given = ["--model", tiny, "-n", 2, "-s", 3, "--grid", "all.png", "--safety", "words", *more]
    for words in (["edit", "--rows", 1], ["extend", "--top", 4]):
        result = run(words[0], "picture.png", "a bird", *words[1:], *given, "-o", "out", "--json")
        assert result.code == 0, result.err
        *each, sheet = map(json.loads, result.lines)
        assert [one["safety"] for one in each] == [None, None]
        scores = [one["score"] for one in each]
        assert scores == sorted(scores, reverse=True)
        with Image.open(each[0]["path"]) as drawn:
            assert (drawn.width, drawn.info["upscaler"]) == (32, "mine")
        with Image.open(sheet["path"]) as grid:
            assert json.loads(grid.info["seeds"]) == [one["seed"] for one in each]
    settings: Any = {"num_images_per_prompt": 2, "candidates": 2, "rank": "likelihood", "seed": 3}
    expected = Pipeline.from_pretrained(tiny).outpaint("picture.png", "a bird", top=4, **settings)
    assert scores == list(expected.scores or ())  # of the last command
    Path("words.txt").write_text("bird")
    refused = run(
        "extend", "picture.png", "a bird", "--top", 4, *given, "--safety-words", "words.txt"
    )
    assert (refused.code, "bird" in refused.err) == (1, True)


def test_a_picture_is_extended(run: Any, tiny: Path) -> None:
    result = run("extend", "picture.png", "a bird", "--right", 8, "--top", 4, "--model", tiny)
    with Image.open(result.lines[0]) as drawn:
        assert drawn.size == (24, 20)


def test_generate_draws_wide_pictures_and_tiles(run: Any, tiny: Path) -> None:
    result = run("generate", "a bird", "--width", 24, "--tile", "--model", tiny, "--seed", 1)
    with Image.open(result.lines[0]) as drawn:
        assert drawn.size == (24, 16)


def test_prompts_are_mixed_into_one_picture(run: Any, tiny: Path) -> None:
    given = ["--blend", "3:1", "--guidance-scale", 2, "--model", tiny, "--seed", 1]
    blend, settings = Blend({"cat": 3, "dog": 1}), {"guidance_scale": 2, "seed": 1}
    pipe = Pipeline.from_pretrained(tiny)
    plain = pipe(blend, **settings)  # type: ignore[arg-type]
    edited = pipe.outpaint("picture.png", blend, top=4, **settings)  # type: ignore[arg-type]
    for words, expected in (
        (["generate", "cat", "dog"], plain),
        (["extend", "picture.png", "cat", "dog", "--top", 4], edited),
    ):
        result = run(*words, *given, "-o", words[0])
        assert (result.err, len(result.lines)) == ("", 1)
        with Image.open(result.lines[0]) as drawn:
            assert drawn.tobytes() == expected.images[0].tobytes()
            assert read_metadata(result.lines[0]).prompts == (blend,)


@pytest.mark.parametrize(
    ("code", "command", "message"),
    [
        (2, ["edit", "picture.png", "a bird"], "one of --mask FILE, --strength SHARE and --rows N"),
        (2, ["edit", "picture.png", "a bird", "--strength", "2"], "--strength is above 0 and at"),
        (1, ["edit", "missing.png", "a bird", "--rows", "1"], "There is no file missing.png"),
        (2, ["extend", "picture.png", "a bird"], "Say how many pixels to add, by --left, --right"),
        (2, ["extend", "picture.png", "--right", "8"], "try: dallemini extend picture.png "),
        (2, ["edit", "picture.png", "", "--rows", "1"], "Prompt 1 is empty"),
        (
            2,
            ["edit", "picture.png", "a", "bird", "--rows", "1"],
            'quotes: dallemini edit picture.png "a bird"',
        ),
        (2, ["edit", "picture.png", "a", "b", "--rows", "1", "--blend", "1"], "2 here, not 1"),
        (
            2,
            ["edit", "picture.png", "a", "a", "--rows", "1", "--blend", "1:1"],
            "each of them once",
        ),
        (2, ["edit", "picture.png", "a", "b", "--rows", "1", "--blend", "1:-1"], "above 0"),
        (2, ["generate", "--prompts", "mask.png", "--blend", "1:1"], "or write the prompts here"),
        (2, ["extend", "picture.png", "a bird", "--output", "x.png", "--top", "4"], "a folder"),
    ],
)
def test_bad_input_ends_in_a_sentence(
    run: Any, tiny: Path, code: int, command: list[str], message: str
) -> None:
    result = run(*command, "--model", tiny)
    assert result.code == code
    assert message in result.err
    assert result.err.count("\n") == 1
