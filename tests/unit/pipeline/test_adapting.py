"""Adapters on a pipeline: loaded, weighed, taken out to the bit, and told in the pictures."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dallemini import GenerationOutput, Pipeline
from dallemini.errors import CheckpointError, DalleMiniWarning, InputError, InputTypeError
from dallemini.hub import upload_folder
from dallemini.models.adapters import AdapterUse
from dallemini.models.lora import LoRAConfig, add_lora, load_lora, save_lora
from dallemini.testing import tiny_pipeline, tiny_transformer
from hub_server import TOKEN, HubServer


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters for the tiny pipeline; the second has fewer layers."""
    made = []
    for seed, targets in ((1, None), (2, ("cross_attn.out_proj",))):
        folder = tmp_path_factory.mktemp("adapters") / f"style-{seed}"
        save_lora(adapted(seed, targets), folder, base_model="tiny")
        made.append(folder)
    return made[0], made[1]


def adapted(seed: int, targets: tuple[str, ...] | None) -> nn.Module:
    model = tiny_transformer()
    add_lora(model, LoRAConfig(rank=2, targets=targets), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


def draw(pipe: Pipeline) -> GenerationOutput:
    return pipe("a red apple", seed=3, progress=False)


def weights(pipe: Pipeline) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipe.transformer.state_dict().items()}


def is_same(pipe: Pipeline, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[n]) for n, value in pipe.transformer.state_dict().items())


def test_an_adapter_is_taken_out_to_the_bit(folders: tuple[Path, Path]) -> None:
    pipe = tiny_pipeline()
    before, plain = weights(pipe), draw(pipe)
    name = pipe.load_adapter(folders[0])
    assert pipe.adapters == {name: 1.0} == {str(folders[0]): 1.0}
    loaded = draw(pipe)
    assert not torch.equal(loaded.image_tokens, plain.image_tokens)
    for weight in (0.3, 0.0, -1.0):
        pipe.set_adapters(name, weight)
    pipe.unload_adapter(name)
    assert is_same(pipe, before)
    assert draw(pipe).images[0].tobytes() == plain.images[0].tobytes()
    assert pipe.adapters == {}


def test_loading_equals_merging_for_good(folders: tuple[Path, Path]) -> None:
    pipe, merged = tiny_pipeline(), tiny_transformer()
    pipe.load_adapter(folders[0], weight=0.7, name="a")
    pipe.load_adapter(folders[1], weight=2, name="b")
    load_lora(merged, folders[0], scale=0.7)
    once = merged.state_dict()["encoder.layers.0.self_attn.qkv_proj.weight"]
    found = weights(pipe)
    assert torch.equal(found["encoder.layers.0.self_attn.qkv_proj.weight"], once)
    load_lora(merged, folders[1], scale=2)
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    assert [str(use).rpartition(" at ")[2] for use in draw(pipe).adapters] == ["0.7", "2"]


def test_several_adapters_have_weights_of_their_own(folders: tuple[Path, Path]) -> None:
    pipe = tiny_pipeline()
    before = weights(pipe)
    for name, folder in zip("ab", folders, strict=True):
        pipe.load_adapter(folder, name=name)
    both = weights(pipe)
    pipe.set_adapters(["b", "a"], [0.5, 1])
    assert pipe.adapters == {"a": 1.0, "b": 0.5}
    pipe.set_adapters("a")
    assert pipe.adapters == {"a": 1.0, "b": 0.0}
    alone = tiny_pipeline()
    alone.load_adapter(folders[0])
    assert is_same(pipe, weights(alone))
    pipe.set_adapters(["a", "b"])
    assert is_same(pipe, both)  # the same weights are the same bits, whatever came between
    pipe.set_adapters([])
    assert is_same(pipe, before)
    pipe.unload_adapter()
    assert pipe.adapters == {}


def test_adapters_go_with_a_copy_and_another_dtype(folders: tuple[Path, Path]) -> None:
    pipe = tiny_pipeline()
    before = weights(pipe)
    pipe.load_adapter(folders[0], name="a")
    twin = copy.deepcopy(pipe)
    twin.to(dtype="bfloat16")
    twin.unload_adapter("a")
    assert twin.transformer.dtype == torch.bfloat16
    assert is_same(twin, {name: value.bfloat16() for name, value in before.items()})
    assert pipe.adapters == {"a": 1.0}
    assert not is_same(pipe, before)


