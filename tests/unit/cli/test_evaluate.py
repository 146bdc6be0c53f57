"""`dallemini evaluate`: a report from a folder of pictures or a file of captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("efficientnet_lite_pytorch")

FEW = ["--captions", 3, "--references", 4, "--gallery", 3]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with captions."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for number, color in enumerate(("red", "green", "blue", "yellow")):
        Image.new("RGB", (40, 20), color).save(folder / f"{color}.png")
        rows.append({"image": f"{color}.png", "caption": f"a {color} bird", "size": number})
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.thorough
def test_a_folder_of_pictures_gives_a_report(
    run: Any, tiny: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report"
    result = run("evaluate", "--data", data, "--model", tiny, "--output", output, *FEW)
    assert (result.code, result.lines[-1]) == (0, str(output / "report.md"))
    assert result.lines[0].startswith("| of | measure | value |")
    assert "Frechet distance" in result.out
    assert "drawing: 100%" in result.err
    values = json.loads((output / "report.json").read_text("utf-8"))
    assert values["not_measured"] == {}
    assert (values["captions"], values["references"], values["data"]) == (3, 4, "data")


def test_a_text_file_is_captions(run: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a cat\na dog\n")
    words = ["--data", tmp_path / "captions.txt", "--model", tiny, "--output", tmp_path / "report"]
    result = run("evaluate", *words, "--top-k", 5, "--images-per-prompt", 2)
    assert result.code == 0
    assert "CLIP score" in result.out
    values = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert values["settings"]["top_k"] == 5
    assert "frechet" in values["not_measured"]


def test_quantization_is_measured(run: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a cat\na dog\n")
    reports = []
    for name in ("None", "int8"):
        words = ["--data", tmp_path / "captions.txt", "--model", tiny, "--output", tmp_path / name]
        assert run("evaluate", *words, "--quantization", name).code == 0
        reports.append(json.loads((tmp_path / name / "report.json").read_text("utf-8"))["drawn"])
    assert reports[0] != reports[1]


def test_filters_choose_the_records(run: Any, tiny: Path, data: Path, tmp_path: Path) -> None:
    words = ["--data", data, "--model", tiny, "--output", tmp_path, "--measure", "reconstruction"]
    result = run("evaluate", *words, "--where", "size >= 2", "--crop", "pad")
    assert result.code == 0
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["captions"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "missing.txt"], "There is no file missing.txt"),
        (["--data", "missing-folder"], "missing-folder"),
        (["--data", "{data}", "--caption-column", "title"], "title"),
        (["--data", "{data}", "--temperature", "0"], "temperature must be"),
        (["--data", "{data}", "--quantization", "int8", "--dtype", "float16"], "cannot be moved"),
        (["--data", "{data}", "--captions", "0"], "captions must be at least 1"),
        (["--data", "{data}", "--features", "pixels"], "no feature space 'pixels'"),
        (["--data", "{data}", "--gallery-column", "hue"], "no column 'hue'"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(
    run: Any, tiny: Path, data: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    words = [word.format(data=data) for word in words]
    result = run("evaluate", *words, "--model", tiny, "--output", tmp_path / "report")
    wrong_use = words[-2] in ("--captions", "--temperature", "--dtype", "--features")
    assert (result.code, result.out) == (1 + wrong_use, "")
    assert message in result.err
    assert "Traceback" not in result.err
