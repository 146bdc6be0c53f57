"""How large and how many pictures a pipeline draws for a service."""

from __future__ import annotations

import contextlib

import torch

from ..errors import InputError
from ..generation.config import MAX_IMAGES
from ..generation.memory import choose_batch_size
from ..pipeline.pipeline import Pipeline
from ..pipeline.pixels import token_size
from .config import ServiceConfig


def find_sizes(pipe: Pipeline) -> list[int]:
    """Return what the sides of pictures may be in pixels, the model's own first, up to its double.

    An image tokenizer that decodes one size only has one.
    """
    grid = pipe.transformer.config.grid
    with torch.no_grad():
        unit = token_size(pipe.vqgan, grid)
    own = unit * grid[1]
    sizes = range(own, 2 * own + 1, unit)
    with contextlib.suppress(InputError):
        pipe._sketcher(pipe.config.override(width=sizes[-1])).begin(None, None)
        return list(sizes)
    return [own]


def count_rows(pipe: Pipeline, config: ServiceConfig) -> int:
    """Return how many decoder rows are computed together: two for a picture that is guided."""
    if config.max_batch != "auto":
        return 2 * config.max_batch
    guided = pipe.config.override(guidance_scale=2.0, batch_size="auto")
    return 2 * choose_batch_size(guided, pipe.transformer, pipe.vqgan, images=MAX_IMAGES)
