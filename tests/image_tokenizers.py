"""Tiny image tokenizers of every kind, for tests: random weights, pictures of 16x16 pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dallemini import ImageTokenizer
from dallemini.models import DVAE, VQGAN, DiscreteVAE, DiscreteVAEConfig, DVAEConfig
from dallemini.testing import TINY_VQGAN

KINDS = ("nearest", "cosine", "gumbel", "wavelet", "finer", "DVAE", "DiscreteVAE")


def tiny_image_tokenizer(kind: str, *, seed: int = 0) -> ImageTokenizer:
    """Make one of `KINDS` with 64 codes, in evaluation mode."""
    tokenizer: ImageTokenizer
    if kind == "DVAE":
        config = DVAEConfig(n_hid=8, n_init=4, n_blk_per_group=1, vocab_size=64, resolution=16)
        tokenizer = DVAE.from_config(config, seed=seed)
    elif kind == "DiscreteVAE":
        sizes = DiscreteVAEConfig(
            image_size=16, num_tokens=64, codebook_dim=6, num_layers=2, num_resnet_blocks=1
        )
        tokenizer = DiscreteVAE.from_config(replace(sizes, hidden_dim=8), seed=seed)
    elif kind == "wavelet":
        wavelet = replace(TINY_VQGAN, quantizer="gumbel", wavelet=True)
        tokenizer = VQGAN.from_config(wavelet, seed=seed)
    elif kind == "finer":
        finer = replace(TINY_VQGAN, refiner_scale=2)
        tokenizer = VQGAN.from_config(finer, seed=seed)
    else:
        quantizer: Any = kind
        tokenizer = VQGAN.from_config(replace(TINY_VQGAN, quantizer=quantizer), seed=seed)
    return tokenizer.eval()


def pictures(count: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Return f[N,3,H,W] of coarse noise in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, -(-height // 4), -(-width // 4), generator=generator)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return large[:, :, :height, :width]
