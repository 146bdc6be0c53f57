"""A mixture of several prompts that stands where one prompt does.

Knows texts and numbers: what a mixture does to logits is in `drawing` and `slots`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat, TypeAlias

from ..config import plain_number
from ..errors import InputError, InputTypeError


@dataclass(frozen=True, init=False)
class Blend:
    """Several prompts for one picture, each with a weight.

    The weights are shares: they are divided by their sum, so that `{"a cat": 3, "a dog": 1}` and
    `{"a cat": 0.75, "a dog": 0.25}` are the same mixture, and one prompt alone is that prompt. The
    scale of guidance is shared out among the texts; what a picture is to be led away from is no
    weight below 0 but `negative_prompt=`.

    Args:
        weights: at least one prompt with its weight, finite and above 0.

    Attributes:
        texts: the prompts, in their order.
        shares: their weights divided by the sum.

    Raises:
        InputTypeError: `weights` is not a mapping from strings to numbers.
        InputError: there is no prompt, or a weight is not finite or not above 0.

    Example:
        >>> from dallemini import Blend
        >>> print(Blend({"a cat": 3, "a dog": 1}))
        0.75 a cat + 0.25 a dog
        >>> Blend({"a cat": 3, "a dog": 1}).weights
        {'a cat': 0.75, 'a dog': 0.25}
    """

    texts: tuple[str, ...] = field(init=False)
    shares: tuple[float, ...] = field(init=False)

    def __init__(self, weights: Mapping[str, SupportsFloat]) -> None:
        if not isinstance(weights, Mapping):
            raise InputTypeError(
                'A blend is made from prompts with weights, such as {"a cat": 0.6, "a dog": 0.4}, '
                f"not from a {type(weights).__name__}."
            )
        if not weights:
            raise InputError("A blend needs at least one prompt with a weight.")
        numbers = [_check(text, weight) for text, weight in weights.items()]
        largest = max(numbers)  # whose sum may be too large for a number
        scaled = [number / largest for number in numbers]
        total = math.fsum(scaled)
        object.__setattr__(self, "texts", tuple(weights))
        object.__setattr__(self, "shares", tuple(number / total for number in scaled))

    @property
    def weights(self) -> dict[str, float]:
        """The prompts with their shares, which add up to 1."""
        return dict(zip(self.texts, self.shares, strict=True))

    def __str__(self) -> str:
        pairs = zip(self.texts, self.shares, strict=True)
        return " + ".join(f"{share:.3g} {text}" for text, share in pairs)

    def __repr__(self) -> str:
        return f"Blend({self.weights!r})"

    def __len__(self) -> int:
        return len(self.texts)


Prompt: TypeAlias = str | Blend
"""What a picture is asked for by."""


def _check(text: object, weight: object) -> float:
    if not isinstance(text, str):
        raise InputTypeError(f"The prompts of a blend are strings, not {reprlib.repr(text)}.")
    number = plain_number(weight)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputTypeError(
            f"The weight of {reprlib.repr(text)} must be a number, not {reprlib.repr(weight)}."
        )
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    if not (math.isfinite(number) and number > 0):
        raise InputError(
            f"The weight of {reprlib.repr(text)} must be finite and above 0, not {number}; what "
            "not to draw is given as negative_prompt=."
        )
    return number


def check_prompts(prompts: Prompt | Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Return one or more prompts as a tuple.

    Raises:
        InputTypeError: they are neither a prompt nor a sequence of prompts.
        InputError: there is none.
    """
    if isinstance(prompts, str | Blend):
        return (prompts,)
    if getattr(prompts, "ndim", 0) == 1 and hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if isinstance(prompts, Mapping):
        raise InputTypeError("prompts must not be a dict; write Blend({...}) for a mixture.")
    if isinstance(prompts, bytes | bytearray) or not isinstance(prompts, Sequence):
        hint = "list(...) makes a list of anything that can be walked through."
        if not isinstance(prompts, Iterable):
            hint = "look at the order of the arguments, or name them."
        raise InputTypeError(
            f"prompts must be a str or a sequence of str, not {type(prompts).__name__}; {hint}"
        )
    if not len(prompts):
        raise InputError("There are no prompts; give at least one.")
    for position, prompt in enumerate(prompts):
        if not isinstance(prompt, str | Blend):
            hint = "; write Blend({...}) for a mixture" if isinstance(prompt, Mapping) else ""
            raise InputTypeError(
                f"prompts[{position}] must be a str, not {type(prompt).__name__} "
                f"({prompt!r:.80}){hint}."
            )
    return tuple(prompts)


def texts_of(prompt: Prompt) -> tuple[tuple[str, float], ...]:
    """Return the texts of a prompt with their shares; a string is one of share 1."""
    if isinstance(prompt, str):
        return ((prompt, 1.0),)
    return tuple(zip(prompt.texts, prompt.shares, strict=True))
