"""Rows that come and go: a picture's tokens depend on its drawing alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dallemini import kernels
from dallemini.errors import InputError, InputTypeError, UnsupportedOperationError
from dallemini.generation import (
    Drawing,
    SamplerState,
    Slots,
    TopSampler,
    generate_tokens,
    make_generators,
)
from dallemini.models.cache import DecoderCache
from dallemini.models.transformer import Transformer
from dallemini.testing import tiny_tokenizer, tiny_transformer
from dallemini.text.tokenizer import TextTokens, Tokenizer

LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return tiny_transformer()


def drawing(
    text: str = "a red apple", *, scale: float = 4.0, seed: int = 0, **rest: Any
) -> Drawing:
    tokenizer = tiny_tokenizer()
    settings = {"weights": (scale,), "base": tokenizer.unconditional(), "seed": seed, **rest}
    return Drawing(texts=(tokenizer(text),), **settings)


def mixture(seed: int = 0, **rest: Any) -> Drawing:
    tokenizer = tiny_tokenizer()
    settings: dict[str, Any] = {
        "weights": lambda share: (3 - 3 * share, 3 * share),
        "base": tokenizer("a green tree"),
        "seed": seed,
        **rest,
    }
    return Drawing(texts=(tokenizer("a red apple"), tokenizer("two blue birds")), **settings)


def kinds() -> dict[str, Drawing]:
    """Drawings of every kind."""
    fixed = torch.full((LENGTH,), -1)
    fixed[:6] = torch.arange(6)
    hole = torch.arange(LENGTH)
    hole[5:8] = -1
    hole[11] = -1
    return {
        "guided": drawing(seed=3),
        "unguided": drawing("two blue birds", scale=1.0, seed=4),
        "long": drawing("a very long prompt about a red apple and a blue bird on a tree", seed=5),
        "mixture": mixture(6),
        "begun": drawing(seed=7, fixed=fixed),
        "hole": mixture(8, fixed=hole),
    }


def alone(transformer: Transformer, one: Drawing) -> list[int]:
    slots = Slots(transformer, TopSampler(), num_codes=64)
    slot = slots.add(one)
    while slot.tokens is None:
        slots.step()
    assert not slots.live
    tokens: list[int] = slot.tokens.tolist()
    return tokens


def test_slots_draw_what_generate_tokens_draws(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    steps = generate_tokens(
        transformer,
        tokenizer("a red apple"),
        unconditional=tokenizer.unconditional(),
        prompt_of_image=torch.tensor([0]),
        guidance_scale=4.0,
        sampler=TopSampler(),
        generators=make_generators([3]),
        num_codes=64,
    )
    assert torch.stack(list(steps), 1)[0].tolist() == alone(transformer, drawing(seed=3))


@pytest.mark.parametrize("plain", [False, True])
def test_who_joins_and_who_leaves_changes_no_token(
    monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    if plain:
        monkeypatch.setattr(kernels, "_library", lambda: None)
    transformer = tiny_transformer()
    drawings = kinds()
    expected = {name: alone(transformer, one) for name, one in drawings.items()}
    slots = Slots(transformer, TopSampler(), num_codes=64)
    found = {}
    for name, one in drawings.items():  # one more every other step, one that does not stay
        found[name] = slots.add(one)
        passing = slots.add(drawing("a green tree", seed=99))
        slots.step()
        slots.drop([passing])
        slots.step()
    while slots.live:
        slots.step()
    assert {
        name: slot.tokens.tolist() for name, slot in found.items() if slot.tokens is not None
    } == (expected)


def test_given_tokens_are_kept_and_only_the_others_are_asked_for(transformer: Transformer) -> None:
    asked: list[int] = []

    def sampler(logits: Tensor, state: SamplerState) -> Tensor:
        asked.append(state.position)
        return logits.argmax(-1)

    hole = torch.arange(LENGTH)
    hole[[5, 6, 11]] = -1
    slots = Slots(transformer, sampler, num_codes=64)
    slot = slots.add(drawing(fixed=hole))
    finished = [slots.step() for _ in range(7)]
    assert finished == [[]] * 6 + [[slot]]  # nothing is read behind the last hole
    assert asked == [5, 6, 11]
    assert slot.tokens is not None
    assert slot.tokens[hole >= 0].tolist() == hole[hole >= 0].tolist()


def test_a_beginning_is_read_in_one_pass(
    transformer: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = transformer.decoder.forward

    def noted(ids: Tensor, *, cache: DecoderCache) -> Tensor:
        sizes.append(ids.shape[1])
        return forward(ids, cache=cache)

    monkeypatch.setattr(transformer.decoder, "forward", noted)
    fixed = torch.full((LENGTH,), -1)
    fixed[:10] = 7
    alone(transformer, drawing(fixed=fixed))
    assert sizes == [10] + [1] * 6


def test_a_beginning_gives_the_logits_of_its_steps(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = transformer.encode(tokenizer(["a red apple", "two blue birds"]).trim())
        whole, single = transformer.init_cache(encoded), transformer.init_cache(encoded)
        together = torch.cat(
            [transformer.extend(tokens[:, :4], whole), transformer.extend(tokens[:, 4:], whole)], 1
        )
        steps = [transformer.decode_step(tokens[:, i], single) for i in range(9)]
    torch.testing.assert_close(together, torch.stack(steps, 1), rtol=1e-4, atol=1e-4)
    assert whole.length == 9
    whole.advance(-5)
    with torch.no_grad():
        again = transformer.extend(tokens[:, 4:], whole)
    torch.testing.assert_close(again, together[:, 4:])


def test_extend_refuses_other_rows_and_what_goes_beyond(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    cache = transformer.init_cache(transformer.encode(tokenizer(["a", "b"]).trim()))
    with pytest.raises(InputError, match=r"needs tokens \[2, S\] .* not shape \[1, 3\]"):
        transformer.extend(torch.zeros(1, 3, dtype=torch.int64), cache)
    with pytest.raises(InputError, match="complete after 16 tokens"):
        transformer.extend(torch.zeros(2, 17, dtype=torch.int64), cache)


def test_rows_read_several_tokens_from_where_each_of_them_stands(
    transformer: Transformer, tokenizer: Tokenizer
) -> None:
    texts = [transformer.encode(tokenizer(text).trim()) for text in ("a red apple", "a rocket")]
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = [
            transformer.extend(row, transformer.init_cache(text))[0]
            for row, text in zip(tokens.split(1), texts, strict=True)
        ]
        cache, joining = (transformer.init_cache(text) for text in texts)
        transformer.extend(tokens[:1, :5], cache)
        transformer.extend(tokens[1:, :2], joining)
        cache.append(joining)
        found = transformer.extend(torch.stack([tokens[0, 5:9], tokens[1, 2:6]]), cache)
    assert cache.positions == [9, 6]
    torch.testing.assert_close(found[0], expected[0][5:9], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], expected[1][2:6], rtol=1e-4, atol=1e-4)


def test_a_known_picture_is_finished_at_once(transformer: Transformer) -> None:
    slots = Slots(transformer, TopSampler())
    slot = slots.add(drawing(fixed=torch.arange(LENGTH)))
    assert slots.step() == [slot]
    assert slot.tokens is not None
    assert slot.tokens.tolist() == list(range(LENGTH))


def test_two_texts_of_half_a_weight_are_the_one_that_they_are(transformer: Transformer) -> None:
    text, base = tiny_tokenizer()("a red apple"), tiny_tokenizer().unconditional()
    halves = Drawing(texts=(text, text), weights=(2.0, 2.0), base=base, seed=1)
    assert alone(transformer, halves) == alone(transformer, drawing(seed=1))


def test_weights_follow_the_share_that_is_drawn(transformer: Transformer) -> None:
    shares: list[float] = []

    def weights(share: float) -> Sequence[float]:
        shares.append(share)
        return [4.0]

    changing = drawing(seed=2, weights=weights)
    assert alone(transformer, changing) == alone(transformer, drawing(seed=2))
    assert shares == [i / LENGTH for i in range(LENGTH)]


def test_a_sampler_sees_the_tokens_before(transformer: Transformer) -> None:
    seen: list[tuple[int, list[list[int]], int]] = []

    def sampler(logits: Tensor, state: SamplerState) -> Tensor:
        seen.append((state.position, state.tokens.tolist(), len(state.generators)))
        return TopSampler()(logits, state)

    slots = Slots(transformer, sampler, num_codes=64)
    both = [slots.add(drawing(seed=seed)) for seed in (0, 1)]
    while slots.live:
        slots.step()
    for position, (found, before, streams) in enumerate(seen):
        assert (found, streams) == (position, 2)
        assert before == [
            slot.tokens[:position].tolist() for slot in both if slot.tokens is not None
        ]


def test_what_is_drawn_so_far_can_be_seen(transformer: Transformer) -> None:
    slots = Slots(transformer, TopSampler(), num_codes=64)
    slots.add(drawing())
    for _ in range(3):
        slots.step()
    assert slots.tokens.shape == (1, LENGTH)
    assert (slots.tokens[0] == -1).tolist() == [False] * 3 + [True] * 13


@pytest.mark.thorough
def test_no_cache_stays_when_all_are_gone(transformer: Transformer) -> None:
    def caches() -> int:
        return sum(type(thing) is DecoderCache for thing in gc.get_objects())

    gc.collect()
    before, slots = caches(), Slots(transformer, TopSampler(), num_codes=64)
    several = [slots.add(drawing(seed=seed)) for seed in range(3)]
    slots.step()
    assert caches() == before + 1
    slots.drop(several[:2])
    slots.step()
    slots.drop(several)
    assert caches() == before
    assert slots.step() == []


@pytest.mark.slow
def test_rows_of_a_compiled_model_leave_but_do_not_join_in_the_middle() -> None:
    transformer = tiny_transformer().compile_decoding(backend="eager")
    slots = Slots(transformer, TopSampler(), num_codes=64)
    stays, goes = slots.add(drawing(seed=0)), slots.add(drawing(seed=1))
    slots.step()
    slots.drop([goes])
    while slots.live:
        slots.step()
    assert stays.tokens is not None
    assert stays.tokens.tolist() == alone(tiny_transformer(), drawing(seed=0))
    slots.add(drawing())
    slots.step()
    slots.add(drawing())
    with pytest.raises(
        UnsupportedOperationError, match="no picture can join at 0 where others are"
    ):
        slots.step()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"texts": ()}, InputError, "A drawing needs a text"),
        ({"texts": ("a cat",)}, InputTypeError, "texts are TextTokens, .* not 'a cat'"),
        ({"weights": (1.0, 2.0)}, InputError, r"1 texts needs as many finite weights, not \(1.0"),
        ({"weights": (float("nan"),)}, InputError, "as many finite weights"),
        ({"weights": 3.0}, InputError, "as many finite weights, not 3.0"),
        ({"weights": (2.0,), "base": None}, InputError, "is drawn without a base"),
        ({"fixed": [1, 2]}, InputTypeError, r"fixed must be a tensor of integers \[L\]"),
    ],
)
def test_a_drawing_refuses(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    tokenizer = tiny_tokenizer()
    given = {"texts": (tokenizer("a cat"),), "base": tokenizer.unconditional(), **change}
    with pytest.raises(kind, match=message):
        Drawing(**given)


def test_a_drawing_refuses_two_rows_as_one_text() -> None:
    with pytest.raises(InputError, match="Each text of a drawing is one row, not 2"):
        Drawing(texts=(tiny_tokenizer()(["a", "b"]),))


@pytest.mark.parametrize("fixed", [torch.arange(3), torch.full((16,), 64), torch.full((16,), -2)])
def test_given_tokens_must_be_those_of_a_picture(transformer: Transformer, fixed: Tensor) -> None:
    with pytest.raises(InputError, match=r"fixed must be 16 numbers from -1 \(free\) to 63, not "):
        Slots(transformer, TopSampler()).add(drawing(fixed=fixed))


def test_weights_that_turn_out_wrong_are_told(transformer: Transformer) -> None:
    slots = Slots(transformer, TopSampler())
    slots.add(drawing(weights=lambda share: (1.0, 2.0)))
    with pytest.raises(InputError, match="as many finite weights, not"):
        slots.step()


def one_argument(logits: Tensor) -> Tensor:
    return logits.argmax(-1)


def three_arguments(logits: Tensor, state: SamplerState, more: int) -> Tensor:
    return logits.argmax(-1)


def only_by_name(logits: Tensor, *, state: SamplerState) -> Tensor:
    return logits.argmax(-1)


@pytest.mark.parametrize("sampler", [one_argument, three_arguments, only_by_name])
def test_a_sampler_with_other_arguments_is_refused(
    transformer: Transformer, sampler: Callable[..., Tensor]
) -> None:
    with pytest.raises(InputTypeError, match=r"called as sampler\(logits, state\), which this one"):
        Slots(transformer, sampler)


def test_texts_of_any_length_stand_beside_each_other(transformer: Transformer) -> None:
    trimmed = tiny_tokenizer()("a red apple").trim()
    short = TextTokens(trimmed.input_ids, trimmed.attention_mask)
    one = Drawing(texts=(short,), weights=(4.0,), base=tiny_tokenizer().unconditional(), seed=3)
    assert alone(transformer, one) == alone(transformer, drawing(seed=3))
