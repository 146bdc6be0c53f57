"""The decoding loop: guidance, masking, cancelling, samplers of one's own."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini.errors import InputError, InputTypeError
from dallemini.generation import TopSampler, generate_tokens, make_generators
from dallemini.generation.loop import LOOK_EVERY
from dallemini.models.cache import DecoderCache
from dallemini.models.transformer import Transformer
from dallemini.testing import TINY_TRANSFORMER, tiny_tokenizer, tiny_transformer
from dallemini.text.tokenizer import TextTokens, Tokenizer

PROMPTS = ["a red apple", "a blue bird on a white background"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return tiny_transformer()


@pytest.fixture(scope="module")
def prompts(tokenizer: Tokenizer) -> TextTokens:
    return tokenizer(PROMPTS)


class Recorder:
    """A greedy sampler that keeps the logits it was given."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        self.logits.append(logits.clone())
        return logits.argmax(-1)


def start(transformer: Transformer, prompts: TextTokens, **changes: Any) -> Any:
    """The loop with the settings of most tests."""
    settings: dict[str, Any] = {
        "unconditional": tiny_tokenizer().unconditional(),
        "prompt_of_image": torch.arange(prompts.input_ids.shape[0]),
        "guidance_scale": 10.0,
        "sampler": TopSampler(),
        "num_codes": 64,
        **changes,
    }
    images = settings["prompt_of_image"].numel()
    settings.setdefault("generators", make_generators(range(images)))
    return generate_tokens(transformer, prompts, **settings)


def draw(transformer: Transformer, prompts: TextTokens, **changes: Any) -> Tensor:
    return torch.stack(list(start(transformer, prompts, **changes)), dim=1)


def always(token: int) -> Transformer:
    """A transformer whose logits always favour one id, by far."""
    transformer = tiny_transformer()
    with torch.no_grad():
        transformer.get_parameter("decoder.final_norm.bias").fill_(20.0)
        transformer.lm_head.weight -= transformer.lm_head.weight.mean(1, keepdim=True)
        transformer.lm_head.weight[token] = 1.0
    return transformer


def test_a_picture_has_its_number_of_tokens(transformer: Transformer, prompts: TextTokens) -> None:
    tokens = draw(transformer, prompts)
    assert tokens.shape == (2, 16)
    assert tokens.dtype == torch.int64
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < 64


def test_greedy_tokens_have_the_highest_teacher_forced_logit(
    transformer: Transformer, prompts: TextTokens
) -> None:
    tokens = draw(transformer, prompts, sampler=TopSampler(top_k=1), guidance_scale=1.0)
    with torch.no_grad():
        logits = transformer(prompts, tokens)
    assert torch.equal(logits[..., :64].argmax(-1), tokens)


