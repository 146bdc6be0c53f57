"""An evaluation as a whole: figures that must come out, and parts that may be missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini import VQGAN, Pipeline
from dallemini.data import CaptionedImage
from dallemini.errors import ConfigError, InputError, InputTypeError, StorageError
from dallemini.evaluation import (
    EvaluationConfig,
    EvaluationReport,
    FeatureSpace,
    evaluate,
    picture_size,
    psnr,
    token_nats,
)
from dallemini.evaluation.passes import galleries
from dallemini.evaluation.reading import Asked
from dallemini.images import image_to_tensor
from dallemini.testing import TINY_VQGAN, tiny_pipeline, tiny_vqgan

SMALL = EvaluationConfig(captions=8, references=12, gallery=4, batch_size=5, pictures=3)


def figures(report: EvaluationReport) -> dict[str, Any]:
    return report.to_dict() | {"seconds": None, "config": None}


def chosen(count: int, *, seed: int = 0) -> list[int]:
    """The order in which records are chosen."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def report(pipe: Pipeline, pictures: list[CaptionedImage], space: FeatureSpace) -> EvaluationReport:
    """Everything measured, two pictures a caption."""
    config = dataclasses.replace(SMALL, images_per_prompt=2)
    return evaluate(pipe, pictures, config=config, space=space, progress=False)


def test_everything_is_measured_when_nothing_is_missing(report: EvaluationReport) -> None:
    assert report.not_measured == {}
    assert (report.captions, report.references, report.picture_size) == (8, 12, 16)
    assert [each.selection for each in report.drawn] == ["first seed", "best of 2"]
    for each in report.drawn:
        assert each.count == 8
        assert each.frechet is not None
        assert each.frechet > 0
        assert each.retrieval is not None
        assert (each.retrieval.gallery, each.retrieval.first.count) == (4, 8)
        assert each.score is not None
    assert report.own_score is not None
    assert report.reconstruction is not None
    assert report.reconstruction.frechet is not None
    assert report.reconstruction.retrieval is not None
    assert report.reconstruction.codebook.tokens == 8 * 16
    assert report.likelihood is not None


def test_the_best_of_several_has_the_higher_score(report: EvaluationReport) -> None:
    first, best = (each.score for each in report.drawn)
    assert first is not None
    assert best is not None
    assert best.value > first.value


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_figures(
    pipe: Pipeline,
    pictures: list[CaptionedImage],
    space: FeatureSpace,
    report: EvaluationReport,
) -> None:
    config = dataclasses.replace(SMALL, images_per_prompt=2)
    again = evaluate(pipe, pictures, config=config, space=space, progress=False)
    assert figures(again) == figures(report)
    config = dataclasses.replace(config, seed=1)
    other = evaluate(pipe, pictures, config=config, space=space, progress=False)
    assert other.drawn != report.drawn


def test_the_batch_size_changes_nothing(
    pipe: Pipeline,
    pictures: list[CaptionedImage],
    space: FeatureSpace,
    report: EvaluationReport,
) -> None:
    config = dataclasses.replace(SMALL, images_per_prompt=2, batch_size=64)
    other = evaluate(pipe, pictures, config=config, space=space, progress=False)
    for mine, its in zip(other.drawn, report.drawn, strict=True):
        assert mine.frechet == pytest.approx(its.frechet, rel=1e-4)
        assert mine.retrieval == its.retrieval
    assert other.reconstruction is not None
    assert report.reconstruction is not None
    assert other.reconstruction.codebook == report.reconstruction.codebook


def test_a_model_that_draws_the_pictures_themselves_is_perfect(
    pipe: Pipeline, space: FeatureSpace
) -> None:
    captions = [f"a {number} bird" for number in range(8)]
    drawn = pipe([captions[index] for index in chosen(8)], seed=0, progress=False).images
    of = dict(zip(chosen(8), drawn, strict=True))
    data = [
        CaptionedImage(key=text, image=image_to_tensor(of[index]), captions=(text,))
        for index, text in enumerate(captions)
    ]
    (found,) = evaluate(pipe, data, config=SMALL, space=space, progress=False).drawn
    assert found.frechet == pytest.approx(0.0, abs=1e-9)
    assert found.retrieval is not None
    assert found.retrieval.first.value == 1.0


def own_batch(pictures: list[CaptionedImage]) -> tuple[list[str], Tensor]:
    records = [pictures[index] for index in chosen(len(pictures))[: SMALL.captions]]
    return [record.captions[0] for record in records], torch.stack([r.image for r in records])


