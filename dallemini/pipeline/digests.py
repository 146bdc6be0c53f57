"""Digests by which a picture tells which weights drew it and made it larger.

Knows tensors, not what they are for.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

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
            named = dict(sorted(part.named_parameters()))
            samples = _read([_sample(tensor.detach()) for tensor in named.values()])
            for (name, tensor), sample in zip(named.items(), samples, strict=True):
                digest.update(f"{name} {tuple(tensor.shape)}".encode())
                digest.update(sample)
    return digest.hexdigest()[:16]


def _sample(tensor: Tensor) -> Tensor:
    """Return some numbers of a tensor, none of one without values."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    flat = local.reshape(-1)
    return flat[:0] if local.is_meta else flat[:: max(1, flat.numel() // _SAMPLES)]


def _read(samples: Sequence[Tensor]) -> list[bytes]:
    """Return each sample as float32; all of a device and dtype are fetched at once."""
    alike: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        alike.setdefault((sample.device, sample.dtype), []).append(index)
    read = [b""] * len(samples)
    for indices in alike.values():
        # a copy: a storage that numpy has seen cannot be freed by FSDP
        together = torch.cat([samples[index] for index in indices])
        if together.numel():
            content = io.BytesIO(together.to("cpu", torch.float32).numpy().tobytes())
            for index in indices:
                read[index] = content.read(4 * samples[index].numel())
    return read


def upscaler_digest(upscaler: object) -> str:
    """Return the `fingerprint` of an upscaler, "" of one without torch modules of its own."""
    modules = modules_of(upscaler)
    return fingerprint(*modules) if modules else ""
