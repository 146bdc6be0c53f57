"""Learning the VQGAN's codebook: k-means start, moving averages, revival of unused codes.

Source: "Neural Discrete Representation Learning" (van den Oord et al. 2017, appendix A.1) for the
moving averages; "Jukebox" (Dhariwal et al. 2020, section 3) for the random restarts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.vqgan import Codebook

DECAY = 0.99
MIN_USE = 0.05


class CodebookLearner(nn.Module):
    """Keeps the statistics from which the code vectors are computed.

    Args:
        codebook: whose vectors are rewritten in place; they get no gradient.
    """

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.codebook = codebook
        codebook.requires_grad_(False)
        codes = codebook.embedding.weight.shape[0]
        self.use: Tensor
        self.total: Tensor
        self.register_buffer(
            "use", torch.ones(codes, dtype=torch.float32, device=codebook.embedding.weight.device)
        )
        # as if each code had been used once, so that trained codes stay until their use changes
        self.register_buffer("total", codebook.embedding.weight.detach().float().clone())

    @torch.no_grad()
    def start(self, features: Tensor, generator: torch.Generator, *, rounds: int = 15) -> None:
        """Set the codes by k-means over features f[M,E], M at least the number of codes."""
        codes = self.use.numel()
        chosen = torch.randperm(
            features.shape[0], generator=generator, dtype=torch.int64, device="cpu"
        )[:codes]
        self._set(torch.ones_like(self.use), features[chosen.to(features.device)])
        for _ in range(rounds):
            nearest = self.codebook.nearest(features)
            use = torch.bincount(nearest, minlength=codes).float()
            total = torch.zeros_like(self.total).index_add_(0, nearest, features)
            spare = _draw(features, codes, generator)
            empty = use == 0
            self._set(use.masked_fill(empty, 1.0), torch.where(empty[:, None], spare, total))

    @torch.no_grad()
    def update(self, features: Tensor, nearest: Tensor, generator: torch.Generator) -> None:
        """Move the codes i64[M] towards the features f[M,E] that chose them."""
        codes = self.use.numel()
        use = torch.bincount(nearest, minlength=codes).float()
        total = torch.zeros_like(self.total).index_add_(0, nearest, features)
        use, total = self.use.lerp(use, 1 - DECAY), self.total.lerp(total, 1 - DECAY)
        dead = use < MIN_USE
        spare = _draw(features, codes, generator)
        self._set(use.masked_fill(dead, 1.0), torch.where(dead[:, None], spare, total))

    def _set(self, use: Tensor, total: Tensor) -> None:
        self.use.copy_(use)
        self.total.copy_(total)
        self.codebook.embedding.weight.copy_(total / use[:, None])


def _draw(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Choose rows at random, alike on every device and process."""
    chosen = torch.randint(
        features.shape[0], (count,), generator=generator, dtype=torch.int64, device="cpu"
    )
    return features[chosen.to(features.device)]
