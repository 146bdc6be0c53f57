"""One call, checked: what to draw, in which batches, and from which random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..tokenizer import TextTokens
from .config import MAX_SEED, GenerationConfig
from .sampling import Sampler


@dataclass(frozen=True)
class Request:
    """One call, checked: what to draw and with which random numbers."""

    prompts: tuple[str, ...]
    tokens: TextTokens
    config: GenerationConfig
    seeds: tuple[int, ...]
    sampler: Sampler
    progress: bool | None

    @property
    def batches(self) -> list[range]:
        """The images drawn together, as ranges of their indices."""
        count = len(self.seeds)
        size = self.config.batch_size or count
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    def prompt_of(self, image: int) -> int:
        """Return which prompt an image belongs to."""
        return image // self.config.num_images_per_prompt

    def ranking(self, scores: Sequence[float]) -> list[int]:
        """Return the images sorted by prompt, then by falling score."""
        return sorted(range(len(scores)), key=lambda image: (self.prompt_of(image), -scores[image]))


def choose_seeds(config: GenerationConfig, count: int) -> tuple[int, ...]:
    """Return one seed for each image.

    Raises:
        InputError: another number of seeds than images, or no room to count up from the one.
    """
    if isinstance(config.seed, tuple):
        if len(config.seed) != count:
            raise InputError(
                f"{count} pictures need {count} seeds, one each, not {len(config.seed)}; "
                "or give a single seed to count up from."
            )
        return config.seed
    first = secrets.randbelow(2**32) if config.seed is None else config.seed
    if first + count - 1 > MAX_SEED:
        raise InputError(
            f"seed {first} leaves no room to count up {count} pictures; take a lower one."
        )
    return tuple(range(first, first + count))
