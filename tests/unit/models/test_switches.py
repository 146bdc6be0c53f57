"""The switches of the transformer: whatever they are set to, a model is trained, drawn and kept."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.architecture import CHOICES, PLACEMENTS, has_layer_norm
from dallemini.errors import ConfigError, UnsupportedOperationError
from dallemini.models.feed_forward import ACTIVATIONS
from dallemini.models.scaling import initial_gain, residual_scale
from dallemini.models.transformer import Transformer, TransformerConfig
from dallemini.testing import TINY_TRANSFORMER, tiny_tokenizer
from dallemini.text.tokenizer import TextTokens

CASES: dict[str, dict[str, Any]] = {
    "preln": {
        "ln_positions": "preln",
        "activation_function": "relu",
        "use_final_ln_decoder": False,
    },
    "postln": {"ln_positions": "postln", "use_deepnet_scaling": True, "ln_type": "rmsnorm"},
    "cogview": {"ln_positions": "cogview", "use_bias": True, "force_ln_scale": True},
    "subln": {
        "ln_positions": "subln",
        "use_subln_init": True,
        "use_glu": False,
        "activation_function": "gelu_new",
        "sinkhorn_iters": 3,
    },
    "swinv2": {
        "ln_positions": "swinv2",
        "use_cosine_attention": True,
        "tau_init": 0.5,  # a smaller one enlarges what int8 rounds off
        "use_swin_position_embeddings": True,
        "use_absolute_position_embeddings": False,
        "decoder_layers": 7,
    },
    "normformer": {
        "use_head_scale": True,
        "use_swin_position_embeddings": True,
        "use_bias": True,
        "use_final_ln_encoder": False,
        "activation_function": "smelu",
    },
}
VALUES: dict[str, tuple[Any, ...]] = {
    **CHOICES,
    "tau_init": (0.05, 0.5),
    "sinkhorn_iters": (1, 2, 5),
    **{
        field.name: (False, True)
        for field in dataclasses.fields(TransformerConfig)
        if isinstance(field.default, bool)
    },
}
"""Every switch, and what it may be."""
PROMPTS = ["a red apple", "an armchair in the shape of an avocado"]


def configured(**changes: Any) -> TransformerConfig:
    return dataclasses.replace(TINY_TRANSFORMER, **changes)


@pytest.fixture(scope="module", params=CASES)
def transformer(request: pytest.FixtureRequest) -> Transformer:
    model = Transformer.from_config(configured(**CASES[request.param])).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # so that every one of them shows
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.2)
    return model


@pytest.fixture(scope="module")
def tokens() -> TextTokens:
    return tiny_tokenizer()(PROMPTS)


@pytest.fixture(scope="module")
def image_tokens() -> Tensor:
    return torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_cached_steps_equal_teacher_forcing_wherever_the_rows_stand(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    forced = transformer(tokens, image_tokens)
    encoded = transformer.encode(tokens)
    first, second = (transformer.init_cache(encoded, rows=torch.tensor([row])) for row in range(2))
    known = torch.cat([transformer.start_tokens(1), image_tokens[0, :3]])
    assert_close(transformer.extend(known[None], first), forced[:1, :4])  # the first is ahead
    first.append(second)
    inputs = torch.stack([image_tokens[0, 3], transformer.start_tokens(1)[0]])
    for step in range(12):
        logits = transformer.decode_step(inputs, first)
        assert_close(logits, torch.stack([forced[0, 4 + step], forced[1, step]]))
        if step < 11:
            inputs = torch.stack([image_tokens[0, 4 + step], image_tokens[1, step]])


def mixtures(count: int) -> list[dict[str, Any]]:
    """Return settings that no one thought of, the same in every run."""
    source = random.Random(0)
    drawn = [{name: source.choice(values) for name, values in VALUES.items()} for _ in range(count)]
    for one in drawn:
        if one["ln_positions"] == "postln":  # has none
            one |= {"use_final_ln_encoder": True, "use_final_ln_decoder": True}
    return drawn


@pytest.mark.thorough
@torch.no_grad()
def test_every_value_and_thirty_mixtures_step_as_they_are_trained_and_come_back(
    tokens: TextTokens, image_tokens: Tensor, tmp_path: Path
) -> None:
    alone = [{name: value} for name, values in VALUES.items() for value in values]
    assert len(VALUES) == 17, "of the original's configuration"
    for changes in alone + mixtures(30):
        model = Transformer.from_config(configured(**changes)).eval()
        forced, cache = model(tokens, image_tokens), model.init_cache(model.encode(tokens))
        stepped, inputs = [], model.start_tokens(2)
        for column in image_tokens.T:
            stepped.append(model.decode_step(inputs, cache))
            inputs = column
        torch.testing.assert_close(torch.stack(stepped, 1), forced, rtol=1e-3, atol=1e-3)
        model.save_pretrained(tmp_path / "model")
        again = Transformer.from_pretrained(tmp_path / "model")
        assert again.config == model.config
        assert torch.equal(again(tokens, image_tokens), forced), changes


@torch.no_grad()
def test_trimmed_padding_changes_nothing(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    assert_close(transformer(tokens.trim(), image_tokens), transformer(tokens, image_tokens))
    for row in range(2):
        one = slice(row, row + 1)
        alone = TextTokens(tokens.input_ids[one], tokens.attention_mask[one]).trim()
        states = transformer.encode(alone).hidden_states
        together = transformer.encode(tokens).hidden_states[one]
        length = int(alone.attention_mask.sum())
        assert torch.equal(states[:, :length], together[:, :length])


def test_training_reaches_every_parameter(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    logits = transformer(tokens, image_tokens)
    logits.square().mean().backward()
    try:
        for name, parameter in transformer.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name
            assert bool(parameter.grad.any()), name
    finally:
        transformer.zero_grad()
    with torch.no_grad():
        assert_close(transformer(tokens, image_tokens), logits)


@torch.no_grad()
def test_a_saved_model_comes_back(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor, tmp_path: Path
) -> None:
    transformer.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path)
    assert again.config == transformer.config
    assert torch.equal(again(tokens, image_tokens), transformer(tokens, image_tokens))


@pytest.mark.slow_except("swinv2", "preln")
@torch.no_grad()
def test_an_int8_model_is_near_and_comes_back(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor, tmp_path: Path
) -> None:
    expected = transformer(tokens, image_tokens)
    transformer.save_pretrained(tmp_path / "float")
    small = Transformer.from_pretrained(tmp_path / "float", dtype="int8")
    found = small(tokens, image_tokens)
    spread = float((found - expected).std() / expected.std())
    assert spread < 0.1
    small.save_pretrained(tmp_path / "int8")
    again = Transformer.from_pretrained(tmp_path / "int8")
    assert again.quantization == "int8"
    assert torch.equal(again(tokens, image_tokens), found)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_steps_know_positions(tokens: TextTokens, image_tokens: Tensor) -> None:
    config = configured(use_swin_position_embeddings=True, use_cosine_attention=True)
    model = Transformer.from_config(config).eval()
    forced = model(tokens, image_tokens)
    model.compile_decoding(backend="eager")
    cache, inputs = model.init_cache(model.encode(tokens)), model.start_tokens(2)
    for position in range(3):
        assert_close(model.decode_step(inputs, cache), forced[:, position])
        inputs = image_tokens[:, position]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ln_positions": "deepnorm"}, "must be one of 'normformer', .*, not 'deepnorm'"),
        ({"activation_function": "tanh"}, "activation_function must be one of .*'smelu', not"),
        ({"ln_type": "batchnorm"}, "ln_type must be one of 'layernorm', 'rmsnorm', not"),
        ({"tau_init": 0.0}, "tau_init must be a finite number above 0, not 0.0"),
        ({"tau_init": float("nan")}, "tau_init must be a finite number above 0, not nan"),
        ({"sinkhorn_iters": 0}, "sinkhorn_iters must be at least 1, not 0"),
        ({"sinkhorn_iters": 1001}, "sinkhorn_iters must be at most 1000, not 1001"),
        ({"use_glu": 1}, "use_glu must be bool, not 1"),
        (
            {"ln_positions": "postln", "use_final_ln_decoder": False},
            "'postln' has no final norm that use_final_ln_decoder could take away",
        ),
        ({"use_alibi": True}, "no field 'use_alibi'"),
        ({"tie_word_embeddings": True}, "no field 'tie_word_embeddings'"),
    ],
)
def test_impossible_switches_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig.from_dict(changes)


def test_norms_behind_layers_stand_where_the_original_has_them() -> None:
    def behind(ln_positions: str, layers: int) -> list[int]:
        return [index for index in range(layers) if has_layer_norm(ln_positions, index, layers)]

    assert behind("swinv2", 12) == [5]
    assert behind("swinv2", 13) == [5, 11]
    assert behind("postln", 3) == [0, 1, 2]
    assert all(behind(name, 12) == [] for name in PLACEMENTS.keys() - {"swinv2", "postln"})


def test_smelu_is_a_quarter_far_below_zero() -> None:
    inputs = torch.tensor([-9.0, -1.0, -0.5, 0.0, 1.0, 3.0])
    expected = torch.tensor([0.25, 0.25, 0.0625, 0.25, 1.0, 3.0])
    assert torch.equal(ACTIVATIONS["smelu"](inputs), expected)


def test_deepnet_and_subln_follow_their_formulas() -> None:
    deep = configured(use_deepnet_scaling=True, encoder_layers=6, decoder_layers=4)
    assert residual_scale(deep, "encoder") == pytest.approx(0.81 * (6**4 * 4) ** (1 / 16))
    assert residual_scale(deep, "decoder") == pytest.approx(12**0.25)
    assert initial_gain(deep, "decoder", to_text=True) == pytest.approx(48**-0.25)
    sub = configured(use_subln_init=True, encoder_layers=6, decoder_layers=4)
    assert residual_scale(sub, "encoder") == 1.0
    assert initial_gain(sub, "decoder") == pytest.approx(2.4849066**0.5)  # log 12
    assert initial_gain(sub, "decoder", to_text=True) == 1.0


def test_the_beginning_is_smaller_where_it_is_said_to_be() -> None:
    plain, deep = (
        Transformer.from_config(configured(use_deepnet_scaling=on)).state_dict()
        for on in (False, True)
    )
    gain = initial_gain(configured(use_deepnet_scaling=True), "decoder")
    layer = "decoder.layers.1."
    fused = f"{layer}self_attn.qkv_proj.weight"
    torch.testing.assert_close(deep[fused][:32], plain[fused][:32])
    torch.testing.assert_close(deep[fused][32:], plain[fused][32:] * gain)
    for name in ("cross_attn.out_proj.weight", "glu.in_proj.weight", "glu.out_proj.weight"):
        torch.testing.assert_close(deep[layer + name], plain[layer + name] * gain)
    assert torch.equal(deep["lm_head.weight"], plain["lm_head.weight"])


def test_int8_models_with_biases_refuse_training() -> None:
    model = Transformer.from_config(configured(use_bias=True)).quantize()
    with pytest.raises(UnsupportedOperationError, match="cannot be trained"):
        model.train()
    assert not any(parameter.requires_grad for parameter in model.parameters())
