"""One call, checked: what to draw, in which batches, and from which random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, InputTypeError
from ..models.transformer import Transformer
from ..text.tokenizer import Tokenizer
from .config import MAX_SEED, GenerationConfig
from .drawing import Drawing, split_texts
from .memory import choose_batch_size
from .sampling import Sampler, TopSampler, check_sampler


@dataclass(frozen=True)
class Request:
    """One call, checked: what to draw and with which random numbers."""

    prompts: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    config: GenerationConfig
    seeds: tuple[int, ...]
    sampler: Sampler
    progress: bool | None
    batch_size: int

    @property
    def batches(self) -> list[range]:
        """The images drawn together, as ranges of their indices."""
        count = len(self.seeds)
        starts = range(0, count, self.batch_size)
        return [range(start, min(start + self.batch_size, count)) for start in starts]

    def prompt_of(self, image: int) -> int:
        """Return which prompt an image belongs to."""
        return image // (self.config.num_images_per_prompt * self.config.candidates)

    def choose(self, scores: Sequence[float]) -> list[int]:
        """Return the images that are kept: the best of each group of candidates.

        Where ranking is asked for, they are sorted by prompt, then by falling score.
        """
        size = self.config.candidates
        groups = [range(start, start + size) for start in range(0, len(scores), size)]
        kept = [max(group, key=lambda image: scores[image]) for group in groups]
        if not self.config.rank:
            return kept
        return sorted(kept, key=lambda image: (self.prompt_of(image), -scores[image]))


def make_request(
    prompts: str | Sequence[str],
    *,
    tokenizer: Tokenizer,
    transformer: Transformer,
    vqgan: object,
    config: GenerationConfig,
    sampler: Sampler | None,
    progress: bool | None,
) -> Request:
    """Check a call, tokenize its prompts, and decide what is drawn together.

    Args:
        prompts: one prompt or several.
        tokenizer: of the prompts.
        transformer: draws the tokens.
        vqgan: draws the pixels.
        config: settings of the call.
        sampler: chooses the tokens; None for the one of the settings.
        progress: whether to show a bar; None for the default.

    Raises:
        InputError: no prompts, or not one seed for each picture.
        InputTypeError: prompts that are not strings, a sampler that cannot be called, or progress
            that is not one of the three.
    """
    if sampler is not None:
        check_sampler(sampler)
    if progress is not None and not isinstance(progress, bool):
        raise InputTypeError(f"progress must be True, False or None, not {progress!r}.")
    rows, base = split_texts(tokenizer(prompts)), tokenizer.unconditional()
    texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    each = config.num_images_per_prompt * config.candidates
    seeds = choose_seeds(config, len(texts) * each)
    weights = (config.guidance_scale,)
    drawings = [
        Drawing(
            texts=(rows[image // each],),
            weights=weights,
            base=base,
            seed=seed,
        )
        for image, seed in enumerate(seeds)
    ]
    top = TopSampler(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    return Request(
        prompts=texts,
        drawings=tuple(drawings),
        config=config,
        seeds=seeds,
        sampler=sampler or top,
        progress=progress,
        batch_size=choose_batch_size(config, transformer, vqgan, images=len(seeds)),
    )


def choose_seeds(config: GenerationConfig, count: int) -> tuple[int, ...]:
    """Return one seed for each image.

    Raises:
        InputError: another number of seeds than images, candidates included, or no room to count up
            from the one.
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
