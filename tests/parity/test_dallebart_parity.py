"""The transformer computes what DalleBart computes in Flax, from its own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dallemini.models.transformer import Transformer
from dallemini.text.tokenizer import TextTokens

Arrays = Mapping[str, npt.NDArray[Any]]

FOLDERS = {"dallebart-tiny-scan": 1, "dallebart-tiny-unscan": 4}
"""Folder, and every how manyth position of its logits was kept."""

EMPTY_PROMPT = 3  # in the full set: three prompts, then the empty one
SCALE = 10.0


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def arrays(fixtures: Path, folder: str) -> Arrays:
    with np.load(fixtures / folder / "vectors.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where every file is converted once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def transformer(fixtures: Path, folder: str, cache: Path) -> Transformer:
    return Transformer.from_pretrained(fixtures / folder / "model", cache_dir=cache)


def tokens(arrays: Arrays, rows: slice) -> TextTokens:
    return TextTokens(
        torch.from_numpy(arrays["input_ids"][rows].astype(np.int64)),
        torch.from_numpy(arrays["attention_mask"][rows].astype(bool)),
    )


def image_tokens(arrays: Arrays) -> Tensor:
    return torch.from_numpy(arrays["image_tokens"].astype(np.int64))


def unconditional(arrays: Arrays) -> TextTokens:
    """Return the empty prompt, the last row, once for every row of image tokens."""
    empty = tokens(arrays, slice(-1, None))
    rows = len(arrays["image_tokens"])
    return TextTokens(empty.input_ids.expand(rows, -1), empty.attention_mask.expand(rows, -1))


def assert_close(found: Tensor, expected: npt.NDArray[np.float32], atol: float = 2e-5) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=atol)


@torch.no_grad()
def test_encoder_states(transformer: Transformer, arrays: Arrays) -> None:
    found = transformer.encode(tokens(arrays, slice(None))).hidden_states
    assert_close(found, arrays["encoder_last_hidden_state"])


@torch.no_grad()
def test_encoder_states_of_prompts_alone(transformer: Transformer, arrays: Arrays) -> None:
    for row, expected in enumerate(arrays["encoder_last_hidden_state"]):
        whole = tokens(arrays, slice(row, row + 1))
        found = transformer.encode(whole.trim()).hidden_states[0]
        assert_close(found, expected[: len(found)])


def test_start_token_stands_before_the_image_tokens(
    transformer: Transformer, arrays: Arrays
) -> None:
    assert (arrays["decoder_input_ids"][:, 0] == transformer.config.decoder_start_token_id).all()
    np.testing.assert_array_equal(
        arrays["decoder_input_ids"][:, 1:], arrays["image_tokens"][:, :-1]
    )


@torch.no_grad()
def test_conditional_logits(transformer: Transformer, arrays: Arrays, folder: str) -> None:
    images = image_tokens(arrays)
    found = transformer(tokens(arrays, slice(len(images))), images)[:, :: FOLDERS[folder]]
    assert_close(found, arrays["logits_cond"])


@torch.no_grad()
def test_unconditional_logits(transformer: Transformer, arrays: Arrays, folder: str) -> None:
    found = transformer(unconditional(arrays), image_tokens(arrays))[:, :: FOLDERS[folder]]
    assert_close(found, arrays["logits_uncond"])


@torch.no_grad()
def test_guided_logits(transformer: Transformer, arrays: Arrays, folder: str) -> None:
    images = image_tokens(arrays)
    conditional = transformer(tokens(arrays, slice(len(images))), images)
    without = transformer(unconditional(arrays), images)
    guided = (without + SCALE * (conditional - without))[:, :: FOLDERS[folder]]
    assert_close(guided, arrays["logits_super"], atol=1e-4)  # guidance multiplies differences


@torch.no_grad()
def test_logits_of_the_cached_decoder(
    transformer: Transformer, arrays: Arrays, folder: str
) -> None:
    images, every = image_tokens(arrays), FOLDERS[folder]
    encoded = transformer.encode(tokens(arrays, slice(len(images))))
    cache = transformer.init_cache(encoded)
    previous = transformer.start_tokens(len(images))
    for position in range(33):
        found = transformer.decode_step(previous, cache)
        if position % every == 0:
            assert_close(found, arrays["logits_cond"][:, position // every])
        previous = images[:, position]


def test_fixture_has_the_prompts_that_are_spoken_of(arrays: Arrays, folder: str) -> None:
    expected = EMPTY_PROMPT + 1 if folder == "dallebart-tiny-scan" else 2
    assert len(arrays["input_ids"]) == expected
    assert arrays["attention_mask"][-1].sum() == 2  # <s></s>
