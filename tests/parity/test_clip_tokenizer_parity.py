"""CLIP's ids equal those of OpenAI's code, open_clip and Hugging Face, whose clean-up differs.

The vocabulary is the part of the real one (49,408 ids) that these texts can touch; see excerpt.py
beside it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dallemini.errors import DalleMiniWarning
from dallemini.scorer import CLIPTokenizer, CLIPTokenizerConfig

SETTINGS = {
    "openai": CLIPTokenizerConfig(pad_token_id=0, clean_text=True),
    "open_clip": CLIPTokenizerConfig(pad_token_id=0, clean_text=True, split_special_tokens=True),
    "hf_fast": CLIPTokenizerConfig(),
}


@pytest.mark.parametrize("code_base", list(SETTINGS))
def test_ids_equal_the_recorded_ones(fixtures: Path, code_base: str) -> None:
    pytest.importorskip("ftfy")
    folder = fixtures / "clip-tokenizer"
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))["texts"]
    expected = np.load(folder / "ids.npz")[code_base]
    tokenizer = CLIPTokenizer(CLIPTokenizer.from_pretrained(folder).backend, SETTINGS[code_base])
    with pytest.warns(DalleMiniWarning, match="was cut"):
        input_ids = tokenizer(texts).numpy()
    for text, row, recorded in zip(texts, input_ids, expected, strict=True):
        assert row.tolist() == recorded.tolist(), text
