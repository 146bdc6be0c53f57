"""When each loss of the VQGAN begins, and how much it counts. Knows no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..config import Config
from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VQGANLossConfig(Config):
    """When each loss begins, counted in batches from 0, and how much it counts.

    Attributes:
        quantize_from: where k-means sets the codes; before, the network is a plain autoencoder.
            -1 takes the codes as they are; None is filled by `over`.
        adversarial_from: where the discriminator joins; None is filled by `over`.
        perceptual_weight: of the distance between features of EfficientNet-Lite0.
        adversarial_weight: of the discriminator's judgement; 0 leaves the discriminator out.
        commitment_weight: of the distance between features and their codes.
        kmeans_batches: batches over whose features the codes are first set.
        decoder_only: keep the codes, so that a transformer trained on them goes on fitting while
            the pictures get better.
        perceptual_size: larger pictures are shrunk to this side for the perceptual and
            adversarial losses.
        detail_share: share of the batches of which these losses see a random part of that size
            instead, pixel by pixel, in 0-1: what shrinking hides, blurred edges above all.
        seed: of the codebook's and the discriminator's random choices.
    """

    quantize_from: int | None = None
    adversarial_from: int | None = None
    perceptual_weight: float = 0.25
    adversarial_weight: float = 0.03
    commitment_weight: float = 0.25
    kmeans_batches: int = 40
    decoder_only: bool = False
    perceptual_size: int | None = None
    detail_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_types()
        for name in ("perceptual_weight", "adversarial_weight", "commitment_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"VQGANLossConfig.{name} must be a finite number from 0, "
                    f"not {getattr(self, name)}."
                )
        if not 0 <= self.detail_share <= 1:
            raise ConfigError(
                f"VQGANLossConfig.detail_share must be in 0-1, not {self.detail_share}."
            )
        if self.kmeans_batches < 1:
            raise ConfigError(
                f"VQGANLossConfig.kmeans_batches must be at least 1, not {self.kmeans_batches}."
            )
        if self.perceptual_size is not None and self.perceptual_size < 32:
            raise ConfigError(
                f"VQGANLossConfig.perceptual_size must be at least 32, not {self.perceptual_size}."
            )

    def over(self, batches: int, *, trained: bool = False) -> VQGANLossConfig:
        """Fill what is None for a run of so many batches.

        Args:
            batches: quantised after a quarter of them, with the discriminator after half.
            trained: whether the network has codes already, to be used from the start.

        Example:
            >>> VQGANLossConfig().over(100).quantize_from
            25
        """
        start = -1 if trained or self.decoder_only else batches // 4
        return replace(
            self,
            quantize_from=start if self.quantize_from is None else self.quantize_from,
            adversarial_from=(
                batches // 2 if self.adversarial_from is None else self.adversarial_from
            ),
        )
