"""`dallemini generate`: files, settings and bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import GenerationConfig, Pipeline
from dallemini.testing import tiny_pipeline


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def chunks(path: str) -> dict[str, str]:
    with Image.open(path) as image:
        return {str(key): value for key, value in image.info.items() if isinstance(value, str)}


def test_pictures_go_to_the_current_folder(run: Any, tiny: Path) -> None:
    result = run("generate", "a red apple", "--model", tiny, "--seed", 7)
    assert (result.code, result.lines) == (0, ["a-red-apple-7.png"])
    assert chunks("a-red-apple-7.png")["prompt"] == "a red apple"


def test_grid_alone_writes_one_file(run: Any, tiny: Path) -> None:
    command = ["generate", "a red apple", "--num-images", 9, "--grid", "apple.png"]
    result = run(*command, "--model", tiny)
    assert (result.code, result.lines) == (0, ["apple.png"])
    assert os.listdir() == ["apple.png"]
    with Image.open("apple.png") as grid:
        assert grid.width == grid.height > 3 * 16


def test_output_and_grid_are_both_written_into_new_folders(run: Any, tiny: Path) -> None:
    command = ["generate", "a cat", "--output", "out/cats", "--grid", "grids/cat.jpg", "--seed", 1]
    result = run(*command, "--model", tiny)
    assert result.lines == ["out/cats/a-cat-1.png", "grids/cat.jpg"]
    assert all(Path(line).is_file() for line in result.lines)


def test_several_prompts_are_drawn(run: Any, tiny: Path) -> None:
    result = run("generate", "a cat", "a dog", "--model", tiny, "--num-images", 2, "--seed", 5)
    assert result.lines == ["a-cat-5.png", "a-cat-6.png", "a-dog-7.png", "a-dog-8.png"]


def test_prompt_may_follow_the_options(run: Any, tiny: Path) -> None:
    assert run("generate", "--seed", 3, "--model", tiny, "a cat").lines == ["a-cat-3.png"]


def test_repeated_seed_is_one_for_each_picture(run: Any, tiny: Path) -> None:
    result = run("generate", "a cat", "a dog", "--model", tiny, "--seed", 9, "--seed", 4)
    assert result.lines == ["a-cat-9.png", "a-dog-4.png"]


def test_every_setting_reaches_the_drawing(run: Any, tiny: Path) -> None:
    given = ["--guidance-scale", 2.5, "--temperature", 0.5, "--top-k", 7, "--top-p", 0.9]
    given += ["--batch-size", 1, "--rank", "--num-images-per-prompt", 2, "--seed", 1]
    result = run("generate", "a cat", "--model", tiny, *given)
    written = chunks(result.lines[0])
    assert "score" in written
    config = json.loads(written["config"])
    assert (config["guidance_scale"], config["temperature"]) == (2.5, 0.5)
    assert (config["top_k"], config["top_p"]) == (7, 0.9)


def test_same_seed_draws_what_the_pipeline_draws(run: Any, tiny: Path) -> None:
    (path,) = run("generate", "a cat", "--model", tiny, "--seed", 3).lines
    drawn = Pipeline.from_pretrained(tiny)("a cat", seed=3).images[0]
    with Image.open(path) as image:
        assert image.tobytes() == drawn.tobytes()


def test_settings_not_given_are_those_of_the_model(run: Any, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.config = GenerationConfig(top_k=3, guidance_scale=1.5, seed=8)
    pipe.save_pretrained(tmp_path / "own")
    (path,) = run("generate", "a cat", "--model", tmp_path / "own", "--top-k", "None").lines
    assert path == "a-cat-8.png"
    config = json.loads(chunks(path)["config"])
    assert (config["top_k"], config["guidance_scale"]) == (None, 1.5)


def test_dtype_is_used(run: Any, tiny: Path) -> None:
    assert run("generate", "a cat", "--model", tiny, "--dtype", "bfloat16").code == 0


def test_quantization_is_used(run: Any, tiny: Path) -> None:
    words = ["generate", "a cat", "--model", tiny, "--seed", 3]
    (path,) = run(*words, "--quantization", "int8").lines
    drawn = Pipeline.from_pretrained(tiny, quantization="int8")("a cat", seed=3).images[0]
    with Image.open(path) as image:
        assert image.tobytes() == drawn.tobytes()
    (plain,) = run(*words, "--output", "plain", "--quantization", "None").lines
    with Image.open(plain) as image:
        assert image.tobytes() != drawn.tobytes()


@pytest.mark.parametrize("batch_size", [1, 2, "auto", "None"])
def test_batch_size_changes_no_picture(run: Any, tiny: Path, batch_size: object) -> None:
    words = ["generate", "a cat", "--model", tiny, "--seed", 3, "--num-images", 3]
    pictures = []
    for folder, given in (("one", []), ("other", ["--batch-size", batch_size])):
        result = run(*words, "--output", folder, *given)
        assert result.code == 0, result.err
        pictures.append([Path(path).read_bytes() for path in result.lines])
    assert pictures[0] == pictures[1]


def test_long_prompt_is_one_line_of_warning(run: Any, tiny: Path) -> None:
    result = run("generate", "cat " * 99, "--model", tiny, "--seed", 1)
    assert result.code == 0
    assert result.err.startswith("dallemini: warning: prompts[0] ('cat cat")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--top-k", 0], "top_k must be at least 1, not 0"),
        (["--temperature", "nan"], "temperature must be a finite number"),
        (["--num-images", -1], "num_images_per_prompt must be at least 1, not -1"),
        (["--seed", -3], "seed must be from 0"),
        (["--grid", "apple.txt"], "--grid must end in one of .png, .jpg, .jpeg"),
        (["--device", "toaster"], "The device 'toaster' cannot be used here"),
        (
            ["--quantization", "int8", "--dtype", "float16"],
            "computes in torch.float32 on the CPU and cannot be moved to torch.float16",
        ),
        (["--model", "./nothing"], "There is no file or folder './nothing'"),
    ],
)
def test_bad_option_fails_before_anything_is_drawn(
    run: Any, tiny: Path, given: list[object], message: str
) -> None:
    result = run("generate", "a cat", "--model", tiny, *given)
    assert result.code == 1
    assert result.err.startswith("dallemini: ")
    assert message in result.err
    assert os.listdir() == []


def test_no_prompt_is_refused(run: Any) -> None:
    result = run("generate")
    assert (result.code, result.out) == (1, "")
    assert result.err == ('dallemini: There is no prompt; try: dallemini generate "a red apple".\n')


def test_seeds_that_do_not_match_the_pictures_are_refused(run: Any, tiny: Path) -> None:
    result = run("generate", "a cat", "--model", tiny, "--seed", 1, "--seed", 2)
    assert result.code == 1
    assert "1 pictures need 1 seeds" in result.err


def test_file_in_place_of_the_output_folder_is_refused(run: Any, tiny: Path) -> None:
    Path("taken").write_text("")
    result = run("generate", "a cat", "--model", tiny, "--output", "taken")
    assert (result.code, result.out) == (1, "")
    assert "Could not make taken (File exists)" in result.err


def test_the_name_of_a_picture_is_no_output_folder(run: Any, tiny: Path) -> None:
    result = run("generate", "a cat", "--model", tiny, "--output", "apple.png")
    assert (result.code, result.out) == (1, "")
    assert "--output names a folder, not apple.png; for one file, use --grid" in result.err
    assert not Path("apple.png").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folder_is_refused(run: Any, tiny: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    result = run("generate", "a cat", "--model", tiny, "--output", "locked")
    assert "Could not write to locked" in result.err


def test_folder_in_place_of_the_grid_is_refused(run: Any, tiny: Path) -> None:
    Path("grid.png").mkdir()
    result = run("generate", "a cat", "--model", tiny, "--grid", "grid.png")
    assert result.code == 1
    assert "Could not write grid.png" in result.err
