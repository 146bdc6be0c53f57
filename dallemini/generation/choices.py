"""What a sampler chose, checked: ids that it was offered, from logits that are numbers.

Knows ids and logits, not what comes of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..models._checks import check_ids


class Choices:
    """Takes one choice after the other; `check` tells what was wrong with those since the last.

    The two are apart because reading a tensor's values makes the processor wait for a GPU, which
    is worth it only every so many tokens. What depends on no value is refused by `take` at once.

    Example:
        >>> import torch
        >>> from dallemini.generation.choices import Choices
        >>> choices = Choices()
        >>> choices.take(torch.tensor([3, 9]), torch.zeros(2, 5))
        tensor([3, 4])
        >>> choices.check()
        Traceback (most recent call last):
        ...
        dallemini.errors.InputError: The sampler chose from 5 ids, but returned [3, 9].
    """

    def __init__(self) -> None:
        self._unseen: list[tuple[Tensor, int]] = []
        self._good: list[Tensor] = []  # for each, whether the ids were offered, the logits numbers

    def take(self, choice: object, logits: Tensor) -> Tensor:
        """Return a choice as ids that are safe to look up, whatever `check` will say of it.

        Args:
            choice: what the sampler returned.
            logits: f[N,V], what it chose from.

        Returns:
            i64[N] on the device of the logits, those outside 0 <= id < V moved to the nearest.

        Raises:
            InputTypeError: the choice is not a tensor of integers.
            InputError: it is not one id for each image.
        """
        images, width = logits.shape
        tokens = check_ids(
            "The sampler's choice", choice, shape=f"[{images}], one id an image", axes=1
        )
        if len(tokens) != images:
            raise InputError(f"The sampler chose {len(tokens)} ids for {images} images.")
        # A copy, since a sampler may use the memory of its result again.
        tokens = tokens.to(logits.device, torch.int64, copy=True)
        safe = tokens.clamp(0, width - 1)
        numbers = logits < torch.inf  # False for NaN too
        self._unseen.append((tokens, width))
        self._good.append(torch.stack([(tokens == safe).all(), numbers.all()]))
        return safe

    def check(self) -> None:
        """Look at the choices since the last look.

        Raises:
            InputError: one has ids that were not offered, or came from logits that are no numbers.
        """
        unseen, self._unseen = self._unseen, []
        good = torch.stack(self._good).tolist() if unseen else []
        self._good = []
        for (tokens, width), (offered, numbers) in zip(unseen, good, strict=True):
            if not offered:
                raise InputError(
                    f"The sampler chose from {width} ids, but returned {tokens.tolist()}."
                )
            if not numbers:
                raise InputError(
                    "The transformer's logits are not finite numbers: its weights are broken, or "
                    "the numbers too large. Load it with dtype=torch.float32 or lower "
                    "guidance_scale."
                )
