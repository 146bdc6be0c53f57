"""What a sampler chose: refused at once where no value is needed, else at the next look."""

from __future__ import annotations

import pytest
import torch

from dallemini.errors import InputError, InputTypeError
from dallemini.generation.sampling import Choices

LOGITS = torch.zeros(2, 5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_good_choices_come_back_as_int64(dtype: torch.dtype) -> None:
    choices = Choices()
    for chosen in ([0, 4], [3, 3]):
        tokens = choices.take(torch.tensor(chosen, dtype=dtype), LOGITS)
        assert tokens.dtype == torch.int64
        assert tokens.tolist() == chosen
    choices.check()


def test_no_choice_is_a_good_one() -> None:
    Choices().check()


def test_a_wrong_id_is_safe_until_it_is_told() -> None:
    choices = Choices()
    assert choices.take(torch.tensor([-1, 10**6]), LOGITS).tolist() == [0, 4]
    with pytest.raises(InputError, match=r"chose from 5 ids, but returned \[-1, 1000000\]"):
        choices.check()


def test_the_first_mistake_is_told_and_once() -> None:
    choices = Choices()
    choices.take(torch.tensor([1, 2]), LOGITS)
    choices.take(torch.tensor([1, 2]), torch.full((2, 5), torch.nan))
    choices.take(torch.tensor([1, 5]), LOGITS)
    with pytest.raises(InputError, match="logits are not finite"):
        choices.check()
    choices.check()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_told(value: float) -> None:
    choices = Choices()
    choices.take(torch.tensor([0, 1]), torch.tensor([[0.0, 0.0], [0.0, value]]))
    with pytest.raises(InputError, match=r"logits are not finite .*dtype=torch\.float32"):
        choices.check()


def test_minus_infinity_is_a_good_logit() -> None:
    choices = Choices()
    choices.take(torch.tensor([0, 1]), torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]]))
    choices.check()


def test_a_sampler_may_use_the_memory_of_its_result_again() -> None:
    choices, result = Choices(), torch.tensor([0, 7])
    tokens = choices.take(result, LOGITS)
    result.fill_(2)
    assert tokens.tolist() == [0, 4]
    with pytest.raises(InputError, match=r"returned \[0, 7\]"):
        choices.check()


def test_wrong_kinds_and_shapes_are_refused_at_once() -> None:
    with pytest.raises(
        InputTypeError, match=r"must be a tensor of integers \[2\], one id an image"
    ):
        Choices().take([0, 1], LOGITS)
    with pytest.raises(InputError, match=r"must have shape \[2\], one id an image, not \[2, 1\]"):
        Choices().take(torch.tensor([[0], [1]]), LOGITS)
    with pytest.raises(InputError, match="chose 1 ids for 2 images"):
        Choices().take(torch.tensor([0]), LOGITS)
