"""From logits to tokens: filters, the default sampler, one random stream for each image, checks.

Knows logits only. Your own sampler is any callable with the signature of `Sampler`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError, InputTypeError
from ..models._checks import check_ids
from .config import check_sampling


class SamplerState(list[torch.Generator]):
    """What a sampler may know of the N pictures that it chooses a token for.

    It is the list of their generators, which is all that the first form of samplers asks for.

    Args:
        generators: one random stream (on the CPU) for each picture.
        tokens: i64[N,P], the tokens before, on the device of the logits; not to be changed.
        corners: for each picture the row and column of its first token on a larger canvas; None
            for pictures of the model's own size.

    Example:
        >>> import torch
        >>> from dallemini.generation import SamplerState, make_generators
        >>> state = SamplerState(make_generators([0, 1]), torch.tensor([[5, 3, 3], [7, 7, 2]]))
        >>> len(state.generators), state.position, state.tokens[:, -1].tolist()
        (2, 3, [3, 2])
    """

    def __init__(
        self,
        generators: Iterable[torch.Generator],
        tokens: Tensor,
        corners: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__(generators)
        self.tokens = tokens
        whole = [(0, 0)] * len(self)
        self.corners: list[tuple[int, int]] = whole if corners is None else [*corners]

    @property
    def generators(self) -> list[torch.Generator]:
        """One random stream (on the CPU) for each picture."""
        return self

    @property
    def position(self) -> int:
        """P, which token of the pictures is chosen, from 0 up to L."""
        return self.tokens.shape[1]


class Sampler(Protocol):
    """Chooses one token for each picture."""

    def __call__(self, logits: Tensor, state: SamplerState, /) -> Tensor:
        """Choose tokens.

        Args:
            logits: f[N,V], after guidance; ids without a picture are not among the V columns.
            state: the pictures' random streams, and their tokens so far. It can be used as a list
                of the random streams.

        Returns:
            i64[N].
        """


def check_sampler(sampler: object) -> None:
    """Look whether a sampler can be called with logits and a state.

    Raises:
        InputTypeError: it cannot.
    """
    if isinstance(sampler, type) or not callable(sampler):
        raise InputTypeError(f"sampler must be callable like TopSampler(), not {sampler!r}.")
    try:
        signature = inspect.signature(sampler)
    except (TypeError, ValueError):  # of a builtin, which does not say
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise InputTypeError(
            f"A sampler is called as sampler(logits, state), which this one, with the arguments "
            f"{signature}, cannot be: {error}."
        ) from error


def sampler_name(sampler: object) -> str:
    """Return how your own sampler is named in pictures: as its function or its class."""
    while isinstance(sampler, functools.partial):
        sampler = sampler.func
    name: str = getattr(sampler, "__name__", type(sampler).__name__)
    return name


@dataclass(frozen=True, kw_only=True)
class TopSampler:
    """The sampler of the released models: temperature, then top-k, then top-p.

    Each image consumes one uniform number of its own stream for each token, so that it comes out
    the same in any batch.

    Raises:
        ConfigError: a setting is out of range, as in `GenerationConfig`.

    Example:
        >>> import torch
        >>> from dallemini.generation import TopSampler, make_generators
        >>> TopSampler(top_k=1)(torch.tensor([[0.0, 2.0, 1.0]]), make_generators([0]))
        tensor([1])
    """

    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)

    def __call__(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Choose tokens i64[N] from logits f[N,V] with one stream for each row."""
        scores, tokens = _candidates(logits, self.temperature, self.top_k, self.top_p)
        cumulative = scores.softmax(-1).cumsum(-1)
        drawn = [
            torch.rand(1, generator=generator, dtype=torch.float32, device="cpu")
            for generator in generators
        ]
        # CUDA reads ordinary memory before the call returns, so there is nothing to wait for.
        uniform = torch.stack(drawn).to(cumulative.device, non_blocking=cumulative.is_cuda)
        threshold = uniform * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, threshold, right=True)
        last = (scores > -torch.inf).sum(-1, keepdim=True).clamp(min=1) - 1
        if tokens is None:
            return torch.minimum(chosen, torch.full_like(chosen, logits.shape[1] - 1))[:, 0]
        return tokens.gather(1, torch.minimum(chosen, last))[:, 0]


def filter_logits(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """Scale by the temperature and set every token outside top-k and top-p to minus infinity.

    Args:
        logits: f[N,V].
        temperature: the logits are divided by it.
        top_k: keep exactly so many tokens a row (ties: the lower id).
        top_p: of these, keep the likeliest until they reach this probability, at least one.

    Returns:
        f32[N,V], the logits of the tokens that may be drawn.

    Raises:
        ConfigError: a setting is out of range, as in `GenerationConfig`.
    """
    check_sampling(temperature, top_k, top_p)
    scores, tokens = _candidates(logits, temperature, top_k, top_p)
    if tokens is None:
        return scores
    return torch.full_like(logits, -torch.inf, dtype=torch.float32).scatter(1, tokens, scores)


def make_generators(seeds: Iterable[int]) -> list[torch.Generator]:
    """Return one random stream on the CPU for each seed."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


class Choices:
    """Takes one choice after the other; `check` tells what was wrong with those since the last.

    The two are apart because reading a tensor's values makes the processor wait for a GPU, which
    is worth it only every so many tokens. What depends on no value is refused by `take` at once.

    Example:
        >>> import torch
        >>> from dallemini.generation.sampling import Choices
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


def _candidates(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[Tensor, Tensor | None]:
    """Return the scores that are left, likeliest first, with their ids; None for all in order."""
    scores = logits.float() / temperature
    if top_k is None and top_p is None:
        return scores, None
    width = scores.shape[1]
    scores, tokens = scores.topk(min(top_k or width, width), dim=-1)
    if top_p is not None:
        before = scores.softmax(-1).cumsum(-1).roll(1, dims=-1)
        before[:, 0] = 0.0  # the likeliest token is always kept
        scores = scores.masked_fill(before >= top_p, -torch.inf)
    return scores, tokens
