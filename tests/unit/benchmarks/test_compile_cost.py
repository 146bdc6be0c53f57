"""The measure of what compiling costs runs, on a tiny model and without generating code."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.compile_cost import main


@pytest.mark.slow
def test_cost_of_compiling_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model", "tiny", "--backend", "eager", "--images", "1", "2", "--rounds", "2"])
    torch._dynamo.reset()
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == torch.get_num_threads()
    assert report["versions"]["torch"] == torch.__version__
    assert [drawing["images"] for drawing in report["drawings"]] == [1, 2]
    for drawing in report["drawings"]:
        assert drawing["n"] == 2
        assert drawing["first_seconds"] > drawing["compiled_seconds"] > 0
        low, high = drawing["plain_spread"]
        assert low <= drawing["plain_seconds"] <= high
