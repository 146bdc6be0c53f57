"""`dallemini audit`: from prompts in YAML to a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROMPTS = """
templates: ["a photo of {}"]
neutral: ["a person"]
attributes:
  occupations: ["a nurse", "a cook"]
questions:
  gender:
    answers:
      woman: ["a woman"]
      man: ["a man"]
"""


def test_prompts_give_a_report(run: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(PROMPTS, encoding="utf-8")
    words = ["--prompts", tmp_path / "my.yaml", "--output", tmp_path / "report", "--count", 3]
    result = run("audit", tiny, *words, "--confidence", 0.5)
    assert (result.code, result.lines[-1]) == (0, str(tmp_path / "report" / "report.md"))
    assert result.lines[0].startswith("| asked for | woman | man | uncertain |")
    values = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert values["questions"][0]["asked"]["pictures"] == 6


def test_wrong_prompts_are_told_before_anything_is_loaded(run: Any, tmp_path: Path) -> None:
    result = run("audit", "nowhere/at-all", "--prompts", "jobs", "--output", tmp_path / "report")
    assert result.code == 1
    assert "the sets are foods, occupations, places, traits" in result.err


def test_a_folder_without_labelled_pictures_is_told(run: Any, tmp_path: Path) -> None:
    result = run("audit", "--labelled", tmp_path, "--output", tmp_path / "report")
    assert result.code == 1
    assert "QUESTION/ANSWER" in result.err
