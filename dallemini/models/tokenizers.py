"""The closed table of image tokenizers: which classes a name or a source may stand for.

A new one is a class beside its network, a line here, its formats in `checkpoints`, and its name
among the components there.
"""

from __future__ import annotations

from .dvae import DVAE, DiscreteVAE
from .image_tokenizer import ImageTokenizer
from .vqgan import VQGAN

IMAGE_TOKENIZERS: tuple[type[ImageTokenizer], ...] = (VQGAN, DVAE, DiscreteVAE)

ImageTokenizer._kinds = IMAGE_TOKENIZERS  # here, since a base cannot import what is made of it
