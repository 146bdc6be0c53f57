"""The settings of a drawing, checked when they are made.

Knows no model: what the settings do is in `sampling` and `loop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, SupportsFloat, SupportsIndex, TypeAlias, TypedDict, Unpack

from ..config import Config, coerce
from ..errors import ConfigError
from ..foreign import show
from .blend import Blend

MAX_SEED = 2**63 - 1
MAX_IMAGES = 100_000
MOST_LOOKAHEAD = 1024
MIN_TEMPERATURE = 1e-6  # logits divided by less leave the range of float32

GuidanceScale: TypeAlias = float | tuple[float, float] | Callable[[float], float]

# What other libraries call something that is called otherwise here, and what to say of it.
_ELSEWHERE = {
    "generator": "Random numbers come from seeds, one for each picture: give seed=0, or a list of "
    "seeds, instead of generator.",
    "prompt": "Prompts, one or a list of them, are the first argument or prompts=, not prompt.",
    "num_inference_steps": "Tokens are drawn one after the other, always all of them: leave out "
    "num_inference_steps.",
    "output_type": "Pictures are PIL images, and image_to_tensor makes tensors of them: leave out "
    "output_type.",
    "callback_on_step_end": "A call tells how far it is by callback=, and stream gives pictures on "
    "the way, instead of callback_on_step_end.",
}


class GenerationOverrides(TypedDict, total=False):
    """The fields of `GenerationConfig`, as keywords of one call."""

    num_images_per_prompt: SupportsIndex
    guidance_scale: SupportsFloat | tuple[SupportsFloat, SupportsFloat] | Callable[[float], float]
    temperature: SupportsFloat
    top_k: SupportsIndex | None
    top_p: SupportsFloat | None
    batch_size: SupportsIndex | Literal["auto"] | None
    seed: SupportsIndex | Sequence[SupportsIndex] | None
    rank: bool | Literal["scorer", "likelihood"]
    candidates: SupportsIndex
    upscale: SupportsIndex | None
    prune: bool
    negative_prompt: str | Sequence[str] | None
    width: SupportsIndex | None
    height: SupportsIndex | None
    tile: bool
    lookahead: SupportsIndex


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(Config):
    """How pictures are drawn; the defaults are those of the released models.

    Attributes:
        num_images_per_prompt: pictures for each prompt.
        guidance_scale: how far the prompt pushes, s in `uncond + s * (cond - uncond)`; 1 turns
            guidance off and halves the work. Ho & Salimans 2022, section 3.2. Two numbers are the
            scale at the first token and, reached evenly, after the last; a function gets the share
            of the picture that is drawn, from 0 up to 1, and returns the scale. Windows of a large
            picture go through it together, not each from 0.
        temperature: from 1e-6; lower is safer, higher is wilder.
        top_k: draw only among the k likeliest tokens; None for all, 1 is greedy.
        top_p: draw only among the likeliest tokens that together reach this probability.
        batch_size: pictures drawn at once; "auto" for as many as fit into the memory at hand, None
            for all. Changes no token.
        seed: picture n has the seed `seed + n`; a list gives each its own; None chooses freshly.
        rank: sort the pictures of each prompt by how well they fit it, by the scorer (True or
            "scorer") or by how much likelier the prompt makes their tokens ("likelihood").
        candidates: pictures drawn for each one that is kept, the one that fits its prompt best.
        upscale: how many times larger the finished pictures are made by the upscaler, such as 2
            or 4; None leaves them as they are.
        prune: with four candidates or more, drop the weaker half of each group when half of the
            rows are drawn. It saves up to a quarter of the tokens and may drop the best. Edits,
            tiles and pictures of another size are not pruned, and a warning says so.
        negative_prompt: what the pictures are led away from, instead of the empty prompt; one for
            all prompts, or one for each. It needs guidance.
        width: of the pictures, in pixels; a multiple of a token's. None for the model's own.
        height: likewise.
        tile: draw pictures that repeat without a seam, beside and below themselves.
        lookahead: where kept tokens follow free ones (a hole, windows of a large picture), so many
            continuations are drawn at once and weighed by how well the kept tokens follow; 1 is
            off.

    Raises:
        ConfigError: a value has the wrong type, is not finite, or is out of range; or there is a
            negative prompt without guidance.

    Example:
        >>> from dallemini import GenerationConfig
        >>> GenerationConfig(seed=1).override(top_k=20).top_k
        20
    """

    num_images_per_prompt: int = 1
    guidance_scale: GuidanceScale = 10.0
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = None
    batch_size: int | Literal["auto"] | None = "auto"
    seed: int | tuple[int, ...] | None = None
    rank: bool | Literal["scorer", "likelihood"] = False
    candidates: int = 1
    upscale: int | None = None
    prune: bool = False
    negative_prompt: str | tuple[str, ...] | None = None
    width: int | None = None
    height: int | None = None
    tile: bool = False
    lookahead: int = 8

    def __post_init__(self) -> None:
        _refuse_blend(self.negative_prompt)
        self.check_types()
        for name in ("num_images_per_prompt", "batch_size", "candidates", "lookahead"):
            _check_count(name, getattr(self, name))
        for name in ("width", "height"):
            _check_count(name, getattr(self, name), "None for the model's own size")
        if self.lookahead > MOST_LOOKAHEAD:
            raise ConfigError(
                f"lookahead must be at most {MOST_LOOKAHEAD}, not {show(self.lookahead)}."
            )
        if self.num_images_per_prompt * self.candidates > MAX_IMAGES:
            raise ConfigError(
                f"num_images_per_prompt times candidates must be at most {MAX_IMAGES}, not "
                f"{show(self.num_images_per_prompt * self.candidates)}; make several calls."
            )
        _check_guidance(self.guidance_scale)
        if self.has_negative and not self.is_guided:
            raise ConfigError(
                "negative_prompt plays no part at guidance_scale=1; give a scale above 1, such as "
                "guidance_scale=3, with it."
            )
        if self.upscale is not None and self.upscale < 2:
            raise ConfigError(
                f"upscale must be at least 2, not {self.upscale}; None leaves pictures as they are."
            )
        check_sampling(self.temperature, self.top_k, self.top_p)
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed or 0,):
            if not 0 <= seed <= MAX_SEED:
                raise ConfigError(
                    f"seed must be from 0 to 2**63 - 1, not {seed}; None chooses one freshly."
                )

    @property
    def is_guided(self) -> bool:
        """Whether the prompt is compared with the empty or the negative one."""
        return self.guidance_scale not in (1.0, (1.0, 1.0))

    @property
    def has_negative(self) -> bool:
        """Whether there is a negative prompt with a word in it."""
        given = self.negative_prompt or ""
        return any(text.strip() for text in ([given] if isinstance(given, str) else given))

    def guidance_at(self, share: float) -> float:
        """Return the scale of guidance when this share of a picture is drawn.

        Raises:
            ConfigError: the function of the settings does not return a finite number from 0.
        """
        scale = self.guidance_scale
        if isinstance(scale, tuple):
            return scale[0] + (scale[1] - scale[0]) * share
        if not callable(scale):
            return scale
        found: object = scale(share)
        try:
            number = float(found)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            raise ConfigError(
                "A function given as guidance_scale must return a finite number from 0, but for "
                f"the share {share:g} it returned {show(found)}."
            )
        return number

    def save(self, path: str | Path) -> None:
        """Write the settings to a JSON file, one field a line.

        Raises:
            ConfigError: guidance_scale is a function, which a file cannot hold.
            StorageError: the file cannot be written; an older one stays as it was.
        """
        if callable(self.guidance_scale):
            raise ConfigError(
                "A function given as guidance_scale cannot be saved; give a number or two instead."
            )
        super().save(path)

    def override(self, **overrides: Unpack[GenerationOverrides]) -> Self:
        """Return a copy with some fields changed.

        Raises:
            ConfigError: a keyword is unknown (the nearest is suggested) or a value is refused.
        """
        for name in overrides:
            if name in _ELSEWHERE:
                raise ConfigError(_ELSEWHERE[name])
        _refuse_blend(overrides.get("negative_prompt"))
        changes: dict[str, Any] = {**overrides}
        return type(self).from_dict({**self.to_dict(), **changes})


def _refuse_blend(negative: object) -> None:
    given = negative if isinstance(negative, list | tuple) else [negative]
    if any(isinstance(one, Blend) for one in given):
        raise ConfigError(
            "negative_prompt cannot be a Blend; write all that is to be avoided into one text, "
            'such as "green, blue".'
        )


def guidance_name(scale: GuidanceScale) -> str | None:
    """Return how a function of guidance is named in pictures; None for numbers."""
    if not callable(scale):
        return None
    return str(getattr(scale, "__name__", type(scale).__name__))


def _check_guidance(scale: GuidanceScale) -> None:
    if callable(scale):
        return
    if isinstance(scale, tuple) and len(scale) != 2:
        raise ConfigError(
            f"guidance_scale must be one number, or two for its start and end, not {len(scale)}."
        )
    for number in scale if isinstance(scale, tuple) else (scale,):
        if not (math.isfinite(number) and number >= 0):
            raise ConfigError(f"guidance_scale must be a finite number from 0, not {number}.")


def check_sampling(temperature: object, top_k: object, top_p: object) -> None:
    """Check the settings of the default sampler.

    Raises:
        ConfigError: one has the wrong type or is out of range.
    """
    heat = coerce(GenerationConfig, "temperature", temperature, float)
    if not (math.isfinite(heat) and heat >= MIN_TEMPERATURE):
        raise ConfigError(
            f"temperature must be a finite number from 1e-6, not {heat}; "
            "use top_k=1 to always take the likeliest token."
        )
    if top_k is not None:
        _check_count("top_k", coerce(GenerationConfig, "top_k", top_k, int | None))
    share = 1.0 if top_p is None else coerce(GenerationConfig, "top_p", top_p, float | None)
    if not 0 < share <= 1:
        raise ConfigError(f"top_p must be above 0 and at most 1, not {share}.")


def _check_count(name: str, value: object, none: str = "None for no limit") -> None:
    if isinstance(value, int) and value < 1:
        limited = name in ("num_images_per_prompt", "candidates", "lookahead")
        hint = "" if limited else f"; use {none}"
        raise ConfigError(f"{name} must be at least 1, not {value}{hint}.")
