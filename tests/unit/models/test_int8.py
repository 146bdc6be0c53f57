"""Int8 weights: rounding, independence of rows, loading and saving, refusals, and quality."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dallemini import Pipeline, Transformer, kernels
from dallemini.checkpoints import convert
from dallemini.errors import (
    CheckpointError,
    DalleMiniWarning,
    InputError,
    InputTypeError,
    UnsupportedOperationError,
)
from dallemini.generation import TopSampler
from dallemini.hub.source import open_source
from dallemini.kernels.int8 import (
    LARGEST,
    FbgemmOperator,
    Int8Operator,
    KernelOperator,
    PlainOperator,
    choose_operator,
    choose_torch_operator,
)
from dallemini.models.cache import pad_text
from dallemini.models.int8 import (
    Int8Linear,
    int8_layers,
    linear_names,
    quantize_weight,
)
from dallemini.models.lora import LoRAConfig, add_lora
from dallemini.models.precision import check_quantization
from dallemini.testing import TINY_TRANSFORMER, tiny_pipeline, tiny_tokenizer, tiny_transformer
from dallemini.text.tokenizer import TextTokens
from quantization_quality import Agreement, compare, compare_pipelines

OPERATORS: list[Int8Operator] = [
    choose_torch_operator(),
    choose_operator(96, 31),
    FbgemmOperator(levels=63),
    PlainOperator(),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_layer(weight: Tensor, **settings: Any) -> Int8Linear:
    layer = Int8Linear(weight.shape[1], weight.shape[0], **settings)
    layer.load_state_dict(quantize_weight(weight))
    return layer


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def tiny_text() -> TextTokens:
    return tiny_tokenizer()(["a red apple", "a blue bird on a white background"])


def tiny_images() -> Tensor:
    return torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Transformer) -> Tensor:
    found: Tensor = model(tiny_text(), tiny_images())
    return found


def test_rounding_stays_within_half_a_step_of_each_channel() -> None:
    weight = random(7, 33) * torch.logspace(-3, 3, 7)[:, None]
    state = quantize_weight(weight)
    assert state["weight"].dtype == torch.int8
    assert state["weight"].abs().amax(dim=1).tolist() == [127] * 7
    widened = state["weight"] * state["weight_scale"][:, None]
    assert bool(((widened - weight).abs() <= 0.5001 * state["weight_scale"][:, None]).all())


def test_channels_of_zeros_stay_zeros() -> None:
    state = quantize_weight(torch.zeros(2, 4))
    assert state["weight_scale"].tolist() == [1.0, 1.0]
    assert not state["weight"].any()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("fine", [False, True])
def test_layer_is_near_the_float_product(operator: Int8Operator, fine: bool) -> None:
    weight, states = random(31, 96), random(2, 5, 96, seed=1)
    found = make_layer(weight, operator=operator, fine=fine)(states)
    assert found.shape == (2, 5, 31)
    assert found.dtype == torch.float32
    assert relative(found, states @ weight.T) < 0.03


@pytest.mark.parametrize("operator", OPERATORS)
def test_rows_do_not_depend_on_their_neighbours(operator: Int8Operator) -> None:
    states = random(6, 96, seed=1) * torch.tensor([100.0, 1.0, 0.01, 3.0, 1e-6, 1.0])[:, None]
    for fine in (False, True):
        layer = make_layer(random(31, 96), operator=operator, fine=fine)
        together = layer(states)
        for row, alone in zip(together, states.split(1), strict=True):
            close = 1e-6 * float(row.abs().max())
            torch.testing.assert_close(row, layer(alone)[0], rtol=0, atol=close)


@pytest.mark.parametrize("operator", OPERATORS[:3])
def test_fine_rounding_keeps_what_lies_beside_an_outlier(operator: Int8Operator) -> None:
    weight, states = random(31, 96), random(5, 96, seed=1)
    states[:, 7] = 300.0
    expected = states @ weight.T
    coarse, fine = (
        relative(make_layer(weight, operator=operator, fine=fine)(states), expected)
        for fine in (False, True)
    )
    rounded = quantize_weight(weight)
    widened = rounded["weight"] * rounded["weight_scale"][:, None]
    exact = relative(states @ widened.T, expected)
    assert fine == pytest.approx(exact, rel=0.02)
    assert coarse > 1.2 * fine


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("fine", [False, True])
def test_layer_passes_zeros_emptiness_and_broken_numbers_on(
    operator: Int8Operator, fine: bool
) -> None:
    layer = make_layer(random(31, 96), operator=operator, fine=fine)
    assert not layer(torch.zeros(2, 96)).any()
    assert layer(torch.zeros(0, 96)).shape == (0, 31)
    for broken in (torch.nan, torch.inf):
        states = random(2, 96)
        states[0, 3] = broken
        found = layer(states)
        assert not found[0].isfinite().all()
        assert found[1].isfinite().all()


def test_plain_operator_multiplies_by_the_widened_weight() -> None:
    weight, states = random(5, 8), random(3, 8, seed=1)
    state = quantize_weight(weight)
    expected = states @ (state["weight"] * state["weight_scale"][:, None]).T
    layer = make_layer(weight, operator=PlainOperator())
    torch.testing.assert_close(layer(states), expected)


def test_processor_without_the_kernel_is_told_once() -> None:
    choose_torch_operator.cache_clear()
    with pytest.warns(DalleMiniWarning, match="no FBGEMM .* save memory, but no time"):
        operator = choose_torch_operator(("qnnpack", "none"))
    assert isinstance(operator, PlainOperator)
    assert choose_torch_operator(("qnnpack", "none")) is operator


def test_this_machine_uses_the_kernel_where_torch_has_it() -> None:
    engines = torch.backends.quantized.supported_engines
    expected = FbgemmOperator if {"x86", "fbgemm"} & {*engines} else PlainOperator
    assert isinstance(choose_torch_operator(), expected)


def test_the_package_s_own_kernel_is_taken_where_it_computes_the_size() -> None:
    expected = KernelOperator if kernels.has_int8(64, 4) else type(choose_torch_operator())
    assert isinstance(choose_operator(64, 4), expected)
    assert choose_operator(63, 4) is choose_torch_operator()
    assert choose_operator(64, 3) is choose_torch_operator()


@pytest.mark.skipif(
    not kernels.has_int8(64, 4) or getattr(OPERATORS[0], "levels", 0) != LARGEST,
    reason="the library is not built, or the processor has no VNNI, or none for torch",
)
def test_kernel_rounds_as_torch_does() -> None:
    weight, states = random(31, 200), random(9, 200, seed=1)
    operators = (KernelOperator(), FbgemmOperator(levels=127))
    own, torchs = (make_layer(weight, operator=operator)(states) for operator in operators)
    torch.testing.assert_close(own, torchs, rtol=1e-4, atol=1e-3)


@pytest.mark.skipif(
    "qnnpack" not in torch.backends.quantized.supported_engines,
    reason="needs a second engine",
)
def test_packing_leaves_the_engine_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    layer = make_layer(random(5, 8), operator=OPERATORS[0])
    assert torch.equal(layer.unpacked()["weight"], quantize_weight(random(5, 8))["weight"])
    assert torch.backends.quantized.engine == "qnnpack"


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_layer_is_copied_with_its_weights(
    operator: Int8Operator, copied: Callable[[Int8Linear], Int8Linear]
) -> None:
    layer, states = make_layer(random(5, 72), operator=operator), random(2, 72, seed=1)
    other = copied(layer)
    assert torch.equal(other(states), layer(states))
    assert {*other.state_dict()} == {"weight", "weight_scale"}
    assert copied(Int8Linear(72, 5, operator=operator)).unpacked()["weight"].is_meta


def test_state_is_plain_and_comes_back_equal() -> None:
    state = quantize_weight(random(5, 8))
    layer = Int8Linear(8, 5)
    assert all(tensor.is_meta for tensor in layer.state_dict().values())
    layer.load_state_dict(state, strict=True, assign=True)
    found = layer.state_dict()
    assert {*found} == {*state}
    for name, tensor in found.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_scale": None}, "Missing key.*weight_scale"),
        ({"other": torch.ones(1)}, "Unexpected key.*other"),
        ({"weight": torch.ones(5, 8)}, r"weight must be torch.int8 \[5, 8\], not torch.float32"),
        ({"weight_scale": torch.ones(4)}, r"weight_scale must be torch.float32 \[5\].*\[4\]"),
    ],
)
def test_layer_refuses_another_state(change: dict[str, Tensor | None], message: str) -> None:
    state = {**quantize_weight(random(5, 8)), **change}
    given = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(RuntimeError, match=message):
        Int8Linear(8, 5).load_state_dict(given)


def test_layer_without_weights_does_not_compute() -> None:
    with pytest.raises(UnsupportedOperationError, match="no weights"):
        Int8Linear(8, 5)(random(1, 8))


def test_layer_refuses_training_and_gradients() -> None:
    layer = make_layer(random(5, 8))
    with pytest.raises(UnsupportedOperationError, match="cannot be trained"):
        layer.train()
    assert layer.eval() is layer
    states = random(2, 8).requires_grad_()
    with pytest.raises(UnsupportedOperationError, match="cannot be trained"):
        layer(states)
    with torch.no_grad():
        assert layer(states).shape == (2, 5)


def test_layer_says_what_it_is() -> None:
    assert "in_features=8, out_features=5, fine=False, operator=" in repr(Int8Linear(8, 5))


def test_quantize_changes_the_linear_layers_in_place() -> None:
    model = Transformer.from_config(TINY_TRANSFORMER, dtype=torch.bfloat16)
    names = linear_names(model)
    assert model.quantization is None
    assert model.quantize("int8") is model
    assert model.quantization == "int8"
    assert [*int8_layers(model)] == names
    assert not any(isinstance(part, nn.Linear) for part in model.modules())
    assert "lm_head" in names
    assert not model.training
    assert model.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.parameters())
    fine = {name for name, layer in int8_layers(model).items() if layer.fine}
    assert fine == {name for name in names if name.endswith("glu.out_proj")}


def test_quantize_leaves_embeddings_and_norms_alone() -> None:
    before = tiny_transformer().state_dict()
    after = tiny_transformer().quantize().state_dict()
    kept = [name for name in after if name in before and after[name].dtype != torch.int8]
    assert "decoder.embed_tokens.weight" in kept
    assert all(torch.equal(before[name], after[name]) for name in kept)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("int4", InputError, "must be 'int8', not 'int4'"),
        (8, InputTypeError, "a name such as 'int8', not 8"),
        (None, InputTypeError, "a name such as 'int8', not None"),
    ],
)
def test_unknown_quantization_is_refused(name: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_quantization(name)
    with pytest.raises(error, match=message):
        tiny_transformer().quantize(name)


def test_quantize_refuses_a_second_time() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"quantised already \(int8\)"):
        tiny_transformer().quantize().quantize()


def test_quantize_refuses_a_model_without_weights() -> None:
    with pytest.raises(InputError, match="has no weights"):
        Transformer(TINY_TRANSFORMER).quantize()


def test_quantize_refuses_adapters_and_changes_nothing() -> None:
    model = tiny_transformer()
    add_lora(model, LoRAConfig(rank=2))
    with pytest.raises(UnsupportedOperationError, match=r"is a LoRALinear.*merge_lora"):
        model.quantize()
    assert model.quantization is None


def test_a_bias_is_added_in_float32_and_kept() -> None:
    assert linear_names(nn.Sequential(nn.Linear(2, 2))) == ["0"]
    weight, bias = torch.eye(2), torch.tensor([0.25, -3.0])
    layer = Int8Linear(2, 2, bias=True)
    assert layer.unpacked()["bias"].is_meta
    layer.load_state_dict(quantize_weight(weight) | {"bias": bias})
    again = copy.deepcopy(layer)
    for one in (layer, again):
        found = one(torch.tensor([[1.0, -1.0]]))
        torch.testing.assert_close(found, torch.tensor([[1.25, -4.0]]), rtol=0, atol=0.02)
        assert torch.equal(one.state_dict()["bias"], bias)
    with pytest.raises(RuntimeError, match="bias"):
        layer.load_state_dict(quantize_weight(weight))


def test_quantized_model_refuses_training_and_stays_whole() -> None:
    model = tiny_transformer().quantize()
    with pytest.raises(UnsupportedOperationError, match="cannot be trained"):
        model.train()
    assert not any(part.training for part in model.modules())


@pytest.mark.parametrize(
    ("move", "where"),
    [
        (lambda model: model.to(torch.float16), "torch.float16"),
        (lambda model: model.bfloat16(), "torch.bfloat16"),
        (lambda model: model.to("meta"), "the device 'meta'"),
    ],
)
def test_quantized_model_refuses_to_be_moved(
    move: Callable[[Transformer], Transformer], where: str
) -> None:
    model = tiny_transformer().quantize()
    with pytest.raises(UnsupportedOperationError, match=f"cannot be moved to {where}"):
        move(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.to("cpu", torch.float32) is model


def test_saving_and_loading_keeps_the_quantized_form(tmp_path: Path) -> None:
    model = tiny_transformer().quantize()
    model.save_pretrained(tmp_path)
    mark = json.loads((tmp_path / "config.json").read_text())["dallemini"]
    assert mark["quantization"] == "int8"
    stored = load_file(tmp_path / "model.safetensors")
    expected = model.state_dict()
    assert {*stored} == {*expected}
    assert all(torch.equal(stored[name], expected[name]) for name in stored)
    assert stored["lm_head.weight"].dtype == torch.int8
    for quantization in (None, "int8"):
        loaded = Transformer.from_pretrained(tmp_path, quantization=quantization)
        assert loaded.quantization == "int8"
        assert not loaded.training
        assert [*loaded.state_dict()] == [*expected]
        assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizing_while_loading_equals_quantizing_afterwards(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny_transformer().to(dtype)
    model.save_pretrained(tmp_path)
    loaded = Transformer.from_pretrained(tmp_path, quantization="int8")
    assert loaded.dtype == torch.float32
    assert torch.equal(logits(loaded), logits(model.quantize()))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"quantization": "int3"}, InputError, "must be 'int8'"),
        ({"quantization": 3}, InputTypeError, "a name such as"),
        (
            {"quantization": "int8", "dtype": torch.float16},
            UnsupportedOperationError,
            "cannot be moved to torch.float16",
        ),
        (
            {"quantization": "int8", "device": "meta"},
            UnsupportedOperationError,
            "cannot be moved to the device 'meta'",
        ),
    ],
)
def test_loading_refuses_what_cannot_be_before_it_reads(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Transformer.from_pretrained("no/such/folder/here", **settings)


def test_loading_a_quantized_folder_in_half_precision_is_refused(tmp_path: Path) -> None:
    tiny_transformer().quantize().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedOperationError, match=r"cannot be moved to torch.float16"):
        Transformer.from_pretrained(tmp_path, dtype=torch.float16)


def change_mark(folder: Path, **changes: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["dallemini"] |= changes
    (folder / "config.json").write_text(json.dumps(config))


def test_loading_refuses_an_unknown_stored_quantization(tmp_path: Path) -> None:
    tiny_transformer().save_pretrained(tmp_path)
    change_mark(tmp_path, quantization="int2")
    with pytest.raises(CheckpointError, match="'int2', which this version does not know"):
        Transformer.from_pretrained(tmp_path)


def test_loading_refuses_floats_that_are_marked_as_integers(tmp_path: Path) -> None:
    tiny_transformer().save_pretrained(tmp_path)
    change_mark(tmp_path, quantization="int8")
    with pytest.raises(CheckpointError, match=r"lacks tensors.*weight_scale"):
        Transformer.from_pretrained(tmp_path)


def test_loading_refuses_scales_or_weights_of_another_dtype(tmp_path: Path) -> None:
    tiny_transformer().quantize().save_pretrained(tmp_path)
    tensors = {
        name: tensor.clone() for name, tensor in load_file(tmp_path / "model.safetensors").items()
    }
    tensors["lm_head.weight_scale"] = tensors["lm_head.weight_scale"].half()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head must hold torch.int8 with scales"):
        Transformer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("encoder.embed_tokens.weight", torch.bool, "holds torch.bool, but weights are float16"),
        ("encoder.embed_tokens.weight", torch.int8, "holds torch.int8, but weights are float16"),
        ("encoder.embed_tokens.weight", torch.complex64, "holds torch.complex64, but weights"),
        ("lm_head.weight_scale", torch.int32, "holds torch.int32, but weights are float16"),
    ],
)
def test_loading_refuses_what_is_no_float_beside_integers(
    tmp_path: Path, name: str, values: torch.dtype, message: str
) -> None:
    tiny_transformer().quantize("int8").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name] = torch.zeros_like(tensors[name], dtype=values)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"'{name}' {message}"):
        Transformer.from_pretrained(tmp_path)


def test_conversion_keeps_the_quantized_form(tmp_path: Path) -> None:
    model = tiny_transformer().quantize()
    model.save_pretrained(tmp_path / "first")
    source = open_source(tmp_path / "first")
    convert(source, tmp_path / "second", component="transformer")
    loaded = Transformer.from_pretrained(tmp_path / "second")
    assert torch.equal(logits(loaded), logits(model))
    with pytest.raises(InputError, match=r"quantised \(int8\) and cannot be converted"):
        convert(source, tmp_path / "third", component="transformer", dtype=torch.float16)


def test_cached_steps_equal_teacher_forcing() -> None:
    model, text, images = tiny_transformer().quantize(), tiny_text(), tiny_images()
    with torch.no_grad():
        cache = model.init_cache(model.encode(text))
        tokens, found = model.start_tokens(2), []
        for drawn in images.unbind(1):
            found.append(model.decode_step(tokens, cache))
            tokens = drawn
    torch.testing.assert_close(torch.stack(found, 1), logits(model), rtol=2e-2, atol=2e-2)


def tiny_agreement(change: Callable[[Transformer], None] = lambda model: None) -> Agreement:
    config = dataclasses.replace(
        TINY_TRANSFORMER, d_model=64, encoder_ffn_dim=96, decoder_ffn_dim=96
    )
    model = tiny_transformer(config)
    small = copy.deepcopy(model).quantize()
    change(small)
    return compare(
        model,
        small,
        tiny_text(),
        tiny_tokenizer().unconditional(),
        tiny_images(),
        sampler=TopSampler(top_k=32),
        guidance_scale=2.0,
        num_codes=64,
    )


def test_tiny_model_keeps_its_logits() -> None:
    found = tiny_agreement()
    assert found.error < 0.1
    assert found.top_overlap > 0.9
    assert found.sampled > 0.7


def test_wrong_scales_break_the_bounds() -> None:
    def mix_up(model: Transformer) -> None:
        layer = int8_layers(model)["decoder.layers.1.glu.out_proj"]
        state = layer.state_dict()
        layer.load_state_dict({**state, "weight_scale": 1.5 * state["weight_scale"]})

    assert tiny_agreement(mix_up).error > 0.1


@pytest.mark.slow
def test_bundled_model_keeps_its_logits_and_tokens() -> None:
    pipe = Pipeline.from_pretrained()
    found = compare_pipelines(pipe, copy.deepcopy(pipe.transformer).quantize())
    assert found.error < 0.05
    assert found.top_overlap > 0.95
    assert found.greedy > 0.93
    assert found.sampled > 0.9


def test_quantized_pipeline_draws_a_seed_the_same_alone_and_in_a_batch() -> None:
    pipe = tiny_pipeline().quantize("int8")
    assert pipe.transformer.quantization == "int8"
    prompts = ["a red apple", "bird"]
    together = pipe(prompts, num_images_per_prompt=3, seed=5, progress=False)
    for index, seed in enumerate(together.seeds):
        alone = pipe(prompts[index // 3], seed=seed, progress=False)
        assert torch.equal(alone.image_tokens[0], together.image_tokens[index])


@pytest.mark.thorough
def test_prompts_of_other_lengths_in_the_batch_change_no_token() -> None:
    pipe = Pipeline.from_pretrained(quantization="int8")
    pipe.config = pipe.config.override(candidates=1)
    prompts = ["rocket", "a very big yellow star and a small green tree in the snow"]
    together = pipe(prompts, seed=5, guidance_scale=3.0, progress=False)
    alone = pipe(prompts[0], seed=together.seeds[0], guidance_scale=3.0, progress=False)
    assert torch.equal(alone.image_tokens[0], together.image_tokens[0])


@pytest.mark.parametrize(("length", "limit", "padded"), [(5, 64, 16), (16, 64, 16), (17, 20, 20)])
def test_text_is_padded_to_steady_lengths(length: int, limit: int, padded: int) -> None:
    ids, mask = torch.ones(2, length, dtype=torch.int64), torch.ones(2, length, dtype=torch.bool)
    longer, mask = pad_text(ids, mask, limit=limit)
    assert longer.shape == mask.shape == (2, padded)
    assert mask.sum().item() == ids.sum().item() == longer.sum().item()


@pytest.mark.thorough
def test_pipeline_quantizes_while_loading_and_keeps_it(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "float")
    pipe = Pipeline.from_pretrained(tmp_path / "float", quantization="int8")
    pipe.save_pretrained(tmp_path / "int8")
    expected = tiny_pipeline().quantize()("bird", seed=0, progress=False).image_tokens
    for loaded in (pipe, Pipeline.from_pretrained(tmp_path / "int8")):
        assert loaded.transformer.quantization == "int8"
        drawn = loaded("bird", seed=0, progress=False)
        assert torch.equal(drawn.image_tokens, expected)


def test_pipeline_refuses_to_move_int8_weights_and_moves_nothing() -> None:
    pipe = tiny_pipeline().quantize()
    with pytest.raises(UnsupportedOperationError, match=r"cannot be moved to torch.bfloat16"):
        pipe.to(dtype=torch.bfloat16)
    assert pipe.transformer.dtype == torch.float32
    assert next(pipe.vqgan.parameters()).dtype == torch.float32  # type: ignore[attr-defined]
