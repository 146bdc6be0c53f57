"""The comparison of operators runs on tiny layers, with the operators that are always there."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from benchmarks import int8_operators
from benchmarks.int8_operators import CANDIDATES, LAYERS, REFERENCE, Candidate, Product, main, run
from benchmarks.int8_operators import table as write_table
from dallemini import Transformer, kernels
from dallemini.models import TransformerConfig

TINY = ((96, 64), (64, 130))
ALWAYS = (REFERENCE, "torch _weight_int8pack_mm", "torch _int_mm")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_operators, "MEGABYTES", 0.1)
    monkeypatch.setattr(int8_operators, "ROUNDS", 3)


def absent(weight: Tensor, rows: Tensor) -> Product:
    raise ModuleNotFoundError("No module named 'absent'\nand more")


def test_operators_are_compared_by_layer() -> None:
    report = json.loads(json.dumps(run({name: CANDIDATES[name] for name in ALWAYS}, TINY)))
    assert report["threads"] == torch.get_num_threads()
    assert report["versions"]["torch"] == torch.__version__
    assert report["left_out"] == {}
    measured = [(tuple(layer["shape"]), layer["rows"]) for layer in report["layers"]]
    assert measured == [(shape, rows) for shape in TINY for rows in (2, 18)]
    for layer in report["layers"]:
        assert list(layer["operators"]) == list(ALWAYS)
        assert layer["operators"][REFERENCE]["times_reference"] == 1
        assert layer["operators"][REFERENCE]["relative_error"] < 1e-6
        for found in layer["operators"].values():
            low, high = found["spread"]
            assert 0 < low <= found["ms"] <= high
            assert found["gb_per_second"] > 0
            assert found["relative_error"] < 0.02


@pytest.mark.skipif(not kernels.has_int8(64, 96), reason="needs the package's int8 kernel")
def test_kernel_is_compared() -> None:
    names = (REFERENCE, "dallemini float32", "dallemini int8")
    report = run({name: CANDIDATES[name] for name in names}, TINY[:1])
    assert report["left_out"] == {}
    assert 1e-3 < report["layers"][0]["operators"]["dallemini int8"]["relative_error"] < 0.02


@pytest.mark.skipif(
    not {"onednn", "fbgemm"} <= {*torch.backends.quantized.supported_engines},
    reason="this torch has other engines",
)
def test_engines_are_compared() -> None:
    before = torch.backends.quantized.engine
    names = (REFERENCE, "torch FBGEMM", "torch oneDNN")
    report = run({name: CANDIDATES[name] for name in names}, TINY[:1])
    assert report["left_out"] == {}
    assert torch.backends.quantized.engine == before
    # without VNNI, oneDNN sums pairs in 16 bits and saturates
    assert report["layers"][0]["operators"]["torch oneDNN"]["relative_error"] < 0.1


def test_table_has_a_line_for_each_operator() -> None:
    text = write_table(run({name: CANDIDATES[name] for name in ALWAYS}, TINY))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ALWAYS)
    assert len({line.count("|") for line in lines}) == 1
    assert f"{torch.get_num_threads()} threads, torch {torch.__version__}" in text
    assert "n = 3." in text


def test_missing_product_is_named() -> None:
    report = run({REFERENCE: CANDIDATES[REFERENCE], "absent": Candidate(absent)}, TINY)
    reason = "ModuleNotFoundError: No module named 'absent'"
    assert report["left_out"] == {"absent": reason}
    text = write_table(report)
    assert f"Left out: absent ({reason})" in text
    assert "| absent |" not in text


def test_command_prints_report_and_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_operators, "LAYERS", TINY)
    monkeypatch.setattr(int8_operators, "CANDIDATES", {REFERENCE: CANDIDATES[REFERENCE]})
    main()
    report, _, text = capsys.readouterr().out.partition("\n\n")
    assert json.loads(report)["n"] == 3
    assert text.rstrip() == write_table(json.loads(report))


def test_graph_gets_its_part_of_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_operators, "MEGABYTES", 64 * 32 * 6 / 1e6)
    weight, rows = torch.randn(32, 64), torch.randn(2, 64)
    graph = Candidate(lambda weights, rows: lambda: rows @ weights.mT, whole=0.5)
    product, copies = graph.build(weight, rows)
    found = product()
    assert found.shape == (copies, 2, 32) == (3, 2, 32)
    torch.testing.assert_close(found[-1], rows @ weight.T)
    assert not torch.equal(found[0], found[1])


def test_layers_are_those_of_the_decoder() -> None:
    with torch.device("meta"):
        modules = dict(Transformer(TransformerConfig()).named_modules())
    read = {
        tuple(module.weight.shape)
        for name, module in modules.items()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith("encoder")
        and not name.endswith("cross_attn.kv_proj")  # computed once a picture
    }
    assert read == set(LAYERS)
