"""From a prompt to 8-bit pixels as the original computes them, through the pipeline alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dallemini import VQGAN, Pipeline, Tokenizer, Transformer

Arrays = Mapping[str, npt.NDArray[Any]]
FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "e2e-tiny" / "model"

pytestmark = pytest.mark.usefixtures("clean_up")


@pytest.fixture(scope="module")
def clean_up() -> None:
    """One prompt holds an emoji and a dash, which the extra `text` reads."""
    for package in ("ftfy", "emoji", "unidecode"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    with np.load(FIXTURES / "e2e-tiny" / "vectors.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    manifest = json.loads((FIXTURES / "e2e-tiny" / "manifest.json").read_text(encoding="utf-8"))
    found: list[str] = manifest["prompts"]
    return found


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    cache = tmp_path_factory.mktemp("cache")
    words = FIXTURES / "normalizer" / "enwiki-words-frequency.txt"
    plain = Tokenizer.from_pretrained(MODEL)
    return Pipeline(
        tokenizer=Tokenizer(plain.backend, config=plain.config, word_frequencies=words),
        transformer=Transformer.from_pretrained(MODEL, cache_dir=cache),
        vqgan=VQGAN.from_pretrained(FIXTURES / "vqgan-jax-tiny" / "model", cache_dir=cache),
    )


def assert_same_pictures(images: list[Any], expected: npt.NDArray[np.uint8]) -> None:
    found = np.stack([np.asarray(image) for image in images])
    different = np.abs(found.astype(int) - expected.astype(int))
    assert different.max() <= 1  # truncation: the last digit of a float may decide
    assert (different > 0).mean() < 1e-3


def test_prompts_become_the_ids_of_the_original(
    pipe: Pipeline, arrays: Arrays, prompts: list[str]
) -> None:
    tokens = pipe.tokenizer(prompts)
    np.testing.assert_array_equal(tokens.input_ids.numpy(), arrays["input_ids"])
    np.testing.assert_array_equal(tokens.attention_mask.numpy(), arrays["attention_mask"])
    empty = pipe.tokenizer.unconditional(len(prompts))
    np.testing.assert_array_equal(empty.input_ids.numpy(), arrays["input_ids_uncond"])
    np.testing.assert_array_equal(empty.attention_mask.numpy(), arrays["attention_mask_uncond"])


def test_prompts_become_the_pictures_of_the_original(
    pipe: Pipeline, arrays: Arrays, prompts: list[str]
) -> None:
    out = pipe(prompts, top_k=1, guidance_scale=10.0, seed=0, progress=False)
    np.testing.assert_array_equal(out.image_tokens.numpy(), arrays["image_tokens"])
    np.testing.assert_array_equal(out.image_tokens.numpy(), arrays["sequences"][:, 1:])
    assert_same_pictures(out.images, arrays["uint8"])


@pytest.mark.slow_except("0")
@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_a_prompt_alone_becomes_the_same_picture(
    pipe: Pipeline, arrays: Arrays, prompts: list[str], prompt: int
) -> None:
    out = pipe(prompts[prompt], top_k=1, seed=5, progress=False)
    np.testing.assert_array_equal(out.image_tokens[0].numpy(), arrays["image_tokens"][prompt])
    assert_same_pictures(out.images, arrays["uint8"][prompt : prompt + 1])


@pytest.mark.slow
def test_a_saved_pipeline_draws_the_same_pictures(
    pipe: Pipeline, arrays: Arrays, prompts: list[str], tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    out = Pipeline.from_pretrained(tmp_path)(prompts, top_k=1, seed=0, progress=False)
    np.testing.assert_array_equal(out.image_tokens.numpy(), arrays["image_tokens"])
    assert_same_pictures(out.images, arrays["uint8"])
