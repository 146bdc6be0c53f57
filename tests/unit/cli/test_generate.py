"""`dallemini generate`: files, settings and bad input."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import GenerationConfig, Pipeline
from dallemini.sheets import CAPTION_HEIGHT, GRID_GAP
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
        assert grid.width == 3 * 16 + 2 * GRID_GAP
        assert grid.height == grid.width + CAPTION_HEIGHT  # the prompt


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


@pytest.mark.thorough
@pytest.mark.slow_except("auto", "1")
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
    assert result.err.startswith("dallemini: warning: prompt 'cat cat")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--top-k", 0], "--top-k must be at least 1, not 0; use none for no limit"),
        (["--top-k", "many"], "--top-k: 'many' is not a whole number; see dallemini generate"),
        (["--seed", "two"], "--seed: 'two' is not a whole number; see dallemini generate --help"),
        (["--temperature", "nan"], "temperature must be a finite number"),
        (["-n", -1], "--num-images must be at least 1, not -1"),
        (["--seed", -3], "seed must be from 0"),
        (["--seed", 1, "-s", 2], "1 picture needs 1 seed, one each, not 2"),
        (["--grid", "apple.txt"], "--grid must end in one of .png, .jpg, .jpeg"),
        (["--guidance-scale", "2:x"], "--guidance-scale: 'x' is not a number"),
        (["--guidance-scale", 1, "--negative-prompt", "red"], "--negative-prompt plays no part"),
        (["--device", "toaster"], "The device 'toaster' cannot be used here"),
        (
            ["--quantization", "int8", "--dtype", "float16"],
            "computes in torch.float32 on the CPU and cannot be moved to torch.float16",
        ),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_wrong_use_is_told_in_one_line_before_anything_is_drawn(
    run: Any, tiny: Path, given: list[object], message: str
) -> None:
    result = run("generate", "a cat", "--model", tiny, *given)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("dallemini: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert "class" not in result.err
    assert os.listdir() == []


def test_a_missing_model_is_no_wrong_use(run: Any) -> None:
    result = run("generate", "a cat", "--model", "./nothing")
    assert result.code == 1
    assert "There is no file or folder './nothing'" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], 'There is no prompt; try: dallemini generate "a red apple".'),
        (["a cat", " "], "Prompt 2 is empty; say in words what to draw."),
        (
            ["a", "red", "apple"],
            "These are 3 prompts of one word; put one prompt in quotes: "
            'dallemini generate "a red apple".',
        ),
        (["a cat", "--prompts", "-"], "Give prompts or --prompts, not both."),
    ],
)
def test_prompts_that_were_hardly_meant_are_refused(
    run: Any, words: list[str], message: str
) -> None:
    result = run("generate", *words)
    assert (result.code, result.out, result.err) == (2, "", f"dallemini: {message}\n")


def test_several_prompts_of_one_word_are_warned_of(run: Any, tiny: Path) -> None:
    result = run("generate", "red", "apple", "--model", tiny)
    assert (result.code, len(result.lines)) == (0, 2)
    assert "These are 2 prompts of one word, drawn one by one; for a single prompt" in result.err
    assert 'put it in quotes: dallemini generate "red apple".' in result.err
    assert "one word" not in run("generate", "red apple", "cat", "--model", tiny).err


FILES = {
    "prompts.txt": "a cat\n\n  a dog\n",
    "prompts.csv": 'id,prompt\n1,a cat\n2,"a dog"\n',
    "prompts.jsonl": '{"prompt": "a cat"}\n\n{"prompt": "a dog", "id": 2}\n',
}


def test_prompts_come_from_files_and_from_standard_input(
    run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["000000-a-cat.png", "000001-a-dog.png"]
    for name, text in FILES.items():
        Path(name).write_text(text, encoding="utf-8")
        words = ["generate", "--prompts", name, "--model", tiny, "-s", 1, "-o", name[8:]]
        assert run(*words).lines == [f"{name[8:]}/{path}" for path in wanted]
    for number, given in enumerate((["-"], ["--prompts-file", "-"])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a cat\r\na dog")))
        result = run("generate", *given, "--model", tiny, "--seed", 1, "-o", str(number))
        names = wanted if number else ["a-cat-1.png", "a-dog-2.png"]
        assert result.lines == [f"{number}/{path}" for path in names]


def test_a_table_of_prompts_may_be_parquet(run: Any, tiny: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra data")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"prompt": ["a cat"]}), "prompts.parquet")
    assert run("generate", "--prompts", "prompts.parquet", "--model", tiny, "-s", 1).lines == [
        "000000-a-cat.png"
    ]
    parquet.write_table(pyarrow.table({"text": ["a cat"]}), "other.parquet")
    result = run("generate", "--prompts", "other.parquet", "--model", tiny)
    assert "has no column 'prompt'; it has 'text'" in result.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "There is no prompt in a.txt"),
        ("a.txt", b"\xff\xfe", "a.txt is no text"),
        ("a.csv", b"text\na cat\n", "a.csv has no column 'prompt'; it has 'text'"),
        ("a.jsonl", b'{"prompt": "x"}\n{', "a.jsonl: line 2 is no JSON"),
        ("a.jsonl", b'{"text": "x"}', "a.jsonl: line 1 has no key 'prompt'"),
        ("a.parquet", b"PAR1", "a.parquet is no Parquet"),
        ("a.json", b'[{"prompt": "a cat"}]', "prompts are not read from .json files; give .txt"),
    ],
)
def test_files_without_prompts_are_refused(
    run: Any, name: str, content: bytes, message: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="needs the extra data")
    Path(name).write_bytes(content)
    result = run("generate", "--prompts", name)
    assert result.code == 2
    assert message in result.err


def test_json_tells_scripts_what_was_drawn(run: Any, tiny: Path) -> None:
    words = ["generate", "ein Bär", "-n", 2, "--rank", "--json", "-s", 4, "--model", tiny]
    result = run(*words, "-o", ".", "--grid", "all.png")
    first, second, grid = (json.loads(line) for line in result.lines)
    assert {first["seed"], second["seed"]} == {4, 5}
    assert first["score"] >= second["score"]
    assert (first["prompt"], first["model"]) == ("ein Bär", str(tiny))
    assert Path(first["path"]).is_file()
    assert grid == {"path": "all.png", "grid": True}


@pytest.mark.thorough
def test_pictures_are_saved_while_the_next_are_drawn(
    run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("generate", "a cat", "a dog", "-s", 1, "-n", 20, "--model", tiny, "-o", "whole")
    draw, calls = Pipeline.__call__, []

    def interrupted(self: Pipeline, *args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(self, *args, **settings)

    monkeypatch.setattr(Pipeline, "__call__", interrupted)
    result = run("generate", "a cat", "a dog", "-s", 1, "-n", 20, "--model", tiny, "-o", "part")
    assert (result.code, result.err) == (130, "dallemini: interrupted\n")
    assert len(result.lines) == len(os.listdir("part")) == 20
    for path, same in zip(result.lines, whole.lines, strict=False):
        assert Path(path).read_bytes() == Path(same).read_bytes()


def test_guidance_may_change_and_lead_away(run: Any, tiny: Path) -> None:
    given = ["--guidance-scale", "2:8", "--negative-prompt", "a dog", "--seed", 3]
    (path,) = run("generate", "a cat", "--model", tiny, *given).lines
    drawn = Pipeline.from_pretrained(tiny)(
        "a cat", guidance_scale=(2, 8), negative_prompt="a dog", seed=3
    )
    with Image.open(path) as image:
        assert image.tobytes() == drawn.images[0].tobytes()


def test_candidates_are_chosen_by_likelihood_and_pruned(run: Any, tiny: Path) -> None:
    given = ["--candidates", 4, "--prune", "--rank-by", "likelihood", "--seed", 3]
    (path,) = run("generate", "a cat", "--model", tiny, *given).lines
    drawn = Pipeline.from_pretrained(tiny)(
        "a cat", candidates=4, prune=True, rank="likelihood", seed=3
    )
    assert path == f"a-cat-{drawn.seeds[0]}.png"


@pytest.mark.thorough
def test_grids_are_numbered_on_and_hold_what_draws_them_again(run: Any, tiny: Path) -> None:
    words = ["generate", "a cat", "a dog", "-n", 2, "--model", tiny, "--grid", "all.png"]
    assert [run(*words).lines for _ in range(2)] == [["all.png"], ["all-2.png"]]
    again = run("redraw", "all.png", "--output", "again")
    assert again.code == 0, again.err
    assert len(again.lines) == 4
    with Image.open("all.png") as sheet, Image.open(again.lines[0]) as first:
        assert sheet.crop((0, 18, 16, 34)).tobytes() == first.convert("RGB").tobytes()


def test_file_in_place_of_the_output_folder_is_refused(run: Any, tiny: Path) -> None:
    Path("taken").write_text("")
    result = run("generate", "a cat", "--model", tiny, "--output", "taken")
    assert (result.code, result.out) == (1, "")
    assert "Could not make taken (File exists)" in result.err


def test_the_name_of_a_picture_is_no_output_folder(run: Any, tiny: Path) -> None:
    result = run("generate", "a cat", "--model", tiny, "--output", "apple.png")
    assert (result.code, result.out) == (2, "")
    assert "--output names a folder, not apple.png; for one file, use --grid" in result.err
    assert not Path("apple.png").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folder_is_refused(run: Any, tiny: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    result = run("generate", "a cat", "--model", tiny, "--output", "locked")
    assert "Could not write to locked" in result.err


def test_a_folder_of_the_name_of_the_grid_is_left_alone(run: Any, tiny: Path) -> None:
    Path("grid.png").mkdir()
    result = run("generate", "a cat", "--model", tiny, "--grid", "grid.png")
    assert result.lines == ["grid-2.png"]


def test_words_are_refused_where_that_is_asked_for(run: Any, tiny: Path) -> None:
    Path("words.txt").write_text("avocado\n", encoding="utf-8")
    command = ["generate", "an avocado", "--model", tiny, "--seed", 1]
    assert run(*command).code == 0
    result = run(*command, "--safety", "words", "--safety-words", "words.txt")
    assert (result.code, result.out) == (1, "")
    assert 'the word "avocado" (listed); ask in other words' in result.err
    words = ("--safety", "words", "--safety-action", "blank")
    result = run(*command, *words, "--safety-words", "words.txt", "--json")
    told = json.loads(result.out)
    assert (
        told["safety"] == chunks(told["path"])["safety"] == ('blank: the word "avocado" (listed)')
    )
    result = run(*command, "--safety-action", "blur")
    assert "There is nothing to check" in result.err


def test_pictures_are_checked_or_the_extra_is_named(
    run: Any, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = run("generate", "a cat", "--model", tiny, "--safety", "full")
    assert result.code == 2
    assert 'pip install ".[safety]"' in result.err
    result = run("generate", "a cat", "--model", tiny, "--safety", "auto", "--json")
    assert result.err.count("Only the words of prompts are checked") == 1
    assert json.loads(result.out)["safety"] is None
