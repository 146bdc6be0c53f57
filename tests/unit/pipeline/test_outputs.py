"""Pictures: grids, the best ones, files that draw themselves again, notebooks."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dallemini import GenerationConfig, GenerationOutput, GenerationStep, Pipeline, __version__
from dallemini.errors import InputError, InputTypeError, StorageError
from dallemini.sheets import make_grid
from dallemini.testing import tiny_pipeline

COLOURS = ["red", "green", "blue", "yellow", "black", "purple"]


def output(**changes: Any) -> GenerationOutput:
    """Six pictures of one colour each, of two prompts."""
    values: dict[str, Any] = {
        "prompts": ("a red apple", "a blue bird"),
        "images": [Image.new("RGB", (8, 6), colour) for colour in COLOURS],
        "image_tokens": torch.zeros(6, 4, dtype=torch.int64),
        "seeds": tuple(range(10, 16)),
        "config": GenerationConfig(num_images_per_prompt=3, seed=10, batch_size=2),
        **changes,
    }
    return GenerationOutput(**values)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def test_pictures_belong_to_prompts_in_order() -> None:
    out = output()
    assert out.images_per_prompt == 3
    assert [out.prompt_of(index) for index in range(6)] == ["a red apple"] * 3 + ["a blue bird"] * 3


def test_pictures_are_counted_from_the_end_too() -> None:
    out = output()
    assert [out.prompt_of(index) for index in (-1, -3, -4, -6)] == [
        *("a blue bird", "a blue bird", "a red apple", "a red apple")
    ]
    assert out.metadata(-1) == out.metadata(5)


@pytest.mark.parametrize("index", [6, -7, 10**9])
def test_a_picture_that_there_is_not_is_refused(index: int) -> None:
    for ask in (output().prompt_of, output().metadata):
        with pytest.raises(InputError, match=f"There is no picture {index} among these 6"):
            ask(index)


@pytest.mark.parametrize("index", ["0", 1.5, None, [0]])
def test_a_picture_is_numbered_by_a_whole_number(index: Any) -> None:
    for ask in (output().prompt_of, output().metadata):
        with pytest.raises(InputTypeError, match="A picture is numbered by a whole number, not "):
            ask(index)


def test_results_are_frozen_and_compared_by_identity() -> None:
    out = output()
    assert out == out
    assert out != output()
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        out.seeds = ()  # type: ignore[misc]


def test_grid_has_one_row_a_prompt() -> None:
    sheet = output().grid()
    assert sheet.size == (3 * 8 + 2 * 4, 2 * 6 + 4)
    assert sheet.getpixel((0, 0)) == (255, 0, 0)
    assert sheet.getpixel((12, 0)) == (0, 128, 0)
    assert sheet.getpixel((0, 10)) == (255, 255, 0)
    assert sheet.getpixel((9, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_grid_of_one_prompt_is_nearly_square(count: int, columns: int) -> None:
    images = [Image.new("RGB", (8, 8))] * count
    out = output(prompts=("a",), images=images, seeds=tuple(range(count)))
    assert out.grid().width == columns * 12 - 4


@pytest.mark.parametrize(("columns", "width"), [(1, 8), (2, 20), (6, 68), (100, 68)])
def test_grid_takes_the_columns_asked_for(columns: int, width: int) -> None:
    assert output().grid(columns=columns).width == width


def test_grid_makes_room_for_the_largest_picture() -> None:
    sheet = make_grid([Image.new("RGB", (2, 9)), Image.new("RGB", (7, 3))], columns=2)
    assert sheet.size == (18, 9)


@pytest.mark.parametrize("columns", [0, -1])
def test_grid_refuses_no_columns(columns: int) -> None:
    with pytest.raises(InputError, match=f"at least one column, not {columns}"):
        output().grid(columns=columns)


def test_grid_refuses_no_pictures() -> None:
    with pytest.raises(InputError, match="A grid needs pictures"):
        make_grid([], columns=2)


@pytest.mark.parametrize("columns", [1.5, "2", True, float("nan"), [3]])
def test_grid_refuses_what_is_no_number_of_columns(columns: Any) -> None:
    with pytest.raises(InputTypeError, match="columns must be a whole number, not "):
        output().grid(columns=columns)


def test_best_takes_the_highest_score_of_each_prompt() -> None:
    out = output(scores=(0.0, 2.0, 1.0, -3.0, -2.0, -1.0))
    assert [image.getpixel((0, 0)) for image in out.best()] == [(0, 128, 0), (128, 0, 128)]


def test_best_refuses_pictures_without_scores() -> None:
    with pytest.raises(InputError, match="no scores; draw them with rank=True"):
        output().best()


def test_files_are_named_by_prompt_and_seed(tmp_path: Path) -> None:
    paths = output().save(tmp_path / "new" / "folder")
    assert paths[0] == tmp_path / "new" / "folder" / "a-red-apple-10.png"
    assert [path.name for path in paths[3:]] == [f"a-blue-bird-{seed}.png" for seed in (13, 14, 15)]
    assert all(path.exists() for path in paths)


def test_files_are_never_overwritten(tmp_path: Path) -> None:
    first, second = output().save(tmp_path), output().save(str(tmp_path))
    assert second[0].name == "a-red-apple-10-2.png"
    assert not set(first) & set(second)
    same = output(seeds=(7,) * 6).save(tmp_path / "same")
    assert len(set(same)) == 6


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("", "picture"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\x|y?*", "c-x-y"),
        ("Ein Bär, ВЕЛИК!", "ein-bär-велик"),
        ("a" * 300, "a" * 60),
        ("猫" * 300, "猫" * 60),
        ("𠮷" * 300, "𠮷" * 45),
        ("🍎", "picture"),
        ("a\x00b\nc", "a-b-c"),
        ("half \ud800", "half"),
    ],
)
def test_any_prompt_becomes_a_file_that_keeps_it(tmp_path: Path, prompt: str, name: str) -> None:
    image = Image.new("RGB", (2, 2))
    (path,) = output(prompts=(prompt,), images=[image], seeds=(2**63 - 1,)).save(tmp_path)
    assert path.parent == tmp_path
    assert path.name == f"{name}-{2**63 - 1}.png"
    with Image.open(path) as found:
        assert found.text["prompt"] == prompt.replace("\ud800", "?")  # type: ignore[attr-defined]


def test_file_tells_how_it_was_drawn(tmp_path: Path) -> None:
    path = output(scores=(1.23456,) * 6, model="tiny@1234").save(tmp_path)[4]
    with Image.open(path) as image:
        chunks: dict[str, str] = image.text  # type: ignore[attr-defined]
    config = chunks.pop("config")
    assert "trainedAlgorithmicMedia" in chunks.pop("XML:com.adobe.xmp")
    assert chunks == {
        "prompt": "a blue bird",
        "seed": "14",
        "model": "tiny@1234",
        "version": __version__,
        "score": "1.2346",
    }
    assert GenerationConfig.from_dict(json.loads(config)) == GenerationConfig(seed=14)


@pytest.mark.thorough
def test_file_draws_itself_again(pipe: Pipeline, tmp_path: Path) -> None:
    out = pipe(
        ["a red apple", "a blue bird"],
        num_images_per_prompt=3,
        seed=[5, 3, 8, 1, 9, 2],
        guidance_scale=4.0,
        top_k=20,
        batch_size=4,
        rank=True,
        progress=False,
    )
    for index, path in enumerate(out.save(tmp_path)):
        with Image.open(path) as image:
            chunks: dict[str, str] = image.text  # type: ignore[attr-defined]
            pixels = np.asarray(image)
        settings = json.loads(chunks["config"])
        again = pipe(chunks["prompt"], progress=False, **settings)
        assert np.array_equal(np.asarray(again.images[0]), pixels)
        assert np.array_equal(pixels, np.asarray(out.images[index]))


@pytest.mark.parametrize("below", [True, False])
def test_save_to_a_file_is_refused(tmp_path: Path, below: bool) -> None:
    (tmp_path / "file").write_text("mine")
    target = tmp_path / "file" / "folder" if below else tmp_path / "file"
    with pytest.raises(StorageError, match=rf"Could not make {re.escape(str(target))}"):
        output().save(target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("directory", [None, 3, b"folder", ["folder"], True])
def test_save_refuses_what_names_no_folder(directory: Any) -> None:
    with pytest.raises(InputTypeError, match="folder is named by a string or a path, not "):
        output().save(directory)


@pytest.mark.parametrize("name", ["apple.png", "apple.JPG", "new/apple.webp"])
def test_save_refuses_the_name_of_a_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = rf"save\(\) needs a folder .*, not {name}\. For one file, call images\[0\]\.save\('"
    with pytest.raises(InputError, match=told):
        output().save(name)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder.png").mkdir()
    assert len(output().save("folder.png")) == len(output().images)


def test_save_knows_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert {path.parent for path in output().save("~/pictures")} == {tmp_path / "pictures"}


def test_notebook_shows_the_grid_with_labels_as_png() -> None:
    with Image.open(io.BytesIO(output()._repr_png_())) as image:
        assert image.size == output().grid(labels=True).size


@pytest.mark.parametrize(("position", "finished"), [(1, False), (15, False), (16, True)])
def test_step_knows_whether_it_is_finished(position: int, finished: bool) -> None:
    step = GenerationStep(
        prompts=("a",),
        images=[],
        image_tokens=torch.zeros(1, position, dtype=torch.int64),
        seeds=(0,),
        position=position,
        length=16,
        first_image=0,
    )
    assert step.finished is finished
