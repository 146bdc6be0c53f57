"""Token ids equal those of BartTokenizerFast and of the original's processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dallemini.text.tokenizer import TextTokens, Tokenizer, TokenizerConfig

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).parents[1] / "fixtures" / "tokenizer"


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    with np.load(folder / "ids.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text("utf-8")))


def _assert_equal(tokens: TextTokens, arrays: Arrays, kind: str, suffix: str = "") -> None:
    expected_ids = arrays[f"{kind}input_ids{suffix}"]
    expected_mask = arrays[f"{kind}attention_mask{suffix}"]
    np.testing.assert_array_equal(tokens.input_ids.numpy(), expected_ids)
    np.testing.assert_array_equal(tokens.attention_mask.numpy(), expected_mask)


# hf: tokenizer.json; ".": vocab.json and merges.txt alone
@pytest.mark.parametrize("files", ["hf", "."])
@pytest.mark.filterwarnings("ignore:prompts:dallemini.errors.DalleMiniWarning")
def test_ids_of_every_row_equal_the_original(folder: Path, arrays: Arrays, files: str) -> None:
    rows = json.loads((folder / "rows.json").read_text("utf-8"))
    backend = Tokenizer.from_pretrained(folder / files).backend
    tokenizer = Tokenizer(backend, config=TokenizerConfig(normalize_text=False))
    _assert_equal(tokenizer([row["text"] for row in rows]), arrays, "")


def test_special_ids_equal_the_original(folder: Path, manifest: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_pretrained(folder)
    special = manifest["special"]
    assert tokenizer.vocab_size == manifest["vocab_size"]
    assert tokenizer.bos_token_id == special["<s>"]
    assert tokenizer.pad_token_id == special["<pad>"]
    assert tokenizer.eos_token_id == special["</s>"]


@pytest.mark.filterwarnings("ignore:.*nothing is left:dallemini.errors.DalleMiniWarning")
def test_clean_up_and_ids_together_equal_the_original(
    fixtures: Path, arrays: Arrays, manifest: dict[str, Any]
) -> None:
    pytest.importorskip("unidecode")
    tokenizer = Tokenizer(
        Tokenizer.from_pretrained(fixtures / "e2e-tiny" / "model").backend,
        word_frequencies=fixtures / "normalizer" / "enwiki-words-frequency.txt",
    )
    prompts = manifest["processor_prompts"]
    _assert_equal(tokenizer(prompts), arrays, "processor_")
    unconditional = tokenizer.unconditional(len(prompts))
    _assert_equal(unconditional, arrays, "processor_", "_uncond")