def test_reconstruction_is_that_of_the_vqgan(
    pipe: Pipeline, pictures: list[CaptionedImage], report: EvaluationReport
) -> None:
    _, images = own_batch(pictures)
    expected = psnr(images, pipe.vqgan.decode(pipe.vqgan.encode(images))).mean()
    assert report.reconstruction is not None
    assert report.reconstruction.psnr.value == pytest.approx(float(expected), abs=1e-3)


def test_likelihood_is_that_of_the_transformer(
    pipe: Pipeline, pictures: list[CaptionedImage], report: EvaluationReport
) -> None:
    texts, images = own_batch(pictures)
    tokens = pipe.vqgan.encode(images)
    with torch.no_grad():
        captioned = token_nats(pipe.transformer(pipe.tokenizer(texts), tokens), tokens).mean()
    found = report.likelihood
    assert found is not None
    assert found.captioned.value == pytest.approx(float(captioned), rel=1e-5)
    gap = found.blank.value - found.captioned.value
    assert found.text_gap.value == pytest.approx(gap, abs=1e-6)


def test_captions_alone_are_drawn_and_scored_and_the_rest_is_named(pipe: Pipeline) -> None:
    report = evaluate(pipe, ["a cat", "a dog"], config=SMALL, progress=False)
    (found,) = report.drawn
    assert found.score is not None
    assert (found.frechet, found.retrieval, report.references) == (None, None, 0)
    assert set(report.not_measured) == {"frechet", "retrieval", "reconstruction", "likelihood"}
    assert all("without pictures" in reason for reason in report.not_measured.values())


def test_without_a_scorer_one_picture_a_caption_is_drawn(
    pipe: Pipeline, pictures: list[CaptionedImage], space: FeatureSpace
) -> None:
    blind = Pipeline(tokenizer=pipe.tokenizer, transformer=pipe.transformer, vqgan=pipe.vqgan)
    config = dataclasses.replace(SMALL, images_per_prompt=4)
    report = evaluate(blind, pictures, config=config, space=space, progress=False)
    assert list(report.not_measured) == ["clip_score"]
    assert "has no scorer" in report.not_measured["clip_score"]
    (found,) = report.drawn
    assert found.score is None
    assert found.frechet is not None
    assert report.rows[0].drawn is not None
    assert len(report.rows[0].drawn) == 1
    assert "one picture a caption" in report.markdown


def with_vqgan(pipe: Pipeline, vqgan: VQGAN) -> Pipeline:
    return Pipeline(
        tokenizer=pipe.tokenizer,
        transformer=pipe.transformer,
        vqgan=vqgan,
        scorer=pipe.scorer,
    )


def test_a_vqgan_without_encoder_still_draws(
    pipe: Pipeline, pictures: list[CaptionedImage], space: FeatureSpace
) -> None:
    decoder = tiny_vqgan(dataclasses.replace(TINY_VQGAN, has_encoder=False))
    report = evaluate(
        with_vqgan(pipe, decoder), pictures, config=SMALL, space=space, progress=False
    )
    assert set(report.not_measured) == {"reconstruction", "likelihood"}
    assert "only the decoder" in report.not_measured["likelihood"]
    assert report.drawn[0].frechet is not None


class Finer(VQGAN):
    """Gives four times the tokens that it decodes."""

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images).repeat(1, 4)


def test_codes_of_another_length_have_no_likelihood(
    pipe: Pipeline, pictures: list[CaptionedImage], space: FeatureSpace
) -> None:
    config = dataclasses.replace(SMALL, measure=("likelihood",))
    finer = Finer.from_config(TINY_VQGAN, seed=0).eval()
    report = evaluate(with_vqgan(pipe, finer), pictures, config=config, progress=False)
    assert "64 tokens per picture, the transformer reads 16" in report.not_measured["likelihood"]


@pytest.mark.parametrize(
    ("measure", "drawn"), [("likelihood", 0), ("reconstruction", 0), ("samples", 1)]
)
def test_only_what_is_asked_for_is_measured(
    pipe: Pipeline, pictures: list[CaptionedImage], measure: Any, drawn: int
) -> None:
    config = dataclasses.replace(SMALL, measure=(measure,))
    report = evaluate(pipe, pictures, config=config, progress=False)
    assert len(report.not_measured) == 5
    assert report.not_measured["frechet"] == "it was not asked for"
    assert (report.likelihood is not None) == (measure == "likelihood")
    assert (report.reconstruction is not None) == (measure == "reconstruction")
    assert len(report.drawn) == drawn
    assert (report.rows[0].drawn is not None) == bool(drawn)
    assert report.feature_space is None