def test_compiled_drawing_sees_adapters_come_and_go(folders: tuple[Path, Path]) -> None:
    pipe, plain = tiny_pipeline().compile(backend="eager"), tiny_pipeline()
    for change in (lambda one: None, lambda one: one.load_adapter(folders[0], name="a")):
        change(pipe)
        change(plain)
        assert torch.equal(draw(pipe).image_tokens, draw(plain).image_tokens)


def test_int8_weights_are_made_of_merged_ones(folders: tuple[Path, Path]) -> None:
    pipe, merged = tiny_pipeline(), tiny_pipeline()
    pipe.load_adapter(folders[0], weight=0.5, name="a")
    load_lora(merged.transformer, folders[0], scale=0.5)
    one, other = draw(pipe.quantize()), draw(merged.quantize())
    assert torch.equal(one.image_tokens, other.image_tokens)
    assert one.adapters == other.adapters
    with pytest.raises(
        InputError, match=r"No adapter called 'a' is loaded; loaded are: none\. What"
    ):
        pipe.unload_adapter("a")
    with pytest.raises(InputError, match=r"Int8 weights take no adapters; load the model without"):
        pipe.load_adapter(folders[0])


def test_what_does_not_fit_is_refused_in_a_sentence(folders: tuple[Path, Path]) -> None:
    pipe = tiny_pipeline()
    pipe.load_adapter(folders[0], name="a")
    found = weights(pipe)
    calls: list[tuple[Any, type[Exception], str]] = [
        (lambda: pipe.load_adapter(folders[1], name="a"), InputError, "'a' is loaded already"),
        (lambda: pipe.load_adapter(folders[1], weight=float("nan")), InputError, "finite number"),
        (lambda: pipe.set_adapters("c"), InputError, "No adapter called 'c' is loaded; .*: a"),
        (lambda: pipe.set_adapters(["a"], [1, 2]), InputError, "1 adapters need as many weights"),
        (lambda: pipe.set_adapters([3]), InputTypeError, "named by strings, not by 3"),  # type: ignore[list-item]
        (lambda: add_lora(pipe.transformer), InputError, "has loaded adapters"),
    ]
    for call, kind, message in calls:
        with pytest.raises(kind, match=message):
            call()
    other = tiny_pipeline()
    other.transformer.decoder.layers[0].cross_attn.out_proj = nn.Linear(16, 8)  # type: ignore[union-attr]
    with pytest.raises(
        CheckpointError, match=r"adds to a weight \[16, 16\], but here it is \[8, 16\]"
    ):
        other.load_adapter(folders[1])
    assert is_same(pipe, found)


def test_pictures_tell_their_adapters(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.load_adapter(folders[0], weight=0.8)
    path = draw(pipe).save(tmp_path)[0]
    told = GenerationOutput.read_metadata(path).adapters
    assert [(use.source, use.weight) for use in told] == [(str(folders[0]), 0.8)]
    elsewhere = tiny_pipeline()
    elsewhere.load_adapter(folders[0], weight=0.8, name="of another name")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.redraw(path, progress=False)
        elsewhere.redraw(path, progress=False)
    elsewhere.set_adapters("of another name", 0.5)
    with pytest.warns(
        DalleMiniWarning, match=r"LoRA adapters \(.*style-1 at 0\.8; here .* at 0\.5"
    ):
        elsewhere.redraw(path, progress=False)
    pipe.set_adapters([])
    assert draw(pipe).adapters == ()


def test_the_metadata_of_older_files_are_read() -> None:
    told = [AdapterUse(digest="ab"), AdapterUse(digest="cd", weight=0.5, source="me/ink@0123")]
    written = json.loads(json.dumps([use.to_json() for use in told]))
    assert written[0] == "ab"
    assert [AdapterUse.from_json(one) for one in written] == told


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the Hub's client
def test_an_adapter_comes_from_the_hub_with_its_commit(
    folders: tuple[Path, Path], hub: HubServer
) -> None:
    upload_folder(folders[0], "someone/style", token=TOKEN)
    pipe = tiny_pipeline()
    assert pipe.load_adapter("someone/style", token=TOKEN) == "someone/style"
    assert draw(pipe).adapters[0].source.startswith("someone/style@")


def test_what_a_pipeline_with_adapters_saves_draws_the_same(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    pipe = tiny_pipeline()
    pipe.load_adapter(folders[0])
    pipe.save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert torch.equal(draw(again).image_tokens, draw(pipe).image_tokens)
