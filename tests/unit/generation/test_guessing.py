"""Guessed tokens save passes, and change no token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from dallemini import kernels
from dallemini.errors import InputError
from dallemini.generation import (
    Drawing,
    Sampler,
    SamplerState,
    Slots,
    Tally,
    TopSampler,
    Watermark,
    make_generators,
)
from dallemini.generation.pace import Pace
from dallemini.generation.watermark import CodeGroups
from dallemini.models.transformer import Transformer
from dallemini.testing import TINY_TRANSFORMER, tiny_pipeline, tiny_tokenizer, tiny_transformer

LENGTH = 36
SIZES = dataclasses.replace(
    TINY_TRANSFORMER,
    d_model=64,
    encoder_ffn_dim=72,
    decoder_ffn_dim=72,
    image_length=LENGTH,
)
SAMPLER = TopSampler(temperature=0.3, top_k=8)

built = pytest.mark.skipif(not kernels.has_kernels(), reason="the kernels are not built here")


@pytest.fixture(scope="module", params=["float32", "int8"])
def transformer(request: pytest.FixtureRequest) -> Transformer:
    model = tiny_transformer(SIZES)
    return model.quantize() if request.param == "int8" else model


def kinds() -> list[Drawing]:
    """Pictures of every kind."""
    tokenizer = tiny_tokenizer()
    apple, birds = tokenizer("a red apple"), tokenizer("two blue birds")
    blank, tree = tokenizer.unconditional(), tokenizer("a green tree")
    hole = torch.arange(LENGTH)
    hole[8:12] = hole[20:22] = -1
    begun = torch.full((LENGTH,), -1)
    begun[:9] = 5
    return [
        Drawing(texts=(apple,), weights=(4.0,), base=blank, seed=1),
        Drawing(texts=(birds,), seed=2),
        Drawing(
            texts=(apple, birds), weights=lambda share: (3 - 3 * share, share), base=tree, seed=3
        ),
        Drawing(texts=(birds,), weights=(3.0,), base=blank, seed=4, fixed=hole),
        Drawing(texts=(apple,), seed=5, fixed=begun),
    ]


def draw(
    transformer: Transformer,
    drawings: Sequence[Drawing],
    guess: int | None,
    sampler: Sampler = SAMPLER,
) -> tuple[list[list[int]], Tally]:
    """Draw pictures together."""
    slots = Slots(transformer, sampler, num_codes=64, guess=guess)
    added = [slots.add(one) for one in drawings]
    while any(slot.tokens is None for slot in added):
        slots.step()
    return [slot.tokens.tolist() for slot in added if slot.tokens is not None], slots.tally


@pytest.mark.slow_except("float32")
def test_guesses_change_no_token_and_save_passes(transformer: Transformer) -> None:
    steps = passes = 0
    for one in kinds():
        expected, plain = draw(transformer, [one], 1)
        assert plain.steps == plain.passes
        for guess in (7, None):
            found, tally = draw(transformer, [one], guess)
            assert found == expected
            assert tally.steps == plain.steps
            steps, passes = steps + tally.steps, passes + tally.passes
    assert passes < 0.95 * steps or not kernels.has_kernels()


@pytest.mark.slow_except("float32-3", "int8-None")
@pytest.mark.parametrize("guess", [3, None])
def test_who_joins_and_who_leaves_while_others_are_ahead_changes_no_token(
    transformer: Transformer, guess: int | None
) -> None:
    expected = [draw(transformer, [one], 1)[0][0] for one in kinds()]
    slots, added = Slots(transformer, SAMPLER, num_codes=64, guess=guess), []
    for number, one in enumerate(kinds()):
        added.append(slots.add(one))
        passing = slots.add(dataclasses.replace(kinds()[1], seed=99))
        for _ in range(2 + number):
            slots.step()
        slots.drop([passing])
        for _ in range(3):
            slots.step()
    while slots.live:
        slots.step()
    assert [slot.tokens.tolist() for slot in added if slot.tokens is not None] == expected


@pytest.mark.slow_except("float32")
def test_pictures_are_decoded_ahead_of_each_other(transformer: Transformer) -> None:
    """What is given is guessed right, so that one of them waits for the other."""
    together = [kinds()[3], kinds()[0]]
    expected = draw(transformer, together, 1)[0]
    found, tally = draw(transformer, together, 6)
    assert found == expected
    assert tally.passes < tally.steps or not kernels.has_kernels()


@pytest.mark.slow_except("float32")
def test_where_guessing_does_not_pay_it_is_seldom_thought_of(
    transformer: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[int]()

    def choose(self: Pace, rows: int, **known: int) -> int:
        asked.append(rows)
        return 1

    monkeypatch.setattr(Pace, "choose", choose)
    free, given = [kinds()[0]], [kinds()[3]]
    tally = draw(transformer, free, None)[1]
    assert tally.passes == tally.steps
    assert 1 <= len(asked) <= 1 + tally.steps // 8 or not kernels.has_kernels()
    asked.clear()
    draw(transformer, given, None)  # where tokens are given, guesses of them will hold
    assert len(asked) > tally.steps // 8 or not kernels.has_kernels()


@pytest.mark.slow_except("float32")
def test_likelihoods_are_those_of_drawing_one_by_one(transformer: Transformer) -> None:
    def likelihoods(guess: int) -> Tensor:
        slots = Slots(transformer, SAMPLER, num_codes=64, guess=guess)
        for one in (kinds()[3], kinds()[0]):
            slots.add(one, to_the_end=True)
        found = []
        for _ in range(LENGTH):
            slots.step()
            found.append(slots.log_likelihoods()[-1])
        return torch.stack(found)

    assert torch.equal(likelihoods(5), likelihoods(1))


def test_copies_go_on_from_where_the_other_stands(transformer: Transformer) -> None:
    def tokens(guess: int) -> list[list[int]]:
        slots, one = Slots(transformer, SAMPLER, num_codes=64, guess=guess), kinds()[3]
        first, second = (
            slots.add(one, generator=generator) for generator in make_generators([0, 1])
        )
        slots.step()
        while slots.live:
            if first.position in (11, 20):
                slots.copy({second: first})
            slots.step()
        assert first.tokens is not None
        assert second.tokens is not None
        return [first.tokens.tolist(), second.tokens.tolist()]

    assert tokens(5) == tokens(1)


@pytest.mark.slow_except("float32")
def test_a_marked_picture_is_guessed_too(transformer: Transformer) -> None:
    codes = torch.arange(64)
    groups = CodeGroups(pairs=codes // 2, sides=codes % 2)
    sampler = Watermark("secret").lean(SAMPLER, groups, side=6)
    drawings = [dataclasses.replace(kinds()[0], corner=(3, 2)), kinds()[3]]
    expected = draw(transformer, drawings, 1, sampler)[0]
    found, tally = draw(transformer, drawings, 4, sampler)
    assert found == expected
    assert tally.passes < tally.steps or not kernels.has_kernels()


def test_your_own_sampler_is_asked_once_for_each_token_in_order(transformer: Transformer) -> None:
    asked: list[int] = []

    def sampler(logits: Tensor, state: SamplerState) -> Tensor:
        asked.append(state.position)
        return logits.argmax(-1)

    _, tally = draw(transformer, kinds()[:1], 4, sampler)
    assert asked == [*range(LENGTH)]
    assert tally.passes == tally.steps == LENGTH


@pytest.mark.slow_except("float32")
def test_two_pictures_may_share_random_numbers(transformer: Transformer) -> None:
    """What each will draw is then not known beforehand, and is thrown away."""

    def tokens(guess: int) -> list[Tensor | None]:
        slots, shared = Slots(transformer, SAMPLER, num_codes=64, guess=guess), make_generators([7])
        added = [slots.add(one, generator=shared[0]) for one in kinds()[:2]]
        for _ in range(LENGTH):
            slots.step()
        return [slot.tokens for slot in added]

    for found, expected in zip(tokens(4), tokens(1), strict=True):
        assert found is not None
        assert expected is not None
        assert torch.equal(found, expected)


def test_without_kernels_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_library", lambda: None)
    transformer = tiny_transformer(SIZES)
    found, tally = draw(transformer, kinds()[3:4], 4)
    assert tally.passes == tally.steps
    assert found == draw(transformer, kinds()[3:4], 1)[0]


class Uneven(nn.Module):
    """A layer that computes otherwise in larger batches."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden_states: Tensor) -> Tensor:
        computed: Tensor = self.inner(hidden_states)
        return computed * (1 + 1e-3 * hidden_states.shape[1])


