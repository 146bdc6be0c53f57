"""Between codes and pictures: what a pipeline asks of its image tokenizer, whatever its class.

Shapes: N images, L image tokens, H/W pixels.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..models.image_tokenizer import ImageTokenizer


class ImageTokenizerLike(Protocol):
    """What the pipeline asks of the part that turns codes into pictures.

    Every `ImageTokenizer` is one; a class of your own need not be made from it.
    """

    @property
    def codebook_size(self) -> int:
        """Number of codes."""

    @property
    def image_length(self) -> int:
        """Number of tokens of a picture at the trained resolution."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def encode(self, images: Tensor) -> Tensor:
        """Map f[N,3,H,W] in [0, 1] to i64[N,L]."""

    def decode(self, image_tokens: Tensor) -> Tensor:
        """Map i64[N,L] to f[N,3,H,W] in [0, 1]."""


def encode_pictures(vqgan: ImageTokenizerLike, images: Tensor) -> Tensor:
    """Turn pictures of the size that an image tokenizer decodes into codes.

    Some decode larger pictures than they encode, so that these are made smaller first.

    Args:
        vqgan: encodes.
        images: f[N,3,H,W] in [0, 1].

    Returns:
        i64[N,L].
    """
    return vqgan.encode(vqgan.shrink(images) if isinstance(vqgan, ImageTokenizer) else images)


def decode_tokens(vqgan: ImageTokenizerLike, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Map i64[N,L] of a grid of rows and columns to f[N,3,H,W]."""
    if isinstance(vqgan, ImageTokenizer):
        return vqgan.decode(tokens, shape=grid)
    return vqgan.decode(tokens)


def token_size(vqgan: ImageTokenizerLike, grid: tuple[int, int]) -> int:
    """Return the pixels along each side of a token, of a grid of rows and columns."""
    if isinstance(vqgan, ImageTokenizer):
        return vqgan.token_size
    blank = torch.zeros((1, math.prod(grid)), dtype=torch.int64, device=vqgan.device)
    return int(vqgan.decode(blank).shape[-1]) // grid[1]