def test_guidance_follows_its_formula_at_every_position(
    transformer: Transformer, prompts: TextTokens, tokenizer: Tokenizer
) -> None:
    recorder = Recorder()
    tokens = draw(transformer, prompts, sampler=recorder, guidance_scale=3.0)
    with torch.no_grad():
        conditional = transformer(prompts, tokens)
        blank = transformer(tokenizer.unconditional(2), tokens)
    expected = (blank + 3.0 * (conditional - blank))[..., :64]
    found = torch.stack(recorder.logits, dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_guidance_of_1_is_unguided(transformer: Transformer, prompts: TextTokens) -> None:
    recorder = Recorder()
    tokens = draw(transformer, prompts, sampler=recorder, guidance_scale=1.0)
    with torch.no_grad():
        expected = transformer(prompts, tokens)[..., :64]
    torch.testing.assert_close(torch.stack(recorder.logits, 1), expected, rtol=1e-4, atol=1e-4)


def test_guidance_of_1_does_not_read_the_empty_prompt(
    transformer: Transformer, prompts: TextTokens
) -> None:
    wrong = TextTokens(torch.full((1, 64), 999), torch.ones(1, 64, dtype=torch.bool))
    unread = draw(transformer, prompts, guidance_scale=1.0, unconditional=wrong)
    assert torch.equal(unread, draw(transformer, prompts, guidance_scale=1.0))


def test_guidance_nearly_1_draws_what_1_draws(
    transformer: Transformer, prompts: TextTokens
) -> None:
    sampler = TopSampler(top_k=1)
    nearly = draw(transformer, prompts, sampler=sampler, guidance_scale=1.0 + 1e-6)
    assert torch.equal(nearly, draw(transformer, prompts, sampler=sampler, guidance_scale=1.0))


def test_guidance_of_0_ignores_the_prompt(transformer: Transformer, prompts: TextTokens) -> None:
    tokens = draw(transformer, prompts, sampler=TopSampler(top_k=1), guidance_scale=0.0)
    assert torch.equal(tokens[0], tokens[1])


def test_an_id_without_a_code_is_never_drawn(prompts: TextTokens) -> None:
    transformer = always(64)
    unmasked = draw(transformer, prompts, num_codes=None, guidance_scale=1.0)
    assert bool((unmasked == 64).all())
    for sampler in (TopSampler(), TopSampler(top_k=1), TopSampler(top_k=None)):
        for scale in (1.0, 10.0):
            tokens = draw(transformer, prompts, sampler=sampler, guidance_scale=scale)
            assert int(tokens.max()) < 64


def test_a_padded_vocabulary_is_masked_down_to_the_codes(prompts: TextTokens) -> None:
    config = dataclasses.replace(TINY_TRANSFORMER, image_vocab_size=79)
    recorder = Recorder()
    draw(tiny_transformer(config), prompts, sampler=recorder)
    assert {tuple(logits.shape) for logits in recorder.logits} == {(2, 64)}


def test_samplers_see_every_id_when_asked_for(
    transformer: Transformer, prompts: TextTokens
) -> None:
    recorder = Recorder()
    draw(transformer, prompts, sampler=recorder, num_codes=None)
    assert {tuple(logits.shape) for logits in recorder.logits} == {(2, 65)}


def test_an_image_is_drawn_the_same_whatever_is_drawn_beside_it(
    transformer: Transformer, prompts: TextTokens
) -> None:
    rows, seeds = torch.tensor([1, 0, 0, 1, 1]), [4, 8, 15, 16, 23]
    together = draw(transformer, prompts, prompt_of_image=rows, generators=make_generators(seeds))
    for image, (row, seed) in enumerate(zip(rows.tolist(), seeds, strict=True)):
        one = slice(row, row + 1)
        alone = TextTokens(prompts.input_ids[one], prompts.attention_mask[one])
        tokens = draw(transformer, alone, generators=make_generators([seed]))
        assert torch.equal(tokens[0], together[image])


def test_logits_reach_the_sampler_in_float32(prompts: TextTokens) -> None:
    recorder = Recorder()
    draw(tiny_transformer().half(), prompts, sampler=recorder)
    assert {logits.dtype for logits in recorder.logits} == {torch.float32}


def test_gradients_are_off_inside_and_as_before_outside(
    transformer: Transformer, prompts: TextTokens
) -> None:
    inside: list[bool] = []

    def sampler(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        inside.append(torch.is_grad_enabled())
        return logits.argmax(-1)

    steps = start(transformer, prompts, sampler=sampler)
    next(steps)
    assert torch.is_grad_enabled()
    with torch.no_grad():
        next(steps)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    steps.close()
    assert torch.is_grad_enabled()
    assert inside == [False, False]


def test_drawn_tokens_can_be_trained_on(transformer: Transformer, prompts: TextTokens) -> None:
    tokens = draw(transformer, prompts)
    transformer(prompts, tokens).sum().backward()
    transformer.zero_grad(set_to_none=True)


def test_dropping_the_iterator_frees_its_cache(
    transformer: Transformer, prompts: TextTokens
) -> None:
    def caches() -> int:
        return sum(type(thing) is DecoderCache for thing in gc.get_objects())

    gc.collect()
    before = caches()
    steps = start(transformer, prompts)
    next(steps)
    assert caches() == before + 1
    del steps
    assert caches() == before


@pytest.mark.parametrize(
    "choice",
    [None, [0, 1], 3, torch.tensor([0.0, 1.0]), torch.tensor([True, False])],
)
def test_a_sampler_that_returns_no_integer_tensor_is_refused(
    transformer: Transformer, prompts: TextTokens, choice: Any
) -> None:
    message = r"The sampler's choice must be a tensor of integers \[2\], one id an image, not "
    with pytest.raises(InputTypeError, match=message):
        next(start(transformer, prompts, sampler=lambda logits, generators: choice))


def test_a_sampler_that_returns_another_shape_is_refused(
    transformer: Transformer, prompts: TextTokens
) -> None:
    with pytest.raises(InputError, match=r"must have shape \[2\], one id an image, not \[2, 1\]"):
        next(start(transformer, prompts, sampler=lambda logits, _: logits.argmax(-1, True)))
    with pytest.raises(InputError, match="The sampler chose 1 ids for 2 images"):
        next(start(transformer, prompts, sampler=lambda logits, _: logits[:1].argmax(-1)))


@pytest.mark.parametrize("token", [-1, 64, 10**6])
def test_a_sampler_that_returns_an_id_it_was_not_offered_is_refused(
    transformer: Transformer, prompts: TextTokens, token: int
) -> None:
    chosen = torch.tensor([0, token])
    with pytest.raises(InputError, match=rf"chose from 64 ids, but returned \[0, {token}\]"):
        next(start(transformer, prompts, sampler=lambda logits, _: chosen))


def test_rare_looks_change_no_token(
    transformer: Transformer, prompts: TextTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = draw(transformer, prompts)
    monkeypatch.setitem(LOOK_EVERY, "cpu", 5)
    assert torch.equal(draw(transformer, prompts), often)


@pytest.mark.parametrize(
    ("every", "wrong", "told"), [(5, 1, 5), (5, 6, 10), (5, 16, 16), (99, 3, 16)]
)
def test_a_rare_look_tells_a_wrong_id_at_the_next_look_or_the_end(
    transformer: Transformer,
    prompts: TextTokens,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    wrong: int,
    told: int,
) -> None:
    asked: list[Tensor] = []

    def sampler(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        asked.append(logits)
        return torch.tensor([7, 64 if len(asked) == wrong else 8])

    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    drawn: list[Tensor] = []
    with pytest.raises(InputError, match=r"chose from 64 ids, but returned \[7, 64\]"):
        drawn.extend(start(transformer, prompts, sampler=sampler))
    assert len(asked) == told
    assert len(drawn) == told - 1
    assert int(torch.stack(drawn).max()) < 64  # safe to look up and to decode meanwhile


def test_a_rare_look_tells_broken_weights(
    prompts: TextTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = tiny_transformer()
    transformer.lm_head.weight.data[3] = float("nan")
    monkeypatch.setitem(LOOK_EVERY, "cpu", 99)
    with pytest.raises(InputError, match="logits are not finite"):
        draw(transformer, prompts)


def test_an_int32_choice_is_read_as_int64(transformer: Transformer, prompts: TextTokens) -> None:
    greedy = draw(transformer, prompts, sampler=lambda logits, _: logits.argmax(-1).int())
    assert greedy.dtype == torch.int64
    assert torch.equal(greedy, draw(transformer, prompts, sampler=TopSampler(top_k=1)))


@pytest.mark.parametrize("sampler", [TopSampler(), TopSampler(top_k=None), TopSampler(top_p=0.5)])
def test_broken_weights_are_told_instead_of_drawn(prompts: TextTokens, sampler: TopSampler) -> None:
    transformer = tiny_transformer()
    transformer.lm_head.weight.data[3] = float("nan")
    with pytest.raises(InputError, match=r"logits are not finite .*dtype=torch\.float32"):
        draw(transformer, prompts, sampler=sampler)


def test_a_guidance_that_leaves_float32_is_told(
    transformer: Transformer, prompts: TextTokens
) -> None:
    with pytest.raises(InputError, match=r"not finite numbers: .*lower guidance_scale"):
        draw(transformer, prompts, guidance_scale=1e39)
