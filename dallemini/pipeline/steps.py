"""From a request to tokens, with a bar, and what is seen of pictures that are not finished."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..generation.canvas import draw_canvases
from ..generation.drawing import FREE
from ..generation.loop import draw_batches
from ..generation.request import Request
from ..generation.slot import Tally
from ..images import tensor_to_images
from ..models.transformer import Transformer
from .outputs import GenerationStep
from .progress import Meter
from .sketch import Sketch

UNDRAWN_GRAY = 0.9


def draw(
    request: Request,
    sketch: Sketch | None,
    transformer: Transformer,
    num_codes: int,
    *,
    every: int | None,
    meter: Meter,
    prune: Callable[[Sequence[int], Tensor], Sequence[int]] | None = None,
    tally: Tally | None = None,
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Yield batches of images with their tokens: finished, or every so often.

    Without a sketch they are i64[n,P], the tokens so far; with one i64[n,L], -1 where there is none
    yet.
    """
    if sketch is None:
        with meter.stage("tokens", transformer.config.image_length * len(request.seeds)) as told:
            yield from draw_batches(
                request,
                transformer,
                num_codes=num_codes,
                every=every,
                told=told,
                prune=prune,
                tally=tally,
            )
        return
    with meter.stage("tokens", sum(map(sketch.work, request.seeds))) as told:
        yield from draw_canvases(
            [sketch.draw_on(drawing) for drawing in request.drawings],
            transformer,
            sketch.canvas,
            sampler=request.sampler,
            batch_size=sketch.batch_size(request),
            lookahead=request.config.lookahead,
            num_codes=num_codes,
            every=every,
            told=told,
            tally=tally,
        )


def make_step(
    request: Request,
    sketch: Sketch | None,
    part: Sequence[int],
    tokens: Tensor,
    grid: tuple[int, int],
    decode: Callable[[Tensor], Tensor],
    about: dict[str, Any],
) -> GenerationStep:
    """Make the look at some pictures of a call.

    Args:
        request: the call.
        sketch: what was there before; None for pictures of the model's own size.
        part: which of its pictures.
        tokens: as `draw` yields them.
        grid: rows and columns of tokens of a picture without a sketch.
        decode: maps i64[n,L] to pixels f[n,3,H,W] in [0, 1].
        about: what is told of the pipeline.
    """
    if sketch is None:
        shape, length = grid, math.prod(grid)
        more = length - tokens.shape[1]
        pixels = decode(torch.cat([tokens, tokens[:, -1:].expand(-1, more)], dim=1)).float()
        undrawn = torch.zeros(len(tokens), length, dtype=torch.bool, device="cpu")
        undrawn[:, tokens.shape[1] :] = True
    else:
        shape, undrawn = sketch.shape, tokens == FREE
        pixels = decode(tokens.clamp(min=0)).float()
    gray = interpolate(undrawn.view(-1, 1, *shape).float(), size=pixels.shape[2:])
    images = tensor_to_images(pixels.lerp(pixels.new_tensor(UNDRAWN_GRAY), gray))
    seeds = tuple(request.seeds[image] for image in part)
    if sketch is not None:
        images = [sketch.keep_pixels(*pair) for pair in zip(images, seeds, strict=True)]
    return GenerationStep(
        prompts=tuple(request.prompts[request.prompt_of(image)] for image in part),
        images=images,
        image_tokens=tokens.cpu(),
        seeds=seeds,
        position=undrawn.shape[1] - int(undrawn.sum(1).max()),
        length=undrawn.shape[1],
        first_image=part[0],
        config=request.config,
        **about,
    )
