"""Pictures that are not finished: what is drawn of them, and gray where nothing is yet."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import interpolate

from ..generation.request import Request
from ..images import tensor_to_images
from .outputs import GenerationStep
from .sketch import Sketch

UNDRAWN_GRAY = 0.9


def make_step(
    request: Request,
    sketch: Sketch | None,
    part: range,
    tokens: Tensor,
    pixels: Tensor,
    undrawn: Tensor,
) -> GenerationStep:
    """Make the look at some pictures of a call.

    Args:
        request: the call.
        sketch: what was there before; None for pictures of the model's own size.
        part: which of its pictures.
        tokens: i64[n,P] so far.
        pixels: f[n,3,H,W] in [0, 1]; anything where nothing is drawn.
        undrawn: bool[n,L], which tokens there are none of.
    """
    length = undrawn.shape[1]
    rows, columns = (math.isqrt(length),) * 2 if sketch is None else sketch.shape
    gray = interpolate(undrawn.view(-1, 1, rows, columns).cpu().float(), size=pixels.shape[2:])
    pixels = pixels.float()
    images = tensor_to_images(pixels.lerp(pixels.new_tensor(UNDRAWN_GRAY), gray))
    seeds = tuple(request.seeds[image] for image in part)
    if sketch is not None:
        images = [sketch.keep_pixels(*pair) for pair in zip(images, seeds, strict=True)]
    return GenerationStep(
        prompts=tuple(request.prompts[request.prompt_of(image)] for image in part),
        images=images,
        image_tokens=tokens.cpu(),
        seeds=seeds,
        position=length - int(undrawn.sum(1).max()),
        length=length,
        first_image=part.start,
    )
