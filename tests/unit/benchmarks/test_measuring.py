"""Tests of what the benchmark measures with: watched methods, weights, memory, profile."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks.side_by_side import command, page
from benchmarks.side_by_side.breakdown import PARTS, Breakdown, sum_parts
from benchmarks.side_by_side.machine import describe, rates
from benchmarks.side_by_side.memory import peak_bytes, private_bytes, read_kilobytes
from benchmarks.side_by_side.models import (
    PROMPT,
    SIZES,
    START_TOKEN,
    write_transformer,
    write_vocabulary,
)
from benchmarks.side_by_side.rounds import _once, check_same_tokens
from benchmarks.side_by_side.stopwatch import Stopwatch, first_calls, measure_call, only_at
from dallemini import Tokenizer, Transformer
from dallemini.models import TransformerConfig

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


class Model:
    """Has the three parts of a drawing."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause, self.positions = pause, list[int]()

    def encode(self) -> None:
        time.sleep(self.pause)

    def step(self, position: int) -> int:
        self.positions.append(position)
        return position * 2

    def decode(self) -> None:
        time.sleep(self.pause)

    def draw(self, steps: int = 256, pause: float = 0.0) -> list[int]:
        self.encode()
        tokens = []
        for position in range(steps):
            tokens.append(self.step(position))
            time.sleep(pause)
        self.decode()
        return tokens


def watched(model: Model) -> Stopwatch:
    watch = Stopwatch()
    for name, method in (("encoder", "encode"), ("step", "step"), ("decode", "decode")):
        watch.watch(name, model, method)
    return watch


def test_call_is_taken_apart() -> None:
    model = Model(pause=0.02)
    found = measure_call(watched(model), model.draw, images=4)
    assert found["encoder"] >= 0.02
    assert found["decode"] >= 0.005  # an image
    assert found["whole"] >= 0.04
    assert 0 < found["token"] < 0.02 / 256 + found["whole"] / 256


def test_a_token_is_a_position_however_many_a_step_has() -> None:
    model = Model(pause=0.001)
    found = measure_call(watched(model), lambda: model.draw(pause=0.01, steps=20), images=1)
    assert 20 * 0.01 / 256 <= found["token"] < found["whole"] / 256


def test_call_of_chosen_steps_is_composed_of_its_parts() -> None:
    model = Model(pause=0.01)
    watch = watched(model)
    only_at(model, "step", (3, 4), lambda position: -1)
    found = measure_call(watch, model.draw, images=1, complete=False)
    assert model.positions == [3, 4]
    assert found["whole"] == pytest.approx(
        found["encoder"] + 256 * found["token"] + found["decode"]
    )


def test_chosen_steps_are_the_same_in_every_call() -> None:
    model = Model()
    only_at(model, "step", (0, 255), lambda position: -1)
    first, second = model.draw(), model.draw()
    assert first == second == [0, *[-1] * 254, 510]


def test_call_past_the_watched_parts_is_refused() -> None:
    model = Model()
    with pytest.raises(RuntimeError, match=r"not made of the watched parts: .'decode'"):
        measure_call(watched(model), lambda: None, images=1)


def test_first_calls_end_early_and_put_the_method_back() -> None:
    model = Model()
    seen = first_calls(model, "step", 3, model.draw, pick=lambda position: position + 10)
    assert seen == [10, 11, 12]
    assert model.positions == [0, 1]
    assert model.draw(2) == [0, 2]


@pytest.mark.parametrize(("size", "parameters"), [("mini", 437_833_712), ("mega", 2_587_521_024)])
def test_sizes_are_the_released_ones(size: str, parameters: int) -> None:
    assert SIZES[size].parameters == parameters


@pytest.mark.parametrize("name", ["mini", "mega"])
def test_weights_of_a_step_are_those_of_the_decoder(name: str) -> None:
    size = SIZES[name]
    config = TransformerConfig(
        text_vocab_size=size.text,
        image_vocab_size=size.image,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.ffn,
        decoder_ffn_dim=size.ffn,
    )
    read = [
        parameter.numel()
        for name, parameter in Transformer(config).named_parameters()
        if not name.startswith("encoder.") and "embed_" not in name and "cross_attn.kv" not in name
    ]
    assert size.weights_per_token == sum(read)


