"""The transformer: sizes, decoding step by step, padding, and what it refuses."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.errors import ConfigError, InputError, InputTypeError
from dallemini.models.transformer import Transformer, TransformerConfig
from dallemini.testing import TINY_TRANSFORMER, TINY_VQGAN, tiny_tokenizer, tiny_transformer
from dallemini.text.tokenizer import TextTokens

PROMPTS = ["a red apple", "an armchair in the shape of an avocado", ""]
MEGA = TransformerConfig(
    text_vocab_size=50272,
    image_vocab_size=16415,
    d_model=2048,
    encoder_layers=24,
    decoder_layers=24,
    encoder_attention_heads=32,
    decoder_attention_heads=32,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return tiny_transformer()


@pytest.fixture(scope="module")
def tokens() -> TextTokens:
    return tiny_tokenizer()(PROMPTS)


@pytest.fixture(scope="module")
def image_tokens() -> Tensor:
    return torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(0))


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for the rounding of sums that are taken in another order."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def text(input_ids: Tensor, mask: Tensor | None = None) -> Any:
    """What `encode` reads, without the checks of TextTokens."""
    if mask is None:
        mask = torch.ones(input_ids.shape, dtype=torch.bool)
    return SimpleNamespace(input_ids=input_ids, attention_mask=mask)


@pytest.mark.parametrize(
    ("config", "parameters"), [(TransformerConfig(), 437_833_712), (MEGA, 2_587_521_024)]
)
def test_released_sizes_have_their_number_of_parameters(
    config: TransformerConfig, parameters: int
) -> None:
    assert sum(weight.numel() for weight in Transformer(config).parameters()) == parameters


@pytest.mark.thorough
def test_full_size_shapes_follow_from_the_configuration() -> None:
    model = Transformer(TransformerConfig())
    ids = torch.zeros(2, 64, dtype=torch.int64, device="meta")
    tokens = text(ids, torch.ones(2, 64, dtype=torch.bool, device="meta"))
    image_tokens = torch.zeros(2, 256, dtype=torch.int64, device="meta")
    with torch.no_grad():
        assert model(tokens, image_tokens).shape == (2, 256, 16385)


def test_construction_takes_no_memory_and_no_random_numbers() -> None:
    state = torch.get_rng_state()
    model = Transformer(TransformerConfig())
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    assert torch.equal(torch.get_rng_state(), state)


def test_random_weights_follow_from_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (Transformer.from_config(TINY_TRANSFORMER, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_fresh_weights_have_the_scale_of_the_original() -> None:
    model = Transformer.from_config(TINY_TRANSFORMER)
    assert float(model.encoder.embed_tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert bool((model.get_parameter("encoder.layernorm_embedding.weight") == 1).all())
    assert not any(
        parameter.any() for name, parameter in model.named_parameters() if name.endswith("bias")
    )


def test_every_column_of_the_head_is_returned(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    assert transformer(tokens, image_tokens).shape == (3, 16, 65)


def test_cached_steps_equal_teacher_forcing(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    with torch.no_grad():
        forced = transformer(tokens, image_tokens)
        cache = transformer.init_cache(transformer.encode(tokens))
        inputs, steps = transformer.start_tokens(3), []
        for position in range(16):
            steps.append(transformer.decode_step(inputs, cache))
            inputs = image_tokens[:, position]
    assert_close(torch.stack(steps, dim=1), forced)


def test_a_position_does_not_see_its_own_token_or_later_ones(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    changed = image_tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 64
    with torch.no_grad():
        before, after = transformer(tokens, image_tokens), transformer(tokens, changed)
    assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_fewer_image_tokens_give_the_beginning_of_the_logits(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    with torch.no_grad():
        whole = transformer(tokens, image_tokens)
        part = transformer(tokens, image_tokens[:, :5])
    assert_close(part, whole[:, :5])


def test_training_and_drawing_compute_the_same(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    trained = transformer(tokens, image_tokens)
    assert trained.requires_grad
    with torch.no_grad():
        drawn = transformer(tokens, image_tokens)
    assert_close(trained.detach(), drawn)


def test_padding_does_not_show(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    with torch.no_grad():
        padded, trimmed = transformer.encode(tokens), transformer.encode(tokens.trim())
        length = trimmed.hidden_states.shape[1]
        assert length < 64
        assert_close(padded.hidden_states[:, :length], trimmed.hidden_states)
        assert_close(
            transformer.decode(padded, image_tokens), transformer.decode(trimmed, image_tokens)
        )


def test_rows_of_a_batch_do_not_mix(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor
) -> None:
    with torch.no_grad():
        together = transformer(tokens, image_tokens)
        for row in range(3):
            one = slice(row, row + 1)
            alone = TextTokens(tokens.input_ids[one], tokens.attention_mask[one])
            assert_close(transformer(alone, image_tokens[one]), together[one])


def test_the_prompt_shows(transformer: Transformer, image_tokens: Tensor) -> None:
    tokens = tiny_tokenizer()(["a red apple", "a blue bird"])
    with torch.no_grad():
        first, second = transformer(tokens, image_tokens[:1].expand(2, -1))
    assert not torch.allclose(first, second, atol=0.1)


def test_rows_choose_their_prompt(transformer: Transformer, tokens: TextTokens) -> None:
    with torch.no_grad():
        encoded = transformer.encode(tokens)
        in_order = transformer.decode_step(
            transformer.start_tokens(3), transformer.init_cache(encoded)
        )
        rows = torch.tensor([2, 0, 0, 1])
        chosen = transformer.decode_step(
            transformer.start_tokens(4), transformer.init_cache(encoded, rows=rows)
        )
    assert_close(chosen, in_order[rows])


def test_scaled_embeddings_are_larger_by_the_root_of_the_width(tokens: TextTokens) -> None:
    plain = tiny_transformer()
    scaled = tiny_transformer(dataclasses.replace(TINY_TRANSFORMER, scale_embedding=True))
    plain.encoder.embed_tokens.weight.data *= 4.0
    plain.decoder.embed_tokens.weight.data *= 4.0
    image_tokens = torch.zeros(3, 4, dtype=torch.int64)
    with torch.no_grad():
        assert_close(scaled(tokens, image_tokens), plain(tokens, image_tokens))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_compute_nearly_the_same(
    transformer: Transformer, tokens: TextTokens, image_tokens: Tensor, dtype: torch.dtype
) -> None:
    other = tiny_transformer().to(dtype)
    assert other.dtype == dtype
    with torch.no_grad():
        found, expected = other(tokens, image_tokens), transformer(tokens, image_tokens)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.8)


def test_int32_tokens_are_read_as_int64(transformer: Transformer, tokens: TextTokens) -> None:
    image_tokens = torch.zeros(3, 4, dtype=torch.int32)
    with torch.no_grad():
        expected = transformer(tokens, image_tokens.long())
        assert torch.equal(transformer(tokens, image_tokens), expected)
        assert torch.equal(
            transformer(text(tokens.input_ids.int(), tokens.attention_mask.int()), image_tokens),
            expected,
        )


def test_cache_is_compared_by_identity(transformer: Transformer, tokens: TextTokens) -> None:
    encoded = transformer.encode(tokens)
    assert encoded != transformer.encode(tokens)
    assert transformer.init_cache(encoded) != transformer.init_cache(encoded)


@pytest.mark.parametrize("tokens", ["a red apple", None, 3, ["a"], torch.zeros(1, 3).long()])
def test_encode_refuses_what_is_not_tokenized(transformer: Transformer, tokens: Any) -> None:
    with pytest.raises(InputTypeError, match="reads TextTokens, as a Tokenizer returns them, not "):
        transformer.encode(tokens)


@pytest.mark.parametrize(
    "input_ids", [torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), [[0, 1]], None, "ids"]
)
def test_encode_refuses_ids_that_are_not_whole_numbers(
    transformer: Transformer, input_ids: Any
) -> None:
    with pytest.raises(InputTypeError, match=r"input_ids must be a tensor of integers \[B, T\]"):
        transformer.encode(text(input_ids, torch.ones(1, 3, dtype=torch.bool)))


@pytest.mark.parametrize("shape", [(4,), (1, 0), (1, 65), (1, 1, 4)])
def test_encode_refuses_a_wrong_shape(transformer: Transformer, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"input_ids must have shape \[B, T\].*from 1 to 64, not"):
        transformer.encode(text(torch.zeros(shape, dtype=torch.int64)))


@pytest.mark.parametrize("token", [-1, 360, 2**40])
def test_encode_refuses_an_id_outside_the_vocabulary(transformer: Transformer, token: int) -> None:
    with pytest.raises(InputError, match=r"Token ids .* are outside 0 to 359: use the tokenizer"):
        transformer.encode(text(torch.tensor([[0, token]])))


def test_encode_refuses_a_mask_of_another_shape(transformer: Transformer) -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(InputError, match=r"input_ids \[1, 3\] and attention_mask \[1, 2\] must"):
        transformer.encode(text(torch.zeros(1, 3, dtype=torch.int64), mask))


def test_encode_refuses_a_row_without_tokens(transformer: Transformer) -> None:
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(InputError, match="attention_mask must be True somewhere in every row"):
        transformer.encode(text(torch.zeros(2, 2, dtype=torch.int64), mask))


@pytest.mark.parametrize("wrong", [torch.zeros(3, 4), torch.zeros(3, 4).bool(), None, [[0]], "a"])
def test_forward_refuses_image_tokens_that_are_not_whole_numbers(
    transformer: Transformer, tokens: TextTokens, wrong: Any
) -> None:
    with pytest.raises(InputTypeError, match=r"image_tokens must be a tensor of integers \[3, L\]"):
        transformer(tokens, wrong)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (3, 0), (3, 17), (3, 4, 1)])
def test_forward_refuses_a_wrong_shape(
    transformer: Transformer, tokens: TextTokens, shape: tuple[int, ...]
) -> None:
    with pytest.raises(
        InputError, match=r"image_tokens must have shape \[3, L\], one row a prompt"
    ):
        transformer(tokens, torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("token", [-1, 65])
def test_image_tokens_outside_the_vocabulary_are_refused(
    transformer: Transformer, tokens: TextTokens, token: int
) -> None:
    message = r"Image tokens -?\d+ to \d+ are outside 0 to 64: the image vocabulary"
    with pytest.raises(InputError, match=message):
        transformer(tokens, torch.tensor([[0, token]] * 3))
    cache = transformer.init_cache(transformer.encode(tokens))
    with pytest.raises(InputError, match=r"Image tokens"):
        transformer.decode_step(torch.tensor([0, 1, token]), cache)


@pytest.mark.parametrize("rows", [torch.tensor([0.0]), [0], None, torch.tensor([True])])
def test_decode_step_refuses_what_is_no_tensor_of_integers(
    transformer: Transformer, tokens: TextTokens, rows: Any
) -> None:
    cache = transformer.init_cache(transformer.encode(tokens))
    with pytest.raises(InputTypeError, match=r"image_tokens must be a tensor of integers \[3\]"):
        transformer.decode_step(rows, cache)


def test_decode_step_refuses_another_number_of_rows(
    transformer: Transformer, tokens: TextTokens
) -> None:
    cache = transformer.init_cache(transformer.encode(tokens))
    with pytest.raises(InputError, match=r"one token for each of the 3 rows of the cache, not .*2"):
        transformer.decode_step(transformer.start_tokens(2), cache)


def test_decode_step_refuses_to_go_beyond_the_picture(
    transformer: Transformer, tokens: TextTokens
) -> None:
    with torch.no_grad():
        cache = transformer.init_cache(transformer.encode(tokens))
        for _ in range(16):
            transformer.decode_step(transformer.start_tokens(3), cache)
        with pytest.raises(InputError, match="complete after 16 tokens; start another"):
            transformer.decode_step(transformer.start_tokens(3), cache)


@pytest.mark.parametrize("rows", [[3], [-1], [0, 1, 2, 3]])
def test_init_cache_refuses_a_prompt_that_there_is_not(
    transformer: Transformer, tokens: TextTokens, rows: list[int]
) -> None:
    with pytest.raises(InputError, match=r"rows .* are outside 0 to 2: one number for each prompt"):
        transformer.init_cache(transformer.encode(tokens), rows=torch.tensor(rows))


def test_init_cache_refuses_rows_that_are_no_tensor(
    transformer: Transformer, tokens: TextTokens
) -> None:
    with pytest.raises(InputTypeError, match=r"rows must be a tensor of integers \[R\], not list"):
        transformer.init_cache(transformer.encode(tokens), rows=[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d_model", 0, "TransformerConfig.d_model must be at least 1, not 0"),
        ("encoder_layers", 10**9, "encoder_layers must be at most 256, not 1000000000"),
        ("d_model", 2**62, "d_model must be at most 16777216"),
        ("image_length", 10**400, "image_length must be at most 16777216, not a number of about"),
        ("encoder_layers", -2, "encoder_layers must be at least 1, not -2"),
        ("decoder_start_token_id", -1, "decoder_start_token_id must be at least 0, not -1"),
        ("decoder_start_token_id", 16385, "16385 must be at most image_vocab_size 16384"),
        ("encoder_attention_heads", 3, "1024 must be a multiple of encoder_attention_heads 3"),
        ("decoder_attention_heads", 7, "1024 must be a multiple of decoder_attention_heads 7"),
        ("image_vocab_size", 1.5, "image_vocab_size must be int, not 1.5"),
        ("text_vocab_size", None, "text_vocab_size must be int, not None"),
        ("image_length", "256", "image_length must be int, not '256'"),
        ("max_text_length", float("nan"), "max_text_length must be int, not nan"),
        ("decoder_layers", True, "decoder_layers must be int, not True"),
        ("scale_embedding", 1, "scale_embedding must be bool, not 1"),
    ],
)
def test_impossible_sizes_are_refused(field: str, value: Any, message: str) -> None:
    for make in (TransformerConfig.from_dict, lambda fields: TransformerConfig(**fields)):
        with pytest.raises(ConfigError, match=message):
            make({field: value})


def test_another_configuration_is_refused() -> None:
    with pytest.raises(InputTypeError, match="made from a TransformerConfig, not VQGANConfig"):
        Transformer(TINY_VQGAN)  # type: ignore[arg-type]
