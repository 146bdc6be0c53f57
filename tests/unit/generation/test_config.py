"""The settings of a drawing: defaults, overrides, and every value that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dallemini import GenerationConfig
from dallemini.errors import ConfigError

MAX_SEED = 2**63 - 1


def test_defaults_are_those_of_the_released_models() -> None:
    assert GenerationConfig().to_dict() == {
        "num_images_per_prompt": 1,
        "guidance_scale": 10.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": None,
        "batch_size": "auto",
        "seed": None,
        "rank": False,
        "candidates": 1,
        "upscale": None,
        "width": None,
        "height": None,
        "tile": False,
        "lookahead": 8,
        "prune": False,
        "negative_prompt": None,
    }


def test_override_changes_a_copy() -> None:
    config = GenerationConfig(seed=1)
    assert config.override(top_k=None, guidance_scale=3) == GenerationConfig(
        seed=1, top_k=None, guidance_scale=3.0
    )
    assert config == GenerationConfig(seed=1)


def test_a_list_of_seeds_becomes_a_tuple() -> None:
    assert GenerationConfig().override(seed=[3, 1]).seed == (3, 1)


def test_rows_of_numbers_of_any_kind_are_seeds() -> None:
    wanted = (3, 4, 5)
    rows: list[Any] = [
        range(3, 6),
        np.arange(3, 6),
        torch.arange(3, 6),
        [np.int64(3), torch.tensor(4), 5],
    ]
    assert [GenerationConfig().override(seed=row).seed for row in rows] == [wanted] * 4
    assert GenerationConfig().override(seed=torch.tensor(7)).seed == 7
    with pytest.raises(ConfigError, match="seed must be int"):
        GenerationConfig().override(seed=np.array([0.5, 1.0]))


def test_settings_survive_json() -> None:
    config = GenerationConfig(seed=(1, 2), top_p=0.5, top_k=None, rank=True)
    assert GenerationConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("batch_size", [1, 64, "auto", None])
def test_batch_size_is_a_number_a_word_or_none(batch_size: Any) -> None:
    config = GenerationConfig().override(batch_size=batch_size)
    assert config.batch_size == batch_size
    assert GenerationConfig.from_dict(config.to_dict()) == config


def test_settings_of_older_files_are_read(tmp_path: Path) -> None:
    older = {**GenerationConfig(top_k=7).to_dict(), "batch_size": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(older), encoding="utf-8")
    assert GenerationConfig.from_file(tmp_path / "generation_config.json") == GenerationConfig(
        top_k=7, batch_size=None
    )


@pytest.mark.parametrize("seed", [0, MAX_SEED, (0, MAX_SEED), None])
def test_every_seed_of_63_bits_is_accepted(seed: Any) -> None:
    assert GenerationConfig(seed=seed).seed == seed


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *[
            (field, value, f"{field} must be at least 1, not {value}")
            for field in ("num_images_per_prompt", "top_k", "batch_size")
            for value in (0, -1)
        ],
        *[
            (field, value, rf"{field} must be int.*, not ")
            for field in ("num_images_per_prompt", "top_k", "batch_size")
            for value in (1.5, 2.0, True, "2", float("nan"), [1])
        ],
        ("num_images_per_prompt", None, "num_images_per_prompt must be int, not None"),
        ("top_k", 0, "use None for no limit"),
        ("batch_size", "automatic", r"batch_size must be int \| 'auto' \| None, not 'automatic'"),
        ("guidance_scale", float("nan"), "guidance_scale must be a finite number from 0, not nan"),
        ("guidance_scale", float("inf"), "guidance_scale must be a finite number from 0, not inf"),
        ("guidance_scale", -1, r"guidance_scale must be a finite number from 0, not -1\.0"),
        ("guidance_scale", "10", r"guidance_scale must be float \| .*a function, not '10'"),
        ("guidance_scale", None, "guidance_scale must be float.*, not None"),
        ("guidance_scale", True, "guidance_scale must be float.*, not True"),
        ("temperature", 0, r"temperature must be a finite number from 1e-6, not 0\.0; use top_k=1"),
        ("temperature", -1, "temperature must be a finite number from 1e-6"),
        ("temperature", 1e-30, "temperature must be a finite number from 1e-6, not 1e-30"),
        ("temperature", float("nan"), "temperature must be a finite number"),
        ("temperature", float("inf"), "temperature must be a finite number"),
        ("temperature", b"1", "temperature must be float, not b'1'"),
        ("top_p", 0, r"top_p must be above 0 and at most 1, not 0\.0"),
        ("top_p", 1.1, r"top_p must be above 0 and at most 1, not 1\.1"),
        ("top_p", -0.1, "top_p must be above 0"),
        ("top_p", float("nan"), "top_p must be above 0 and at most 1, not nan"),
        ("top_p", False, r"top_p must be float \| None, not False"),
        ("seed", -1, r"seed must be from 0 to 2\*\*63 - 1, not -1"),
        ("seed", MAX_SEED + 1, r"seed must be from 0 to 2\*\*63 - 1"),
        ("seed", (3, -1), r"seed must be from 0 to 2\*\*63 - 1, not -1"),
        ("seed", 1.0, r"seed must be int \| tuple.*, not 1\.0"),
        ("seed", "0", "seed must be int"),
        ("seed", True, "seed must be int"),
        ("seed", [0, None], "seed must be int"),
        ("seed", range(10**12), "seed must be int"),
        ("seed", range(-1, 2), "seed must be from 0"),
        ("rank", 1, r"rank must be bool \| one of 'scorer', 'likelihood', not 1"),
        ("rank", None, "rank must be bool.*, not None"),
        ("rank", "best", "rank must be bool.*, not 'best'"),
        ("prune", 1, "prune must be bool, not 1"),
    ],
)
def test_impossible_setting_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig(**{field: value})
    with pytest.raises(ConfigError, match=message):
        GenerationConfig().override(**{field: value})


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("topk", "top_k"), ("guidance", "guidance_scale"), ("num_images", "num_images_per_prompt")],
)
def test_unknown_keyword_suggests_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"no field '{typo}'. Did you mean '{meant}'?"):
        GenerationConfig().override(**{typo: 3})  # type: ignore[arg-type]
