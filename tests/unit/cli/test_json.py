"""`--json`: every command that prints a result can print it for a program."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from dallemini.cli.app import _COMMANDS, _load
from dallemini.cli.calling import CallOptions
from dallemini.testing import tiny_transformer

NONE = {"app", "serve", "train"}  # they run until they are stopped, and log


def test_every_command_with_a_result_has_json() -> None:
    for name in _COMMANDS.keys() - NONE:
        names = {field.name for field in dataclasses.fields(_load(name))}
        if "call" in names:
            names |= {field.name for field in dataclasses.fields(CallOptions)}
        assert "json" in names, name


def test_info_tells_each_part(run: Any, tiny: Path) -> None:
    told = json.loads(run("info", tiny, "--json").out)
    assert (told["source"], told["commit"]) == (str(tiny), None)
    found = told["parts"]["transformer"]
    assert found["format"] == "native"
    parameters = [*tiny_transformer().parameters()]
    assert found["parameters"] == sum(one.numel() for one in parameters)
    assert found["bytes"] >= 4 * found["parameters"]
    assert found["config"]["image_length"] == math.prod(tiny_transformer().config.grid)
    assert told["parts"]["tokenizer"]["vocabulary"] > 0


def test_words_are_lists(run: Any, tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "knowing")
    knowledge = {"concepts": ["kite"], "styles": ["flat"], "words": ["kite"]}
    (copy / "tokenizer" / "knowledge.json").write_text(json.dumps(knowledge))
    told = json.loads(run("info", copy, "--words", "--json").out)
    assert told == {"concepts": ["kite"], "styles": ["flat"], "control": []}


def test_converted_and_released_files_are_told_one_a_line(
    run: Any, tiny: Path, tmp_path: Path
) -> None:
    (line,) = run("convert", tiny / "vqgan", tmp_path / "vqgan", "--json").lines
    assert json.loads(line) == {"path": str(tmp_path / "vqgan")}
    copy = shutil.copytree(tiny, tmp_path / "copy")
    written = [json.loads(line)["path"] for line in run("release", copy, "--json").lines]
    assert str(copy / "README.md") in written
    assert json.loads(run("release", copy, "--check", "--json").out)["files"] > len(written)


def test_data_and_encode_tell_counts(run: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(3):
        Image.new("RGB", (24, 16), (90 * number, 0, 0)).save(tmp_path / f"set/{number}.png")
        (tmp_path / f"set/{number}.txt").write_text("a picture " + "of a house " * 99 * number)
    (tmp_path / "set" / "page.png").write_bytes(b"<html>")
    told = json.loads(run("data", tmp_path / "set", "--model", tiny, "--json").out)
    assert (told["records"], told["usable"], told["sizes"]) == (4, 3, {"24x16": 3})
    assert [*told["bad"].values()] == [["page.png"]]
    assert told["too_long_captions"] == 2
    words = ["--data", tmp_path / "set", "--output", tmp_path / "tokens", "--model", tiny]
    told = json.loads(run("encode", *words, "--json").out)
    assert (told["rank"], told["images"], told["shards"], told["skipped_shards"]) == (0, 3, 1, 0)
