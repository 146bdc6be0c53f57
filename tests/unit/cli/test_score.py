"""`dallemini score`: the numbers of the scorer, and files that are no pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dallemini.scorer import CLIPScorer
from dallemini.testing import tiny_pipeline


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for name, size in (("red.png", (20, 30)), ("blue.png", (16, 16))):
        Image.new("RGB", size, name.partition(".")[0]).save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


def expected(tiny: Path, color: tuple[float, float, float], size: int, prompt: str) -> str:
    scorer = CLIPScorer.from_pretrained(tiny, subfolder="scorer")
    pixels = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, size, size)
    return f"{scorer.score(pixels, [prompt]).item():.4f}"


def test_every_picture_gets_its_score(run: Any, tiny: Path, pictures: list[Path]) -> None:
    result = run("score", *pictures, "--prompt", "a red apple", "--model", tiny)
    assert result.code == 0
    (first, second) = (line.split("\t") for line in result.lines)
    assert first[1:] == [str(pictures[0]), "a red apple"]
    assert second == [
        expected(tiny, (0.0, 0.0, 1.0), 16, "a red apple"),
        str(pictures[1]),
        "a red apple",
    ]


def test_scripts_get_scores_as_json(run: Any, tiny: Path, pictures: list[Path]) -> None:
    words = ["score", pictures[0], "--prompt", "a cat", "--model", tiny]
    told = json.loads(run(*words, "--json").out)
    assert (told["path"], told["prompt"]) == (str(pictures[0]), "a cat")
    assert run(*words).out.startswith(f"{told['score']:.4f}\t")


def test_every_prompt_is_compared(run: Any, tiny: Path, pictures: list[Path]) -> None:
    prompts = ["--prompt", "a cat", "--prompt", "a rocket"]
    result = run("score", *pictures, *prompts, "--model", tiny)
    assert [line.split("\t")[2] for line in result.lines] == ["a cat", "a rocket"] * 2


def test_clip_folder_can_be_the_model(run: Any, tiny: Path, pictures: list[Path]) -> None:
    words = ["score", *pictures, "--prompt", "a cat", "--model"]
    assert run(*words, tiny / "scorer").out == run(*words, tiny).out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.png", None, "There is no file"),
        ("text.png", b"no picture", "a picture"),
        ("cut.png", "half", "a picture"),
    ],
)
def test_file_that_is_no_picture_is_refused(
    run: Any, tiny: Path, pictures: list[Path], name: str, content: bytes | str | None, message: str
) -> None:
    path = pictures[0].with_name(name)
    if content is not None:
        whole = pictures[0].read_bytes()
        path.write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    result = run("score", pictures[0], path, "--prompt", "a cat", "--model", tiny)
    assert (result.code, result.out) == (1, "")
    assert message in result.err
    assert name in result.err


@pytest.mark.parametrize("words", [["--prompt", "a cat"], ["a.png"]])
def test_no_picture_or_no_prompt_is_refused(run: Any, tiny: Path, words: list[str]) -> None:
    result = run("score", *words, "--model", tiny)
    assert result.code == 2
    assert "There is nothing to score" in result.err


def test_model_without_scorer_is_refused(run: Any, tmp_path: Path, pictures: list[Path]) -> None:
    pipe = tiny_pipeline()
    pipe.transformer.save_pretrained(tmp_path / "alone")
    result = run("score", *pictures, "--prompt", "a cat", "--model", tmp_path / "alone")
    assert result.code == 1
    assert "has no scorer; name a CLIP model" in result.err


def test_photographs_are_scored_upright(run: Any, tiny: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = Image.linear_gradient("L")
    picture.save(tmp_path / "lying.jpg", exif=exif, quality=100)
    picture.save(tmp_path / "plain.jpg", quality=100)
    picture.rotate(-90).save(tmp_path / "turned.png")
    names = [tmp_path / name for name in ("lying.jpg", "turned.png", "plain.jpg")]
    lying, turned, plain = (
        float(line.split("\t")[0])
        for line in run("score", *names, "--model", tiny, "--prompt", "a red apple").lines
    )
    assert abs(lying - turned) < 0.1 * abs(plain - turned)
