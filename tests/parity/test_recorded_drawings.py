"""The bundled model draws, token for token, what was recorded before the loop was rebuilt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dallemini import Pipeline
from dallemini.kernels.int8 import PlainOperator
from record_drawings import CASES, PROMPTS, digest


@pytest.fixture(scope="module")
def recorded() -> Any:
    path = Path(__file__).parent.parent / "fixtures" / "drawings" / "bundled.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pipes() -> dict[bool, Pipeline]:
    with pytest.MonkeyPatch.context() as patch:
        # The recording's int8 products are float32: those in integers round as processors can.
        patch.setattr("dallemini.kernels.int8.has_int8", lambda inputs, outputs: False)
        patch.setattr("dallemini.kernels.int8.choose_torch_operator", PlainOperator)
        quantized = Pipeline.from_pretrained(dtype="int8")
    return {False: Pipeline.from_pretrained(), True: quantized}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_recording_belongs_to_these_weights(recorded: Any) -> None:
    assert recorded["weights"] == digest(), "record anew with tests/record_drawings.py"
    assert recorded["prompts"] == PROMPTS
    assert recorded["tokens"].keys() == CASES.keys()


@pytest.mark.thorough_except("own settings", "both filters", "int8")
@pytest.mark.slow_except("own settings", "both filters", "unguided", "int8")
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_those_that_were_recorded(
    pipes: dict[bool, Pipeline], recorded: Any, name: str
) -> None:
    drawn = pipes[name.startswith("int8")](PROMPTS, progress=False, candidates=1, **CASES[name])
    assert [" ".join(map(str, row)) for row in drawn.image_tokens.tolist()] == (
        recorded["tokens"][name]
    )
