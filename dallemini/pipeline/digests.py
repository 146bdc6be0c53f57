"""Digests by which a picture tells which weights drew it and made it larger.

Knows tensors, not what they are for.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from .moving import modules_of

_SAMPLES = 4  # of each tensor of weights; more would read much of a mapped file


def fingerprint(*parts: object) -> str:
    """Return 16 digits of a SHA-256 of samples of all weights, the same wherever they lie.

    It tells other weights from these in milliseconds, but is no proof against forgery.

    Example:
        >>> from dallemini.pipeline.digests import fingerprint
        >>> from dallemini.testing import tiny_vqgan
        >>> fingerprint(tiny_vqgan()) == fingerprint(tiny_vqgan(seed=1))
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, nn.Module):
            for name, tensor in sorted(part.named_parameters()):
                digest.update(f"{name} {tuple(tensor.shape)}".encode())
                digest.update(_sample(tensor.detach()))
    return digest.hexdigest()[:16]


def _sample(tensor: Tensor) -> bytes:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    if local.is_meta or not local.numel():
        return b""
    flat = local.reshape(-1)
    step = max(1, flat.numel() // _SAMPLES)
    # a copy: a storage that numpy has seen cannot be freed by FSDP
    return flat[::step].to(torch.float32).cpu().clone().numpy().tobytes()


def upscaler_digest(upscaler: object) -> str:
    """Return the `fingerprint` of an upscaler, "" of one without torch modules of its own."""
    modules = modules_of(upscaler)
    return fingerprint(*modules) if modules else ""
