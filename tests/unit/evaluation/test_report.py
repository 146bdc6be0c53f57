"""The report as files: JSON that reads, a page whose links lead somewhere, pictures to look at."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from dallemini import Pipeline
from dallemini.data import CaptionedImage
from dallemini.errors import StorageError
from dallemini.evaluation import EvaluationConfig, EvaluationReport, FeatureSpace, evaluate
from dallemini.evaluation.pictures import FRAME_COLOR, PictureRow, show, strip
from dallemini.evaluation.report import _Line, _table, escape

CONFIG = EvaluationConfig(
    captions=5, references=10, gallery=3, images_per_prompt=2, pictures=4, gallery_column="style"
)


@pytest.fixture(scope="module")
def saved(
    pipe: Pipeline,
    pictures: list[CaptionedImage],
    space: FeatureSpace,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[EvaluationReport, Path]:
    folder = tmp_path_factory.mktemp("report") / "deep"
    report = evaluate(
        pipe, pictures, config=CONFIG, space=space, output=folder, name="a|b", progress=False
    )
    return report, folder


def test_json_holds_every_figure(saved: tuple[EvaluationReport, Path]) -> None:
    report, folder = saved
    values = json.loads((folder / "report.json").read_text("utf-8"))
    assert values == report.to_dict()
    assert values["drawn"][1]["selection"] == "best of 2"
    assert values["drawn"][0]["retrieval"]["first"]["count"] == 5
    assert values["reconstruction"]["codebook"]["size"] == 64
    assert EvaluationConfig.from_dict(values["config"]) == CONFIG
    assert "rows" not in values


def test_page_holds_the_table_and_its_links_lead_to_pictures(
    saved: tuple[EvaluationReport, Path],
) -> None:
    report, folder = saved
    page = (folder / "report.md").read_text("utf-8")
    assert report.table in page
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert len(links) == 5
    for link in links:
        with Image.open(folder / link) as picture:
            assert picture.mode == "RGB"
    assert len(list((folder / "images").iterdir())) == 5


def test_page_says_what_the_figures_mean(saved: tuple[EvaluationReport, Path]) -> None:
    page = saved[0].markdown
    for words in (
        "5 captions of a\\|b (seed 0 chose them)",
        "the distance of mosaic",
        "5 pictures cannot fill the covariance of 12 features",
        "with the same style",
        "Chance gives 33.3 % first",
        "flattered in the same score",
        "text gap",
    ):
        assert words.replace("the distance of", "those of") in page, words


def test_every_row_of_the_table_has_five_cells(saved: tuple[EvaluationReport, Path]) -> None:
    rows = saved[0].table.splitlines()
    assert len(rows) > 15
    assert {row.count("|") for row in rows} == {6}


def test_what_was_not_measured_is_named(pipe: Pipeline) -> None:
    page = evaluate(pipe, ["a cat"], config=CONFIG, progress=False).markdown
    assert "- frechet: the data are captions without pictures" in page
    assert "## Reconstructions" not in page


def test_captions_cannot_break_the_page(pipe: Pipeline, tmp_path: Path) -> None:
    caption = "a | <b>cat</b>\n[x](y) *z*"
    page = evaluate(pipe, [caption], config=CONFIG, output=tmp_path, progress=False).markdown
    assert r"| a \| \<b\>cat\</b\> \[x\]\(y\) \*z\* | ![drawn" in page


def testescape_leaves_plain_words_alone() -> None:
    assert escape("a red apple, 3d emoji") == "a red apple, 3d emoji"


def test_table_names_a_group_once() -> None:
    lines = [
        _Line("a", "x", "1", "", "2"),
        _Line("a", "y", "1", "", "2"),
        _Line("b", "x", "", "", ""),
    ]
    assert [row.split("|")[1].strip() for row in _table(lines).splitlines()[2:]] == ["a", "", "b"]


def test_a_second_report_takes_the_place_of_the_first(
    saved: tuple[EvaluationReport, Path], tmp_path: Path
) -> None:
    report, _ = saved
    report.save(tmp_path)
    assert report.save(tmp_path) == tmp_path / "report.md"


def test_a_place_that_cannot_be_written_is_refused(
    saved: tuple[EvaluationReport, Path], tmp_path: Path
) -> None:
    (tmp_path / "images").write_text("")
    with pytest.raises(StorageError, match=r"Could not make .*images"):
        saved[0].save(tmp_path)


def test_figures_that_are_no_numbers_do_not_get_into_json(
    saved: tuple[EvaluationReport, Path], tmp_path: Path
) -> None:
    broken = dataclasses.replace(saved[0], frechet_of_others=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.save(tmp_path)


@pytest.mark.parametrize(("side", "shown"), [(16, 96), (64, 128), (100, 100), (256, 160)])
def test_pictures_are_neither_tiny_nor_huge(side: int, shown: int) -> None:
    assert show(torch.rand(3, side, side)).size == (shown, shown)


def test_strip_frames_the_best() -> None:
    drawn = torch.zeros(3, 3, 100, 100)
    row = PictureRow(caption="", own=torch.ones(3, 100, 100), drawn=drawn, best=1)
    picture = strip(row)
    left = 3 + 100 + 18 + 106
    assert picture.getpixel((left - 1, 50)) == FRAME_COLOR
    assert picture.getpixel((left - 106 - 1, 50)) == (255, 255, 255)
    assert picture.getpixel((left + 50, 50)) == (0, 0, 0)
    assert picture.width == 6 + 118 + 3 * 106 - 6


def test_strip_shows_eight_at_most() -> None:
    assert strip(PictureRow(caption="", drawn=torch.zeros(30, 3, 100, 100))).width == 8 * 106
