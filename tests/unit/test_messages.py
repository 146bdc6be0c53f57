"""Whatever a file names, and however long the names are, a message stays short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini import hub
from dallemini.checkpoints.clip_openai import OpenAICLIP
from dallemini.data.config import DataConfig
from dallemini.data.filters import parse_filter
from dallemini.data.sources.arrow import open_table
from dallemini.data.sources.base import Fields, check_filters
from dallemini.errors import DalleMiniError, DalleMiniWarning
from dallemini.generation import GenerationConfig
from dallemini.hub.source import list_files
from dallemini.models.adapter_files import _pairs
from dallemini.models.adapters import AdapterUse
from dallemini.pipeline.metadata import PictureMetadata
from dallemini.pipeline.parts import INDEX_NAME, Parts
from dallemini.pipeline.redrawing import check_redrawing, warn_of_differences
from dallemini.text.vocabulary import read_text_settings

LONG = "x" * 1_000_000
MANY = [f"{number}{LONG}" for number in range(30)]


def told(**changes: object) -> PictureMetadata:
    return PictureMetadata(prompts=("a",), seeds=(0,), config=GenerationConfig(), **changes)  # type: ignore[arg-type]


def settings(folder: Path, values: object) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder / "config.json"


def index(folder: Path) -> object:
    (folder / INDEX_NAME).write_text(json.dumps({"tokenizer": LONG}))
    return Parts(hub.open(folder)).index


def table(folder: Path) -> object:
    (folder / "a.csv").write_text(f"image,caption,{LONG[:9000]},{LONG[:9000]}\n")
    return open_table(folder / "a.csv", DataConfig())


def several(folder: Path) -> object:
    for number in range(30):
        (folder / f"{number}{LONG[:200]}.pt").touch()
    return OpenAICLIP().detect(hub.open(folder))


CASES: dict[str, Callable[[Path], object]] = {
    "no picture": lambda _: Fields.choose(MANY, DataConfig(), name="a"),
    "no caption": lambda _: Fields.choose(["image", *MANY], DataConfig(), name="a"),
    "no such column": lambda _: Fields.choose(["a"], DataConfig(image_column=LONG), name="a"),
    "filter": lambda _: check_filters([parse_filter(f"{LONG} == 1")], MANY, name="a"),
    "columns of one name": table,
    "part": index,
    "component": lambda path: read_text_settings(settings(path, {"dallemini": LONG})),
    "model_type": lambda path: read_text_settings(settings(path, {"model_type": LONG})),
    "one matrix": lambda _: _pairs({f"{LONG}.a": torch.zeros(1)}, {".a": 0}, "there"),
    "several files": several,
    "sampler": lambda _: check_redrawing(told(sampler=LONG), "a.png", {}),
    "guidance": lambda _: check_redrawing(told(guidance=LONG), "a.png", {}),
    "edit": lambda _: check_redrawing(told(edit=dict.fromkeys(MANY, LONG)), "a.png", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_message_is_short_whatever_a_file_names(tmp_path: Path, case: str) -> None:
    with pytest.raises(DalleMiniError) as caught:
        CASES[case](tmp_path)
    assert "xxx" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_a_file_names_is_warned_of_briefly() -> None:
    now: dict[str, Any] = {"model": "m", "weights": "w", "adapters": ()}
    now |= {"precision": {"vqgan": "float32"}, "upscaler": None, "upscaler_weights": ""}
    uses = tuple(AdapterUse(digest=name, source=name) for name in MANY)
    for of_file in (
        told(model=LONG, weights="v"),
        told(precision={"vqgan": LONG}),
        told(adapters=uses, precision={"": LONG}),
    ):
        with pytest.warns(DalleMiniWarning, match="another picture") as caught:
            warn_of_differences(of_file, now, name="a.png")
        assert len(str(caught[0].message)) < 1000


def test_files_are_listed_briefly() -> None:
    assert len(list_files(MANY)) < 900
    assert list_files(["a", "b"]) == "a, b"
