"""How many pictures of the service there is room for at a time."""

from __future__ import annotations

from ..generation.config import MAX_IMAGES
from ..generation.memory import choose_batch_size
from ..pipeline.pipeline import Pipeline
from .config import ServiceConfig


def count_rows(pipe: Pipeline, config: ServiceConfig) -> int:
    """Return how many decoder rows are computed together: two for a picture that is guided."""
    if config.max_batch != "auto":
        return 2 * config.max_batch
    guided = pipe.config.override(guidance_scale=2.0, batch_size="auto")
    return 2 * choose_batch_size(guided, pipe.transformer, pipe.vqgan, images=MAX_IMAGES)
