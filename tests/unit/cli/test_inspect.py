"""`dallemini inspect` and `dallemini detect`, and the options that mark pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import Pipeline, Watermark


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("key.txt").write_text("my secret\n")


def test_the_key_of_a_file_marks_what_is_drawn(run: Any, tiny: Path) -> None:
    words = ["generate", "a cat", "--model", tiny, "--seed", 3, "--watermark-key-file", "key.txt"]
    (path,) = run(*words).lines
    drawn = Pipeline.from_pretrained(tiny)("a cat", seed=3, watermark=Watermark("my secret"))
    with Image.open(path) as image:
        assert image.tobytes() == drawn.images[0].tobytes()
        assert image.info["watermark"]


@pytest.mark.thorough
def test_detect_prints_each_picture_and_all_together(run: Any, tiny: Path) -> None:
    words = ["generate", "a cat", "--model", tiny, "--seed", 3, "--num-images", 2]
    paths = run(*words).lines
    command = ["detect", "--model", tiny, "--watermark-key-file", "key.txt", *paths]
    result = run(*command)
    assert result.code == 0, result.err
    rows = [line.split("\t") for line in result.lines]
    assert [row[-1] for row in rows] == [*paths, "all together"]
    assert all(0 < float(row[0]) <= 1 for row in rows)
    found = Pipeline.from_pretrained(tiny).detect(paths[0], Watermark("my secret"))
    assert rows[0][0] == f"{found.p_value:.3g}"
    assert rows[0][2:4] == [str(found.votes), str(found.tokens)]
    assert found.tokens == 16
    assert len(run(*command[:-1]).lines) == 1
    told = [json.loads(line) for line in run(*command, "--json").lines]
    assert [one["path"] for one in told] == [*paths, None]
    assert [f"{one['p_value']:.3g}" for one in told] == [row[0] for row in rows]
    assert [one["tokens"] for one in told] == [16, 16, 32]


def test_inspect_prints_every_layer(run: Any, tiny: Path) -> None:
    (path,) = run("generate", "a cat", "--model", tiny, "--seed", 3, "--grid", "g.jpg").lines
    told = run("inspect", path, "--model", tiny, "--watermark-key-file", "key.txt")
    assert told.code == 0, told.err
    assert told.lines[0] == "g.jpg"
    names = [line.split("  ")[1].strip() for line in told.lines[1:5]]
    assert names == ["texts", "source type", "watermark", "signature"]
    assert "trainedAlgorithmicMedia" in told.out
    assert "not found with this key" in told.out
    again = run("inspect", path, "--model", tiny, "--watermark-key-file", "key.txt", "--json")
    layers = json.loads(again.out)["layers"]
    assert [f"{one['name']:<12} {one['state']:<9} {one['detail']}" for one in layers] == [
        line.removeprefix("  ") for line in told.lines[1:5]
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect"], "There is no picture; try: dallemini inspect"),
        (["detect", "--watermark-key-file", "key.txt"], "There is no picture; try: dallemini det"),
        (["inspect", "key.txt"], "key.txt cannot be read as a picture"),
        (["generate", "a cat", "--watermark-key-file", "no.txt"], "There is no file no.txt"),
        (["generate", "a cat", "--watermark-key-file", "empty.txt"], "empty.txt is empty"),
        (["generate", "a cat", "--c2pa-key", "key.txt"], "Signing needs both --c2pa-certificate"),
    ],
)
def test_what_cannot_be_used_is_one_line(run: Any, words: list[str], message: str) -> None:
    Path("empty.txt").touch()
    result = run(*words)
    assert result.code == (1 if words == ["inspect", "key.txt"] else 2)  # 2: nothing was read
    assert message in result.err
