"""What one picture is to be: texts and their weights, a seed, tokens that are given.

Knows numbers only: texts are tokenized, pictures are tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError, InputTypeError
from ..models._checks import check_ids
from ..text.tokenizer import TextTokens

FREE = -1  # in `Drawing.fixed`: a token that is to be drawn

Weights: TypeAlias = Sequence[float] | Callable[[float], Sequence[float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """What one picture is to be.

    The logits of a token are `base + sum of weight_k * (text_k - base)`. One text with the weight s
    is guidance of the scale s; several are a mixture; another base is what not to draw.

    Attributes:
        texts: K tokenized texts, each of one row.
        weights: one number for each text, or a function from the share of the picture that is
            drawn, from 0 up to 1, to these numbers. One text that weighs 1 needs no base.
        base: the text from which the others lead away, one row; the empty prompt, as a rule.
        seed: of the picture's random numbers.
        fixed: i64[L], tokens that are given, -1 where they are free; None for all free.
        corner: row and column of its first token on a larger canvas, which a watermark follows.

    Raises:
        InputTypeError: a text is not tokenized, or `fixed` is not a tensor of integers.
        InputError: no texts, not one finite weight for each, or weights that need a base.

    Example:
        >>> from dallemini.generation import Drawing
        >>> from dallemini.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> apple, bird = tokenizer("a red apple"), tokenizer("a blue bird")
        >>> morph = Drawing(
        ...     texts=(apple, bird),
        ...     weights=lambda share: (4 - 4 * share, 4 * share),
        ...     base=tokenizer.unconditional(),
        ...     seed=3,
        ... )
        >>> morph.weights_at(0.25)
        [3.0, 1.0]
    """

    texts: tuple[TextTokens, ...]
    weights: Weights = (1.0,)
    base: TextTokens | None = None
    seed: int = 0
    fixed: Tensor | None = None
    corner: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not self.texts:
            raise InputError("A drawing needs a text; give the empty prompt's tokens for none.")
        for text in (*self.texts, *filter(None, [self.base])):
            _check_text(text)
        if not callable(self.weights):
            self.weights_at(0.0)
        if self.base is None and self.is_guided:
            raise InputError(
                "Only one text that weighs 1 is drawn without a base; give base=, such as the "
                "tokens of the empty prompt."
            )
        if self.fixed is not None:
            check_ids("fixed", self.fixed, shape="[L], -1 where a token is free", axes=1)

    @property
    def is_guided(self) -> bool:
        """Whether the base plays a part: not for one text that always weighs 1."""
        return callable(self.weights) or list(self.weights) != [1.0]

    def weights_at(self, share: float) -> list[float]:
        """Return one weight for each text when this share of the picture is drawn.

        Raises:
            InputError: there is not one finite number for each text.
        """
        found = self.weights(share) if callable(self.weights) else self.weights
        try:
            weights = [float(weight) for weight in found]
        except (TypeError, ValueError):
            weights = []
        if len(weights) != len(self.texts) or not all(map(math.isfinite, weights)):
            raise InputError(
                f"A drawing of {len(self.texts)} texts needs as many finite weights, not {found!r}."
            )
        return weights

    def given_tokens(self, length: int, vocabulary: int) -> list[int]:
        """Return the tokens of a picture of L tokens that are given, -1 where they are free.

        Raises:
            InputError: `fixed` is not one number from -1 up for each token of the picture.
        """
        tokens = [FREE] * length if self.fixed is None else [int(token) for token in self.fixed]
        if len(tokens) != length or min(tokens) < FREE or max(tokens) >= vocabulary:
            raise InputError(
                f"fixed must be {length} numbers from -1 (free) to {vocabulary - 1}, not "
                f"{len(tokens)} from {min(tokens, default=0)} to {max(tokens, default=0)}."
            )
        return tokens


def _check_text(text: object) -> None:
    if not isinstance(text, TextTokens):
        raise InputTypeError(
            f"A drawing's texts are TextTokens, as a Tokenizer returns them, not {text!r:.80}."
        )
    if text.input_ids.shape[0] != 1:
        raise InputError(f"Each text of a drawing is one row, not {text.input_ids.shape[0]}.")


def split_texts(tokens: TextTokens) -> list[TextTokens]:
    """Return the rows of tokenized prompts as texts of their own, i64[1,T] each."""
    rows = zip(tokens.input_ids.split(1), tokens.attention_mask.split(1), strict=True)
    return [TextTokens(ids, mask) for ids, mask in rows]


def stack_texts(texts: Sequence[TextTokens]) -> TextTokens:
    """Return texts of one row each as one batch, padded to the longest."""
    longest = max(text.input_ids.shape[1] for text in texts)

    def stack(rows: list[Tensor]) -> Tensor:
        return torch.cat([pad(row, (0, longest - row.shape[1])) for row in rows])

    return TextTokens(
        stack([text.input_ids for text in texts]), stack([text.attention_mask for text in texts])
    )
