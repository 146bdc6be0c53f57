"""`dallemini train`: settings from flags, a file and both; what is refused; a whole run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dallemini import Pipeline
from dallemini.cli import train
from dallemini.errors import ConfigError, InputError, MissingFileError
from dallemini.training.log import read_log
from dallemini.training.recipes import TransformerTrainingConfig, VQGANTrainingConfig

Run = Callable[..., Any]  # the fixture `run` gives an exit code and what was printed

FILE = """
train_data: [a, b]
output: model
batch_size: 8
learning_rate: 1e-4
data:
  crop: random
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A file of settings without the number of steps."""
    path = tmp_path / "run.yaml"
    path.write_text(FILE)
    return path


def parsed(path: Path | None, *flags: str, kind: Any = TransformerTrainingConfig) -> Any:
    return train._parse(kind, flags, path, prog="dallemini train")


def test_flags_are_the_fields_of_the_configuration() -> None:
    flags = "--steps 5 --train-data a b --output c --no-progress --data.image-size 64 --prompts x y"
    assert parsed(None, *flags.split()).to_dict() == (
        TransformerTrainingConfig.from_dict(
            {
                **{"steps": 5, "train_data": ["a", "b"], "output": "c", "progress": False},
                **{"data": {"image_size": 64, "caption_dropout": 0.1}, "prompts": ["x", "y"]},
            }
        ).to_dict()
    )


def test_a_file_gives_the_defaults_of_the_flags(settings: Path) -> None:
    config = parsed(settings, "--steps", "3", "--batch-size", "16", "--data.mirror")
    assert (config.steps, config.batch_size, config.learning_rate) == (3, 16, 1e-4)
    assert config.train_data == ("a", "b")
    assert (config.data.crop, config.data.mirror) == ("random", True)


def test_json_is_read_as_well(tmp_path: Path) -> None:
    config = VQGANTrainingConfig(steps=3, train_data=("a",), output="b")
    config.save(tmp_path / "run.json")
    assert parsed(tmp_path / "run.json", kind=VQGANTrainingConfig) == config


@pytest.mark.parametrize("form", ["--config {}", "--config={}"])
def test_the_file_may_stand_anywhere(form: str, settings: Path) -> None:
    words = form.format(settings).split()
    assert train._take_config(["--steps", "3", *words, "--seed", "1"]) == (
        *(settings, ["--steps", "3", "--seed", "1"]),
    )


def test_the_steps_must_be_somewhere(run: Run, settings: Path) -> None:
    result = run("train", "clip", "--config", settings)
    assert result.code == 2
    assert "--steps" in result.err


def test_help_names_the_parts_and_their_options(run: Run) -> None:
    for words in (["--help"], ["-h"]):
        result = run("train", *words)
        assert result.code == 0
        assert "{vqgan,transformer,clip}" in result.out
    assert run("train").code == 2
    result = run("train", "vqgan", "--help")
    assert result.code == 0
    for option in ("--steps", "--train-data", "--loss.decoder-only", "--model.n-embed", "--run"):
        assert option in result.out
    assert "what is minimised" not in result.out
    assert "optimiser steps, over which the learning rate" in " ".join(result.out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("transformers", "no part 'transformers' to train; name one of vqgan, transformer, clip"),
        ("clip --config", "--config needs a file: --config run.yaml"),
        ("clip --config nowhere.yaml", "There is no file nowhere.yaml"),
        ("clip --steps 3", "CLIPTrainingConfig.train_data must be given"),
        ("clip --steps 3 --train-data nowhere --output {}/clip", "no file or folder 'nowhere'"),
        ("clip --steps 3 --train-data a --output b --device gpu", "Cannot compute on 'gpu'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    run: Run, tmp_path: Path, words: str, message: str
) -> None:
    result = run("train", *words.format(tmp_path).split())
    assert (result.code, result.out) == (2 if words in ("transformers", "clip --config") else 1, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words", ["--steps three", "--steps 3 --optimizer sgd", "--steps 0", "--stepz 3"]
)
def test_flags_that_mean_nothing_are_refused(run: Run, words: str) -> None:
    result = run("train", "clip", *words.split())
    assert (result.code, result.out) == (2, "")
    assert words.split()[-2].strip("-") in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1", "no field 'learning_rat'. Did you mean 'learning_rate'"),
        ("data: {croop: pad}", "data: DataConfig has no field 'croop'. Did you mean 'crop'"),
        ("steps: many", "steps must be int, not 'many'"),
        ("steps: [", "is not valid YAML"),
        ("- steps", "must hold names with values, not list"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=rf"wrong\.yaml.*{message}".replace("[", r"\[")):
        parsed(path, "--steps", "3")


def test_words_that_name_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no part 'gan'"):
        train.run(["gan"])
    with pytest.raises(InputError, match="--config needs a file"):
        train.run(["clip", "--config"])
    with pytest.raises(MissingFileError, match=r"nowhere\.yaml"):
        train.run(["clip", "--config=nowhere.yaml"])


@pytest.mark.thorough
def test_a_whole_run_from_a_file_and_flags(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # curves take longer than a run
    for name in ("red", "green", "blue"):
        Image.new("RGB", (20, 16), name).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"a {name} square")
    (tmp_path / "run.yaml").write_text(
        f"init_from: {tiny}\ntrain_data: [{tmp_path}]\noutput: {tmp_path}/tuned\nsteps: 9\n"
        "batch_size: 2\nwarmup_steps: 1\nlog_every: 1\nprogress: false\ndata: {min_side: 8}\n"
    )
    words = ["--config", tmp_path / "run.yaml", "--steps", 2, "--lora-rank", 2, "--device", "cpu"]
    result = run("train", "transformer", *words)
    assert result.code == 0, result.err
    assert [row["step"] for row in read_log(tmp_path / "tuned-run") if "loss" in row] == [1, 2]
    assert Pipeline.from_pretrained(tmp_path / "tuned")("a red square", progress=False).images