def test_a_model_whose_rows_depend_on_each_other_is_found_out() -> None:
    transformer = tiny_transformer(SIZES)
    transformer.lm_head = Uneven(transformer.lm_head)  # type: ignore[assignment]
    expected = draw(transformer, kinds()[:1], 1)[0]
    found, tally = draw(transformer, kinds()[:1], 4)
    assert found == expected
    assert tally.passes - tally.steps in (0, 1)  # the pass that has shown it


@pytest.mark.slow_except("float32-3", "int8-2")
@built
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_several_positions_have_the_bits_of_one_by_one(transformer: Transformer, rows: int) -> None:
    tokens = torch.randint(64, (rows, 24), generator=torch.Generator().manual_seed(rows))
    with torch.no_grad():
        texts = tiny_tokenizer()(["a red apple", "two blue birds on a tree", "a"][:rows])
        encoded = transformer.encode(texts.trim())
        alone, several = transformer.init_cache(encoded), transformer.init_cache(encoded)
        steps = [transformer.decode_step(tokens[:, i], alone) for i in range(24)]
        parts = [transformer.extend(part, several) for part in tokens.split([1, 2, 5, 16], 1)]
    assert torch.equal(torch.cat(parts, 1), torch.stack(steps, 1))


def test_a_width_below_one_is_refused(transformer: Transformer) -> None:
    with pytest.raises(InputError, match=r"guess must be at least 1, .* not 0"):
        Slots(transformer, SAMPLER, guess=0)


def test_a_call_tells_how_many_tokens_a_pass_brought() -> None:
    pipe = tiny_pipeline()
    out = pipe("a red apple", seed=0, progress=False)
    assert out.tokens_per_pass == 1.0  # heads of 8 numbers are not the kernels'
    pipe.transformer = tiny_transformer(dataclasses.replace(SIZES, image_length=16))
    *_, last = pipe.stream("a red apple", seed=0, guidance_scale=1.0, top_k=1)
    assert last.output is not None
    assert (last.output.tokens_per_pass or 0) >= 1.0
