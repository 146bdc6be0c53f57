"""What a form asks for, checked, and the settings that it means."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import Any

from ..config import Config
from ..errors import InputError
from ..generation import GenerationConfig, GenerationOverrides
from .limits import AppLimits

FRESH_SEEDS = 1_000_000  # those that nobody chose are short enough to be read out
MAX_SEED = 2**53 - 1  # a browser's numbers are whole up to here
SHAPES = {"square": (1, 1), "wide": (2, 1), "tall": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class Wish(Config):
    """What somebody asks for.

    Attributes:
        prompt: what the pictures show.
        number: of pictures.
        seed: of the first picture; None for a fresh one.
        guidance_scale: how far the prompt pushes; None for the model's own.
        negative_prompt: what the pictures are led away from.
        candidates: drawn for each picture that is kept.
        rank: show the best first, with scores.
        shape: "square", "wide" or "tall".
        upscale: how many times larger the pictures are made; 1 leaves them.

    Raises:
        ConfigError: a value has the wrong type.
    """

    prompt: str
    number: int = 9
    seed: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    candidates: int = 1
    rank: bool = False
    shape: str = "square"
    upscale: int = 1

    def __post_init__(self) -> None:
        self.check_types()

    def check(self, limits: AppLimits) -> Wish:
        """Return the wish with a seed.

        Raises:
            InputError: a value is beyond the limits, or there is no prompt.
        """
        if not self.prompt.strip():
            raise InputError("Write what the pictures should show.")
        for name, text in (("prompt", self.prompt), ("negative prompt", self.negative_prompt)):
            if len(text) > limits.max_prompt_length:
                raise InputError(
                    f"The {name} has {len(text)} characters; write at most "
                    f"{limits.max_prompt_length}."
                )
        _within("The number of pictures", self.number, 1, limits.max_images)
        _within("The number of candidates", self.candidates, 1, limits.max_candidates)
        if self.shape not in SHAPES:
            raise InputError(f"The shape is one of {', '.join(SHAPES)}, not {self.shape!r}.")
        if self.seed is None:
            return replace(self, seed=secrets.randbelow(FRESH_SEEDS))
        _within("The seed", self.seed, 0, MAX_SEED - limits.max_images * limits.max_candidates)
        return self

    def after(self, last: Wish) -> Wish:
        """Return the same wish with the seed that follows all those of an earlier one."""
        return replace(self, seed=(last.seed or 0) + last.number * last.candidates)

    def overrides(self, size: tuple[int, int]) -> GenerationOverrides:
        """Return the settings of a call, without those that are left to the model.

        Args:
            size: width and height of the model's own pictures.

        Raises:
            ConfigError: a setting is out of range.
        """
        across, down = SHAPES[self.shape]
        given: dict[str, Any] = {
            "num_images_per_prompt": self.number,
            "seed": self.seed,
            "rank": self.rank,
            "candidates": self.candidates,
        }
        if self.guidance_scale is not None:
            given["guidance_scale"] = self.guidance_scale
        if self.negative_prompt.strip():
            given["negative_prompt"] = self.negative_prompt
        if self.shape != "square":
            given |= {"width": size[0] * across, "height": size[1] * down}
        if self.upscale != 1:
            given["upscale"] = self.upscale
        settings: Any = given
        GenerationConfig().override(**settings)
        checked: GenerationOverrides = settings
        return checked


def _within(what: str, number: int, least: int, most: int) -> None:
    if not least <= number <= most:
        raise InputError(f"{what} is from {least} to {most}, not {number}.")
