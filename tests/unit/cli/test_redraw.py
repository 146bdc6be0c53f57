"""`dallemini redraw`: from a picture's own words to the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import Upscaler
from dallemini.errors import DalleMiniWarning
from dallemini.models import UpscalerConfig
from dallemini.testing import tiny_pipeline


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def same(first: str, second: str) -> bool:
    with Image.open(first) as one, Image.open(second) as other:
        return one.tobytes() == other.tobytes()


def test_pictures_are_drawn_again_with_the_model_and_dtype_that_they_name(
    run: Any, tiny: Path
) -> None:
    words = ["generate", "a cat", "--model", tiny, "--seed", 3]
    paths = [*run(*words).lines, *run(*words, "--dtype", "int8").lines]
    assert not same(*paths)
    again = run("redraw", *paths, "-o", "again")
    assert (again.code, again.err) == (0, "")
    assert again.lines == ["again/a-cat-3.png", "again/a-cat-3-2.png"]
    assert all(same(*pair) for pair in zip(paths, again.lines, strict=True))


def test_larger_pictures_are_made_larger_again_by_what_is_named(run: Any, tiny: Path) -> None:
    for name in ("mine", "yours"):
        config = UpscalerConfig(width=4, num_blocks=1, name=name)
        Upscaler.from_config(config).save_pretrained(name)
    words = ["generate", "a cat", "--model", tiny, "--seed", 3, "--upscale", 2]
    (path,) = run(*words, "--upscaler", "mine").lines
    again = run("redraw", path, "-o", "again", "--upscaler", "mine")
    assert (again.code, again.err) == (0, "")
    assert same(path, again.lines[0])
    other = run("redraw", path, "-o", "again", "--upscaler", "yours")
    assert "was drawn with another upscaler ('mine'; here 'yours')" in other.err


@pytest.mark.thorough
def test_another_model_or_dtype_is_warned_about(run: Any, tiny: Path) -> None:
    tiny_pipeline(seed=1).save_pretrained("other")
    (path,) = run("generate", "a cat", "--model", tiny, "--seed", 3).lines
    for given, told in ((["--model", "other"], "weights"), (["--dtype", "bfloat16"], "dtype")):
        result = run("redraw", path, *given)
        assert result.code == 0
        assert f"dallemini: warning: {path} was drawn with other {told}" in result.err


@pytest.mark.thorough
def test_marked_edits_are_drawn_again(run: Any, tiny: Path) -> None:
    Image.effect_noise((16, 16), 90).convert("RGB").save("picture.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (4, 4, 12, 8))
    mask.save("mask.png")
    Path("key.txt").write_text("a secret")
    marked = ["--watermark-key-file", "key.txt"]
    words = ["edit", "picture.png", "a bird", "--mask", "mask.png", "--model", tiny, "-s", 3]
    (path,) = run(*words, *marked, "-o", "drawn").lines
    needed = {"--image": "picture.png", "--mask": "mask.png", "--watermark-key-file": "key.txt"}
    given: list[str] = []
    for option, file in needed.items():
        result = run("redraw", path, *given)
        assert (result.code, option in result.err, "=" in result.err) == (1, True, False), result
        given += [option, file]
    again = run("redraw", path, *given, "-o", "again", "--json")
    assert again.code == 0, again.err
    assert same(path, json.loads(again.out)["path"])


def test_what_cannot_be_drawn_again_is_told(run: Any, tiny: Path) -> None:
    assert run("redraw").code == 2
    assert "There is no file" in run("redraw", "nothing.png").err
    Image.new("RGB", (8, 8)).save("plain.png")
    result = run("redraw", "plain.png")
    assert (result.code, result.out) == (1, "")
    assert "plain.png does not say how it was drawn" in result.err
    with pytest.warns(DalleMiniWarning, match="other weights"):
        tiny_pipeline(seed=1).redraw(run("generate", "a cat", "--model", tiny).lines[0])