def test_prompt_is_one_token_a_word(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    ids = Tokenizer.from_pretrained(tmp_path)(PROMPT).trim().input_ids
    words = json.loads((tmp_path / "vocab.json").read_text())
    expected = [words[f"Ġ{word}"] for word in PROMPT.split()]
    assert ids.tolist() == [[0, *expected, 2]]
    assert max(words.values()) < SIZES["tiny"].text


def test_files_of_the_peer_are_read_here(tmp_path: Path) -> None:
    folder = tmp_path / SIZES["tiny"].folder
    write_transformer(folder, SIZES["tiny"])
    transformer = Transformer.from_pretrained(folder, cache_dir=tmp_path / "cache")
    assert transformer.start_tokens(1).tolist() == [START_TOKEN]
    stored = torch.load(folder / "decoder.pt")["lm_head.weight"]
    assert torch.equal(transformer.lm_head.weight, stored.float())


@LINUX
def test_memory_is_read_from_the_system() -> None:
    assert 10**7 < private_bytes() <= peak_bytes() < 10**12


def test_memory_line_is_kilobytes() -> None:
    assert read_kilobytes("Name: x\nVmHWM:\t  12 kB\n", "VmHWM") == 12 * 1024
    with pytest.raises(RuntimeError, match="does not tell Anonymous; this benchmark needs Linux"):
        read_kilobytes("Name: x\n", "Anonymous")


def test_rates_are_measured() -> None:
    found = rates(megabytes=4, side=64, repeats=2)
    assert found["bytes_per_second"] > 1e8
    assert found["flops_per_second"] > 1e7


@LINUX
def test_machine_is_described_for_json(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = ("dallemini", "torch")
    monkeypatch.setattr("benchmarks.side_by_side.machine.PACKAGES", packages)
    found = json.loads(json.dumps(describe(3)))
    assert found["threads"] == 3
    assert found["memory_bytes"] > 10**8
    assert found["versions"]["torch"] == torch.__version__


def test_parts_are_told_by_operation_and_scope() -> None:
    head = SimpleNamespace(name="lm_head", cpu_parent=None, self_cpu_time_total=10.0)
    layers = SimpleNamespace(name="run_layers", cpu_parent=None, self_cpu_time_total=60.0)
    events = [
        head,
        layers,
        SimpleNamespace(name="aten::gelu", cpu_parent=layers, self_cpu_time_total=20.0),
        SimpleNamespace(name="aten::linear", cpu_parent=head, self_cpu_time_total=90.0),
        SimpleNamespace(name="aten::addmm", cpu_parent=None, self_cpu_time_total=300.0),
        SimpleNamespace(name="aten::bmm", cpu_parent=None, self_cpu_time_total=50.0),
        SimpleNamespace(name="aten::add", cpu_parent=None, self_cpu_time_total=50.0),
    ]
    parts = sum_parts(events, wall=1e-3)
    found = {name: round(seconds * 1e6) for name, seconds in parts.items()}
    assert found == {
        "layers": 80,
        "projections": 300,
        "lm_head": 100,
        "attention": 50,
        "sampling": 0,
        "other operations": 50,
        "python": 420,
        "step": 1000,
    }


def test_breakdown_profiles_the_positions_asked_for() -> None:
    head, drawn = torch.nn.Linear(64, 256), list[int]()
    breakdown = Breakdown()
    sample = breakdown.scoped("sampling", lambda logits: int(logits.argmax()))

    def steps() -> torch.Tensor:
        drawn.append(sample(head(torch.ones(1, 64))))
        return torch.ones(1)

    with breakdown.watching(head, "lm_head"), torch.no_grad():
        found = breakdown.of((steps() for _ in range(20)), positions=(3, 10), steps=2)
    assert list(found) == ["3", "10"]
    assert len(drawn) == 12
    for parts in found.values():
        assert set(parts) == {*PARTS, "step"}
        assert parts["lm_head"] > 0
        assert parts["sampling"] > 0
        assert sum(parts[name] for name in PARTS) == pytest.approx(parts["step"], rel=0.01)


def test_functions_are_watched_and_put_back() -> None:
    module = ModuleType("module")
    module.linear = original = lambda states: states + 1  # type: ignore[attr-defined]
    breakdown = Breakdown()
    with breakdown.watching_functions(module, ["linear"]):
        steps = (module.linear(torch.ones(1)) for _ in range(2))
        found = breakdown.of(steps, positions=(0,), steps=2)
    assert module.linear is original
    assert found["0"]["projections"] > 0


def test_different_tokens_stop_the_benchmark() -> None:
    check_same_tokens([5, 6], [5, 6])
    with pytest.raises(SystemExit, match=r"different tokens.* min-dalle .5, 6.*dallemini .5, 7"):
        check_same_tokens([5, 6], [5, 7])


def test_missing_peer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"no version of it is installed. Install it with: pip"):
        command.main([])


def test_nothing_to_render_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="does not exist; run without --render"):
        command.main(["--render", "--output", str(tmp_path / "none.json")])


def test_version_of_the_peer_is_in_its_install_line() -> None:
    assert f"min-dalle=={page.PEER_VERSION}" in page.PEER_INSTALL


def test_an_interrupted_measurement_goes_on_with_what_was_found(tmp_path: Path) -> None:
    done = list[int]()

    def measure(seed: int, *, images: list[int]) -> dict[str, int]:
        done.append(seed)
        return {"seed": seed, "images": len(images)}

    kept = tmp_path / "runs" / "0" / "int8.json"
    found = _once(kept, partial(measure, 1, images=[1, 9]))
    assert _once(kept, partial(measure, 1, images=[1, 9])) == found
    assert (found["seed"], found["images"], found["seconds"] > 0, done) == (1, 2, True, [1])
    _once(kept, partial(measure, 2, images=[1, 9]))
    _once(kept, partial(measure, 2, images=[1]))
    assert done == [1, 2, 2], "what was asked otherwise is measured anew"
