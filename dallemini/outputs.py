"""The former place of `dallemini.pipeline.outputs` and `dallemini.images`."""

from __future__ import annotations

from .images import image_to_tensor, make_grid, read_image, tensor_to_images
from .pipeline.outputs import GenerationOutput, GenerationStep

__all__ = [
    "GenerationOutput",
    "GenerationStep",
    "image_to_tensor",
    "make_grid",
    "read_image",
    "tensor_to_images",
]
