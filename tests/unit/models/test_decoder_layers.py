"""Layers in one call of the library: the bits of the modules, and never those of old weights."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dallemini import kernels
from dallemini.models import EncoderOutput, Transformer, TransformerConfig
from dallemini.models.cache import DecoderCache
from dallemini.models.decoder_layers import run_layers
from dallemini.models.lora import LoRAConfig, add_lora, merge_lora

CONFIG = TransformerConfig(
    text_vocab_size=32,
    image_vocab_size=64,
    decoder_start_token_id=64,
    image_length=36,
    max_text_length=16,
    d_model=64,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=70,
    decoder_ffn_dim=70,
)

built = pytest.mark.skipif(not kernels.has_kernels(), reason="the C library was not built")


def make(precision: str = "float32", **changes: Any) -> Transformer:
    config = TransformerConfig.from_dict({**CONFIG.to_dict(), **changes})
    model = Transformer.from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # norms are the identity in the beginning
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return model.quantize() if precision == "int8" else model


def layers_of(model: Transformer) -> Any:
    return model.decoder.layers


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def fill(model: Transformer, positions: list[int]) -> DecoderCache:
    """Return a cache whose rows stand at these positions, with something written everywhere."""
    rows = len(positions)
    mask = torch.arange(7) < torch.tensor([3 + row % 5 for row in range(rows)])[:, None]
    cache = model.init_cache(EncoderOutput(draw(rows, 7, model.config.d_model), mask))
    for tensors in (cache.self_keys, cache.self_values):
        for tensor in tensors:
            tensor.copy_(draw(*tensor.shape))
    cache.stand(positions)
    return cache


@torch.no_grad()
def both(model: Transformer, positions: list[int], count: int) -> tuple[Tensor | None, Tensor]:
    """Return what the library computes, and what the modules do; caches must agree as well."""
    states = draw(len(positions), count, model.config.d_model)
    ours, theirs = fill(model, positions), fill(model, positions)
    layers = layers_of(model)
    found, wanted = run_layers(layers, states, ours), states
    for number, layer in enumerate(layers):
        wanted = layer.forward(wanted, cache=theirs, layer=number)
    if found is not None:
        for mine, other in zip(ours._tensors(), theirs._tensors(), strict=True):
            assert all(map(torch.equal, mine, other))
    return found, wanted


def is_computed(model: Transformer) -> bool:
    """Tell whether the library computes a step; if so, with the bits of the modules."""
    found, wanted = both(model, [4, 4], 1)
    assert found is None or torch.equal(found, wanted)
    return found is not None


@built
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_layers_have_the_bits_of_the_modules(precision: str) -> None:
    model = make(precision)
    for positions, count in (([5], 1), ([5] * 18, 1), ([5, 0, 31, 5], 5), ([0], 36), ([2] * 64, 1)):
        found, wanted = both(model, positions, count)
        assert found is not None
        assert torch.equal(found, wanted), (positions, count)


@built
@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "quick_gelu"},
        {"force_ln_scale": True},
        {"use_absolute_position_embeddings": False},
    ],
    ids=str,
)
def test_some_switches_are_computed(changes: dict[str, Any]) -> None:
    assert is_computed(make(**changes))


@built
@pytest.mark.parametrize(
    "changes",
    [
        {"ln_positions": "preln"},
        {"ln_type": "rmsnorm"},
        {"use_bias": True},
        {"use_glu": False},
        {"use_head_scale": True},
        {"use_cosine_attention": True},
        {"use_swin_position_embeddings": True},
        {"use_deepnet_scaling": True},
        {"decoder_attention_heads": 8},  # of 8 numbers each
    ],
    ids=str,
)
def test_other_switches_go_through_the_modules(changes: dict[str, Any]) -> None:
    assert not is_computed(make(**changes))


def load_others(model: Transformer) -> None:
    state = {name: 1.25 * tensor for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def train_adapters(model: Transformer) -> None:
    add_lora(model, LoRAConfig(rank=2))
    for name, parameter in model.named_parameters():
        if "lora_b" in name:
            parameter.data.fill_(0.01)
    assert not is_computed(model)
    merge_lora(model)


def replace_attention(model: Transformer) -> None:
    first, second = layers_of(model)
    first.self_attn = copy.deepcopy(second.self_attn)


def fill_in_place(model: Transformer) -> None:
    layers_of(model)[0].glu.in_proj.weight.data.mul_(2)


CHANGES: list[Callable[[Transformer], object]] = [
    load_others,
    train_adapters,
    replace_attention,
    fill_in_place,
    lambda model: model.to(torch.float64).to(torch.float32),
    lambda model: model.quantize(),
]


@built
@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_those_that_count(change: Callable[[Transformer], object]) -> None:
    model = make()
    before, _ = both(model, [4, 4], 1)
    change(model)
    after, wanted = both(model, [4, 4], 1)
    assert before is not None
    assert after is not None
    assert torch.equal(after, wanted)
    moved = torch.equal(before, after)
    assert moved == (change is CHANGES[4])


@built
def test_weights_of_another_dtype_go_through_the_modules() -> None:
    model = make()
    assert is_computed(model)
    layer = layers_of(model)[1]
    layer.glu.norm_mid.to(torch.float64)
    with torch.no_grad():
        assert run_layers(model.decoder.layers, draw(1, 1, 64), fill(model, [4])) is None


@built
@pytest.mark.parametrize("add", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_called(add: str) -> None:
    model, heard = make(), list[object]()
    assert is_computed(model)
    attention = layers_of(model)[1].self_attn
    handle = getattr(attention, add)(lambda module, *_: heard.append(module))
    model.decode_step(model.start_tokens(1), fill(model, [0]))
    assert heard == [attention]
    handle.remove()
    assert is_computed(model)


@built
def test_hooks_of_all_modules_are_called() -> None:
    model = make()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert not is_computed(model)
    finally:
        handle.remove()


@built
def test_replaced_weights_are_let_go() -> None:
    model = make()
    assert is_computed(model)
    old = weakref.ref(layers_of(model)[0].glu.in_proj.weight)
    gc.disable()  # nothing may wait for it
    try:
        model.quantize()
        assert old() is None
    finally:
        gc.enable()


@built
def test_copies_and_gradients_keep_to_themselves() -> None:
    model = make()
    assert is_computed(model)
    twin = copy.deepcopy(model)
    fill_in_place(twin)
    assert is_computed(twin)
    assert is_computed(model)
    states, cache = draw(1, 1, 64), fill(model, [4])
    with torch.enable_grad():
        assert run_layers(model.decoder.layers, states, cache) is None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert run_layers(model.decoder.layers, states, cache) is None


@built
def test_caches_that_do_not_fit_go_through_the_modules() -> None:
    model = make()
    layers = layers_of(model)

    def is_taken(cache: DecoderCache, rows: int = 1, count: int = 1) -> bool:
        with torch.no_grad():
            return run_layers(layers, draw(rows, count, 64), cache) is not None

    cache = fill(model, [4])
    assert is_taken(cache)
    cache.append(fill(model, [2]))
    assert is_taken(cache, 2)
    assert not is_taken(cache, 1)
    assert not is_taken(fill(model, [36]))
    assert not is_taken(fill(model, [34]), count=3)
    assert not is_taken(fill(model, [0] * 65), 65)
    cache = fill(model, [4])
    cache.self_keys[1] = cache.self_keys[1][:, :, ::2]
    assert not is_taken(cache)
    cache.self_keys[1] = cache.self_keys[0][:, :, :30]
    assert not is_taken(cache)
    cache = fill(model, [4])
    cache.cross_mask = cache.cross_mask[..., :5]
    assert not is_taken(cache)
    cache = fill(model, [4])
    for tensors in cache._tensors():
        del tensors[1:]
    assert not is_taken(cache)