def test_too_few_pictures_are_named_as_the_reason(
    pipe: Pipeline, pictures: list[CaptionedImage], space: FeatureSpace
) -> None:
    report = evaluate(pipe, pictures[:1], config=SMALL, space=space, progress=False)
    assert report.not_measured == {
        "frechet": "it needs two captions with pictures",
        "retrieval": "no picture has a rival with another caption",
    }
    assert report.reconstruction is not None


def test_other_real_pictures_are_measured_when_there_are_as_many(
    pipe: Pipeline, pictures: list[CaptionedImage], space: FeatureSpace
) -> None:
    for captions, measured in ((6, True), (7, False)):
        config = dataclasses.replace(SMALL, captions=captions, measure=("frechet",))
        report = evaluate(pipe, pictures, config=config, space=space, progress=False)
        assert (report.frechet_of_others is not None) == measured


def test_settings_that_no_report_can_hold_are_refused(pipe: Pipeline) -> None:
    for settings in ({"guidance_scale": lambda share: 2.0}, {"negative_prompt": ["x"]}):
        changed: Any = settings
        with pytest.raises(InputError, match="A report needs a guidance_scale that is one number"):
            evaluate(pipe, ["a cat"], settings=pipe.config.override(**changed), progress=False)


def test_settings_change_the_drawing(pipe: Pipeline) -> None:
    config = dataclasses.replace(SMALL, measure=("clip_score",))
    greedy = [
        evaluate(
            pipe,
            ["a cat", "a dog"],
            config=dataclasses.replace(config, seed=seed),
            settings=pipe.config.override(top_k=1),
            progress=False,
        )
        for seed in (3, 17)
    ]
    assert greedy[0].settings["top_k"] == 1
    scores = [[each.score.value for each in report.drawn if each.score] for report in greedy]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_bars_show_on_request_only(pipe: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(pipe, ["a cat"], config=SMALL, progress=False)
    assert capsys.readouterr() == ("", "")
    evaluate(pipe, ["a cat"], config=SMALL, progress=True)
    assert "drawing: 100%" in capsys.readouterr().err


def test_gradients_are_on_again_afterwards(pipe: Pipeline) -> None:
    evaluate(pipe, ["a cat"], config=SMALL, progress=False)
    assert torch.is_grad_enabled()


def test_a_single_string_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(InputTypeError, match="not one string"):
        evaluate(pipe, "captions.txt")


def test_nothing_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(InputError, match="hold no caption"):
        evaluate(pipe, [])


def test_a_folder_that_cannot_be_made_is_refused_before_drawing(
    pipe: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Could not make"):
        evaluate(pipe, ["a cat"], output=tmp_path / "file" / "report")


@pytest.mark.parametrize(
    "values",
    [
        {"captions": 0},
        {"images_per_prompt": 0},
        {"gallery": 1},
        {"batch_size": 0},
        {"pictures": -1},
        {"seed": -1},
        {"measure": ()},
        {"measure": ("beauty",)},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        EvaluationConfig.from_dict(values)


def test_settings_survive_their_file() -> None:
    assert EvaluationConfig.from_dict(SMALL.to_dict()) == SMALL


def test_picture_size_is_that_of_the_drawings(pipe: Pipeline) -> None:
    assert picture_size(pipe) == pipe("a cat", seed=0, progress=False).images[0].width


def ask(*captions: str, group: str = "") -> Asked:
    return Asked(caption=captions[0], captions=frozenset(captions), group=group)


def test_a_gallery_holds_its_own_picture_first_and_no_other_with_its_captions() -> None:
    asked = [ask("cat", "pet"), ask("dog", "pet"), ask("cat"), ask("bird"), ask("fish")]
    found = galleries(asked, captions=2, size=10, seed=0)
    assert [int(rows[0]) for rows in found] == [0, 1]
    assert [set(rows[1:].tolist()) for rows in found] == [{3, 4}, {2, 3, 4}]


def test_a_gallery_stays_within_its_group_and_size() -> None:
    asked = [ask(str(number), group="ab"[number % 2]) for number in range(40)]
    for own, rows in enumerate(galleries(asked, captions=40, size=6, seed=0)):
        assert len(rows) == len(set(rows.tolist())) == 6
        assert {int(row) % 2 for row in rows} == {own % 2}


def test_the_bundled_kind_of_pipeline_is_left_as_it_was(pictures: list[CaptionedImage]) -> None:
    pipe = tiny_pipeline()
    before = pipe.config
    evaluate(pipe, ["a cat"], config=SMALL, progress=False)
    assert pipe.config is before
