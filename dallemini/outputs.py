"""The former place of `dallemini.pipeline.outputs`, `dallemini.images` and `dallemini.sheets`."""

from __future__ import annotations

from .images import image_to_tensor, read_image, tensor_to_images
from .pipeline.outputs import GenerationOutput, GenerationStep
from .sheets import make_grid

__all__ = [
    "GenerationOutput",
    "GenerationStep",
    "image_to_tensor",
    "make_grid",
    "read_image",
    "tensor_to_images",
]
