"""The decoding loop: from tokenized prompts to image tokens, one position at a time.

Knows tokens and batches of them, not pictures; `slots` has the steps themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..models.transformer import Transformer
from ..text.tokenizer import TextTokens
from .drawing import Drawing, split_texts
from .request import Request
from .sampling import Sampler
from .slot import Tally
from .slots import LOOK_EVERY, Slots

__all__ = ["LOOK_EVERY", "draw_batches", "generate_tokens"]


@torch.no_grad()
def generate_tokens(
    transformer: Transformer,
    prompts: TextTokens,
    *,
    unconditional: TextTokens,
    prompt_of_image: Tensor,
    guidance_scale: float,
    sampler: Sampler,
    generators: Sequence[torch.Generator],
    num_codes: int | None,
) -> Iterator[Tensor]:
    """Generate the tokens of N images, yielding one position after the other.

    Dropping the iterator cancels the drawing and frees its cache. Gradients are off inside and
    as before outside (which is why this is a decorated generator and not a `with` block).

    Args:
        transformer: in evaluation mode.
        prompts: B tokenized prompts.
        unconditional: the tokenized empty prompt, one row; read only when guidance is not 1.
        prompt_of_image: i64[N], which prompt each image belongs to.
        guidance_scale: s in `uncond + s * (cond - uncond)`.
        sampler: chooses tokens from the guided logits.
        generators: one random stream for each image.
        num_codes: ids from here up are never drawn; None leaves every id to the sampler.

    Yields:
        i64[N] on the transformer's device, `image_length` times.

    Raises:
        InputTypeError: the sampler cannot be called with logits and a state, or did not return a
            tensor of integers.
        InputError: it returned ids that it was not offered, or the logits are not numbers. On a
            GPU this is told some tokens late, but before the last one is yielded. Or there is not
            one generator for each image.
    """
    texts, slots = split_texts(prompts), Slots(transformer, sampler, num_codes=num_codes)
    if len(generators) != len(prompt_of_image):
        raise InputError(
            f"{len(prompt_of_image)} images need as many generators, not {len(generators)}."
        )
    for prompt, generator in zip(prompt_of_image.tolist(), generators, strict=True):
        drawing = Drawing(texts=(texts[prompt],), weights=(guidance_scale,), base=unconditional)
        slots.add(drawing, generator=generator)
    for _ in range(transformer.config.image_length):
        slots.step()
        yield slots.latest


@torch.no_grad()
def draw_batches(
    request: Request,
    transformer: Transformer,
    *,
    num_codes: int,
    every: int | None = None,
    told: Callable[[int], object] = lambda tokens: None,
    prune: Callable[[Sequence[int], Tensor], Sequence[int]] | None = None,
    tally: Tally | None = None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Generate the tokens of a call, one batch after the other.

    Args:
        request: what to draw.
        transformer: in evaluation mode.
        num_codes: ids from here up are never drawn.
        every: yield unfinished pictures every so many tokens; None yields finished ones only.
        told: called with the number of tokens of each step, and of those that pruning saves.
        prune: called when half of the rows are drawn, with the images of a batch and their tokens
            i64[n,P]; returns those that are to be finished. None finishes all.
        tally: counts the passes over the weights.

    Yields:
        The images of a batch, those that were not pruned, with their tokens i64[n,P].
    """
    length = transformer.config.image_length
    half = half_length(length, transformer.config.grid[1]) if prune is not None else 0
    for batch in request.batches:
        part: Sequence[int] = batch
        slots = Slots(transformer, request.sampler, num_codes=num_codes, tally=tally)
        added = [slots.add(request.drawings[image]) for image in part]
        drawn: list[Tensor] = []
        while len(drawn) < length:
            slots.step()
            drawn.append(slots.latest)
            told(len(part))
            if prune is not None and len(drawn) == half:
                kept = list(prune(part, torch.stack(drawn, dim=1)))
                places = [part.index(image) for image in kept]
                slots.drop(slot for place, slot in enumerate(added) if place not in places)
                index = torch.tensor(places, dtype=torch.int64, device=drawn[0].device)
                drawn = [tokens[index] for tokens in drawn]
                told((len(part) - len(kept)) * (length - half))
                part = kept
            if len(drawn) == length or (every is not None and len(drawn) % every == 0):
                yield part, torch.stack(drawn, dim=1)


def half_length(length: int, columns: int | None = None) -> int:
    """Return how many tokens the upper half of a picture's rows has.

    Args:
        length: tokens of the picture.
        columns: of its grid; None for a square.

    Example:
        >>> from dallemini.generation.loop import half_length
        >>> half_length(256), half_length(25), half_length(40, columns=8)
        (128, 10, 16)
    """
    columns = columns or math.isqrt(length)
    return length // columns // 2 * columns
