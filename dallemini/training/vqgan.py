"""Training the VQGAN: reconstruction, perceptual and adversarial losses, learned codebook.

Source: "Taming Transformers" (Esser et al. 2021, section 3.1). Order: a plain autoencoder first,
then k-means over its features, then quantised; a discriminator on perceptual features joins last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..models.vqgan import VQGAN
from .codebook import CodebookLearner
from .perceptual import CHANNELS, EfficientNetFeatures, feature_distance


@dataclass(frozen=True, kw_only=True)
class VQGANLossConfig(Config):
    """When each loss begins and how much it counts; steps count from 0.

    With `decoder_only` the codes stay what they are, so that a transformer trained on them goes on
    fitting while the pictures get better.
    """

    quantize_from: int
    adversarial_from: int
    perceptual_weight: float = 0.25
    adversarial_weight: float = 0.03
    commitment_weight: float = 0.25
    kmeans_batches: int = 40
    decoder_only: bool = False
    seed: int = 0


class Discriminator(nn.Module):
    """Tells real from reconstructed patches by their perceptual features."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, 64, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(64, 1, 1)
            )
            for channels in CHANNELS[:2]
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map the first feature maps f[N,C,h,w] to scores f[N,1,h,w], high for real."""
        return [head(part) for head, part in zip(self.heads, features[:2], strict=True)]


class VQGANTask(nn.Module):
    """Loss of the VQGAN on batches of pictures.

    Args:
        vqgan: trained in place.
        batches: step number to f[N,3,H,W] in [0, 1].
        held_out: pictures for `evaluate`, f[M,3,H,W].
        config: weights and starting steps of the losses.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        *,
        batches: Callable[[int], Tensor],
        held_out: Tensor,
        config: VQGANLossConfig,
    ) -> None:
        super().__init__()
        self.batches, self.held_out, self.loss_config = batches, held_out, config
        with torch.random.fork_rng(devices=[]):  # both draw weights from torch's global state
            torch.manual_seed(config.seed)
            self.eye = [EfficientNetFeatures()]  # in a list: frozen, so not part of the state
            discriminator = Discriminator()
        self.trained = nn.ModuleDict(
            {
                "vqgan": vqgan,
                "codebook": CodebookLearner(vqgan.quantize),
                "discriminator": discriminator,
            }
        )
        self.vqgan = vqgan
        if config.decoder_only:
            vqgan.encoder.requires_grad_(False)
            vqgan.quant_conv.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The VQGAN, the codebook's statistics and the discriminator."""
        return self.trained

    def losses(self, step: int) -> dict[str, Tensor]:
        """Compute the losses of a step."""
        images = self.batches(step)
        generator = torch.Generator().manual_seed(self.loss_config.seed * 1_000_003 + step)
        losses: dict[str, Tensor] = {}
        if self.loss_config.decoder_only:
            with torch.no_grad():
                features = self._lookup(self.vqgan.encode_features(images).float())[0]
        else:
            features = self.vqgan.encode_features(images).float()
        if not self.loss_config.decoder_only and step >= self.loss_config.quantize_from:
            if step == self.loss_config.quantize_from:
                self._start_codebook(step, generator)
            features, losses["commitment"] = self._quantize(features, generator)
        drawn = self.vqgan.decode_features(features).float()
        real, fake = self.eye[0](images), self.eye[0](drawn)
        losses["l1"] = F.l1_loss(drawn, images)
        losses["perceptual"] = feature_distance(fake, real)
        if step >= self.loss_config.adversarial_from:
            losses |= self._adversarial(real, fake)
        losses["loss"] = self._sum(losses)
        return losses

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the held-out pictures: PSNR in dB and the share of codes in use."""
        drawn, used = [], []
        for part in self.held_out.split(64):
            features = self.vqgan.encode_features(part)
            if step > self.loss_config.quantize_from:
                codes = self.vqgan.encode(part)
                used.append(codes.unique())
                drawn.append(self.vqgan.decode(codes))
            else:
                drawn.append(self.vqgan.decode_features(features).clamp(0, 1))
        errors = (torch.cat(drawn) - self.held_out).square().mean(dim=(1, 2, 3))
        measured = {"psnr": float(-10 * errors.clamp(min=1e-8).log10().mean())}
        if used:
            measured["codes_used"] = torch.cat(used).unique().numel() / self.vqgan.codebook_size
        return measured

    def _quantize(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        learner = self.trained["codebook"]
        assert isinstance(learner, CodebookLearner)
        chosen, flat, nearest = self._lookup(features)
        commitment = F.mse_loss(features, chosen)
        learner.update(flat, nearest, generator)
        return features + (chosen - features).detach(), commitment

    def _lookup(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nearest vectors f[N,E,h,w], the features as f[M,E], and their codes i64[M]."""
        flat = features.detach().permute(0, 2, 3, 1).flatten(0, 2)
        nearest = self.vqgan.quantize.nearest(flat)
        vectors = self.vqgan.quantize.embedding(nearest)
        vectors = vectors.view(features.shape[0], *features.shape[2:], features.shape[1])
        return vectors.permute(0, 3, 1, 2), flat, nearest

    @torch.no_grad()
    def _start_codebook(self, step: int, generator: torch.Generator) -> None:
        learner = self.trained["codebook"]
        assert isinstance(learner, CodebookLearner)
        parts = []
        for offset in range(self.loss_config.kmeans_batches):
            features = self.vqgan.encode_features(self.batches(step + offset)).float()
            parts.append(features.permute(0, 2, 3, 1).flatten(0, 2))
        learner.start(torch.cat(parts), generator)

    def _adversarial(self, real: list[Tensor], fake: list[Tensor]) -> dict[str, Tensor]:
        """Hinge losses; the generator's sees the discriminator with its weights held fixed."""
        critic = self.trained["discriminator"]
        frozen = {name: value.detach() for name, value in critic.named_parameters()}
        judged: list[Tensor] = torch.func.functional_call(critic, frozen, (fake,))
        detached = [part.detach() for part in fake]
        on_real, on_fake = critic(real), critic(detached)
        return {
            "generator": -sum(score.float().mean() for score in judged),  # type: ignore[dict-item]
            "discriminator": sum(  # type: ignore[dict-item]
                F.relu(1 - a.float()).mean() + F.relu(1 + b.float()).mean()
                for a, b in zip(on_real, on_fake, strict=True)
            ),
        }

    def _sum(self, losses: dict[str, Tensor]) -> Tensor:
        weights = {
            "perceptual": self.loss_config.perceptual_weight,
            "commitment": self.loss_config.commitment_weight,
            "generator": self.loss_config.adversarial_weight,
        }
        total = torch.zeros(())
        for name, value in losses.items():
            total = total + weights.get(name, 1.0) * value
        return total
