"""One call, checked: what to draw, in which batches, and from which random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..models.transformer import Transformer
from ..text.tokenizer import TextTokens, Tokenizer
from .blend import Prompt, check_prompts, texts_of
from .config import MAX_SEED, GenerationConfig
from .drawing import Drawing, Weights, split_texts
from .memory import choose_batch_size
from .sampling import Sampler, TopSampler, check_sampler

FEWEST_PRUNED = 4  # candidates: of fewer, half would be chosen by halves alone


@dataclass(frozen=True)
class Request:
    """One call, checked: what to draw and with which random numbers."""

    prompts: tuple[Prompt, ...]
    drawings: tuple[Drawing, ...]
    config: GenerationConfig
    seeds: tuple[int, ...]
    sampler: Sampler
    batch_size: int

    @property
    def batches(self) -> list[range]:
        """The images drawn together, as ranges of their indices; whole groups if they prune."""
        count, size = len(self.seeds), self.batch_size
        if self.prunes and self.has_whole_groups:
            size -= size % self.config.candidates
        return [range(start, min(start + size, count)) for start in range(0, count, size)]

    @property
    def prunes(self) -> bool:
        """Whether the weaker half of each group of candidates is dropped half-way."""
        return self.config.prune and self.config.candidates >= FEWEST_PRUNED

    @property
    def has_whole_groups(self) -> bool:
        """Whether the candidates of each picture are drawn together."""
        return self.batch_size >= self.config.candidates

    def prompt_of(self, image: int) -> int:
        """Return which prompt an image belongs to."""
        return image // (self.config.num_images_per_prompt * self.config.candidates)

    def choose(self, scores: Mapping[int, float] | Sequence[float]) -> list[int]:
        """Return the images that are kept: the best of each group of candidates.

        Where ranking is asked for, they are sorted by prompt, then by falling score.

        Args:
            scores: by image; one that has none was dropped.
        """
        size = self.config.candidates
        known = scores if isinstance(scores, Mapping) else dict(enumerate(scores))
        groups: dict[int, list[int]] = {}
        for image in sorted(known):
            groups.setdefault(image // size, []).append(image)
        kept = [max(group, key=lambda image: scores[image]) for group in groups.values()]
        if not self.config.rank:
            return kept
        return sorted(kept, key=lambda image: (self.prompt_of(image), -scores[image]))


def make_request(
    prompts: Prompt | Sequence[Prompt],
    *,
    tokenizer: Tokenizer,
    transformer: Transformer,
    vqgan: object,
    config: GenerationConfig,
    sampler: Sampler | None,
) -> Request:
    """Check a call, tokenize its prompts, and decide what is drawn together.

    Args:
        prompts: one prompt or several.
        tokenizer: of the prompts.
        transformer: draws the tokens.
        vqgan: draws the pixels.
        config: settings of the call.
        sampler: chooses the tokens; None for the one of the settings.

    Raises:
        InputError: no prompts, or not one seed for each picture, or not one negative prompt for
            each or for all.
        ConfigError: a function of guidance returns no scale.
        InputTypeError: prompts that are neither strings nor blends, or a sampler that cannot be
            called.
    """
    if sampler is not None:
        check_sampler(sampler)
    asked = check_prompts(prompts)
    each = config.num_images_per_prompt * config.candidates
    seeds = choose_seeds(config, len(asked) * each)
    texts = [texts_of(prompt) for prompt in asked]
    named: dict[str, str] = {}
    for number, pairs in enumerate(texts):
        for text, _ in pairs:
            named.setdefault(text, f"prompts[{number}]")
    read = _read_texts(tokenizer, named)
    bases = _read_bases(tokenizer, config, len(asked))
    weights = [_weigh(config, tuple(share for _, share in pairs)) for pairs in texts]
    drawings = [
        Drawing(
            texts=tuple(read[text] for text, _ in texts[image // each]),
            weights=weights[image // each],
            base=bases[image // each],
            seed=seed,
        )
        for image, seed in enumerate(seeds)
    ]
    top = TopSampler(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)
    return Request(
        prompts=asked,
        drawings=tuple(drawings),
        config=config,
        seeds=seeds,
        sampler=sampler or top,
        batch_size=choose_batch_size(
            config,
            transformer,
            vqgan,
            images=len(seeds),
            texts=max(map(len, texts)),
        ),
    )


def _read_texts(tokenizer: Tokenizer, named: Mapping[str, str]) -> dict[str, TextTokens]:
    """Tokenize texts, each of which the transformer then reads once; messages call them so."""
    tokens = tokenizer(list(named), names=list(named.values()))
    return dict(zip(named, split_texts(tokens), strict=True))


def _read_bases(tokenizer: Tokenizer, config: GenerationConfig, count: int) -> list[TextTokens]:
    """Return what the pictures of each of so many prompts are led away from."""
    given = config.negative_prompt
    texts = list(given) if isinstance(given, tuple) else [given or ""] * count
    if len(texts) != count:
        raise InputError(
            f"{_needs(count, 'prompt', 'negative prompt')}, one each, or one str for all, not "
            f"{len(texts)}."
        )
    blank = tokenizer.unconditional()
    named: dict[str, str] = {}
    for number, text in enumerate(texts):
        if text.strip():
            one = f"[{number}]" if isinstance(given, tuple) else ""
            named.setdefault(text, f"negative_prompt{one}")
    read = _read_texts(tokenizer, named) if named else {}
    return [read.get(text, blank) for text in texts]


def _weigh(config: GenerationConfig, shares: tuple[float, ...]) -> Weights:
    """Return the weights of a prompt's texts: numbers, or a function where the scale changes."""
    scale = config.guidance_scale
    first = config.guidance_at(0.0)  # a wrong function is told before anything is drawn
    if callable(scale) or (isinstance(scale, tuple) and scale[0] != scale[1]):
        return lambda share: [config.guidance_at(share) * part for part in shares]
    return [first * part for part in shares]


def choose_seeds(config: GenerationConfig, count: int) -> tuple[int, ...]:
    """Return one seed for each image.

    Raises:
        InputError: another number of seeds than images, candidates included, or no room to count up
            from the one.
    """
    if isinstance(config.seed, tuple):
        if len(config.seed) != count:
            raise InputError(
                f"{_needs(count, 'picture', 'seed')}, one each, not {len(config.seed)}; "
                "or give a single seed to count up from."
            )
        return config.seed
    return tuple(count_up(secrets.randbelow(2**32) if config.seed is None else config.seed, count))


def count_up(first: int, count: int) -> range:
    """Return seeds from the first one on.

    Raises:
        InputError: there is no room for so many.
    """
    if first + count - 1 > MAX_SEED:
        raise InputError(
            f"seed {first} leaves no room to count up {count} pictures; take a lower one."
        )
    return range(first, first + count)


def _needs(count: int, thing: str, other: str) -> str:
    """Say that so many things need as many others."""
    if count == 1:
        return f"1 {thing} needs 1 {other}"
    return f"{count} {thing}s need {count} {other}s"
