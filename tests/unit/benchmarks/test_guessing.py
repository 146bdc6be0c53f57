"""The measure of guessing runs on tiny models, and counts what it draws."""

from __future__ import annotations

import dataclasses
import json

import pytest

from benchmarks.guessing import Case, Timed, chances, measure, table
from dallemini.testing import TINY_TRANSFORMER, tiny_pipeline, tiny_transformer

SIZES = dataclasses.replace(TINY_TRANSFORMER, d_model=64, encoder_ffn_dim=64, decoder_ffn_dim=64)


@pytest.mark.slow
def test_models_are_measured_with_and_without_guesses() -> None:
    pipe = tiny_pipeline()
    pipe.transformer = tiny_transformer(SIZES)
    mini = dataclasses.replace(SIZES, image_length=36, text_vocab_size=400)
    found = json.loads(json.dumps(measure(pipe, mini, rounds=1, given=4, most=6)))
    assert len(found) == 6
    for case in found.values():
        assert case["same"] == case["pictures"] == 1
        assert case["tokens_per_pass"] >= 0.8  # the pass that proves itself brings nothing more
        assert case["faster"]["clock"]["median"] > 0
    assert len(table(found).splitlines()) == 2 + len(found)


def test_ratios_are_of_pairs_and_chances_of_what_was_looked_at() -> None:
    held = [(3.0, 4.0)] * 7
    slow, fast = (Timed([1, 2], 10, passes, s, s, held) for passes, s in ((10, 2.0), (5, 1.0)))
    case = Case([slow, slow], [fast, slow])
    report = case.report()
    assert report["faster"]["clock"] == {"median": 1.5, "spread": [1.0, 2.0]}
    assert report["tokens_per_pass"] == 20 / 15
    assert chances(case) == [0.75] * 7
