"""Training the VQGAN: reconstruction, perceptual and adversarial losses, learned codebook.

Source: "Taming Transformers" (Esser et al. 2021, section 3.1). Order: a plain autoencoder first,
then k-means over its features, then quantised; a discriminator on perceptual features joins last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, UnsupportedOperationError
from ..models.vqgan import VQGAN
from ..sheets import Sheet
from .codebook import CodebookLearner
from .defaults import plain_defaults
from .distributed import gather
from .flat import FlatPictures
from .memory import send
from .perceptual import CHANNELS, EfficientNetFeatures, feature_distance
from .task import Task
from .vqgan_config import VQGANLossConfig

__all__ = ["Discriminator", "VQGANLossConfig", "VQGANTask"]


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


class VQGANTask(Task):
    """Loss of the VQGAN on batches of pictures.

    Args:
        vqgan: trained in place.
        batches: batch number to this process's f[N,3,H,W] in [0, 1], of the size that the decoder
            makes.
        held_out: pictures for `evaluate`, f[M,3,H,W].
        config: weights and starts of the losses.

    Raises:
        ConfigError: the starts are not set.
        UnsupportedOperationError: the codes are not chosen by the nearest vector, or a wavelet
            makes the pixels.
        MissingDependencyError: the extra `train` is not installed.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        *,
        batches: Callable[[int], Tensor],
        held_out: Tensor,
        config: VQGANLossConfig,
    ) -> None:
        self.batches, self.held_out, self.loss_config = batches, held_out, config
        if config.quantize_from is None or config.adversarial_from is None:
            raise ConfigError("Say when the losses begin: VQGANLossConfig(...).over(batches).")
        if vqgan.config.quantizer != "nearest" or vqgan.config.wavelet:
            raise UnsupportedOperationError(
                "Only a VQGAN with the quantizer 'nearest' and without a wavelet is trained here, "
                f"not one with {vqgan.config.quantizer!r} and wavelet={vqgan.config.wavelet}. "
                "Train a transformer on its codes as they are, or another VQGAN."
            )
        self.quantize_from, self.adversarial_from = config.quantize_from, config.adversarial_from
        # both draw weights from torch's global state
        with torch.random.fork_rng(devices=[]), plain_defaults():
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
        self.vqgan, self.batches_seen = vqgan, 0
        self.flat = FlatPictures([vqgan.encoder, vqgan.decoder])
        self.eye[0].to(vqgan.device)
        if config.decoder_only:
            vqgan.encoder.requires_grad_(False)
            vqgan.quant_conv.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The VQGAN, the codebook's statistics and the discriminator."""
        return self.trained

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The encoder, unless it is kept, and the decoder."""
        if self.loss_config.decoder_only:
            return (self.vqgan.decoder,)
        return self.vqgan.encoder, self.vqgan.decoder

    @property
    def fixed(self) -> dict[str, Any]:
        """When the losses begin: otherwise codes or discriminator would start again."""
        names = "quantize_from", "adversarial_from", "decoder_only"
        return {name: getattr(self.loss_config, name) for name in names}

    def losses(self, index: int) -> dict[str, Tensor]:
        """Compute the losses of a batch; "loss" does not count the discriminator's own."""
        images, self.batches_seen = self._images(index), index + 1
        self.flat.watch(images)
        generator = torch.Generator("cpu").manual_seed(self.loss_config.seed * 1_000_003 + index)
        losses: dict[str, Tensor] = {}
        if self.loss_config.decoder_only:
            with torch.no_grad():
                features = self._lookup(self._encode(images))[0]
        else:
            features = self._encode(images)
        if not self.loss_config.decoder_only and index >= self.quantize_from:
            if index == self.quantize_from:
                self._start_codebook(index, generator)
            features, losses["commitment"] = self._quantize(features, generator)
        drawn = self.vqgan.decode_features(features).float()
        real, fake = self._looked_at(images, drawn, generator)
        losses["l1"] = F.l1_loss(drawn, images)
        losses["perceptual"] = feature_distance(fake, real)
        if index >= self.adversarial_from and self.loss_config.adversarial_weight:
            losses |= self._adversarial(real, fake)
        losses["loss"] = self._sum(losses) + 0.0 * self._idle_weights()
        return losses

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the held-out pictures: PSNR in dB and the share of codes in use."""
        self.flat.forget()
        if not len(self.held_out):
            return {}
        drawn, used = [], []
        for part in self.held_out.to(self.device).split(64):
            if self._has_codes(step):
                codes = self.vqgan.encode(self.vqgan.shrink(part))
                used.append(codes.unique())
                drawn.append(self.vqgan.decode(codes))
            else:
                features = self._encode(part)
                drawn.append(self.vqgan.decode_features(features).clamp(0, 1))
        errors = (torch.cat(drawn).cpu() - self.held_out).square().mean(dim=(1, 2, 3))
        measured = {"psnr": float(-10 * errors.clamp(min=1e-8).log10().mean())}
        if used:
            measured["codes_used"] = torch.cat(used).unique().numel() / self.vqgan.codebook_size
        return measured

    def judge(self, measured: Mapping[str, float]) -> float | None:
        """Count the PSNR, once there are codes: without them it is higher."""
        return -measured["psnr"] if "codes_used" in measured else None

    def pictures(self, step: int) -> dict[str, Sheet]:
        """Return eight held-out pictures, then what the network makes of them."""
        if not len(self.held_out):
            return {}
        shown = self.held_out[:8].to(self.device)
        features = self._encode(shown)
        if self._has_codes(step):
            features = self._lookup(features)[0]
        drawn = self.vqgan.decode_features(features).float()
        images = torch.cat([shown, drawn]).clamp(0, 1).cpu()
        captions = "held-out pictures", "what the network makes of them"
        return {"reconstructions": Sheet(images=images, columns=len(shown), captions=captions)}

    def _has_codes(self, step: int) -> bool:
        """Whether the codes are set; a step may have been several batches."""
        return max(step, self.batches_seen) > self.quantize_from

    def _images(self, index: int) -> Tensor:
        return send(self.batches(index), self.device)

    def _encode(self, images: Tensor) -> Tensor:
        """Map pictures of the decoder's size, f[N,3,H,W], to vectors before quantisation."""
        return self.vqgan.encode_features(self.vqgan.shrink(images)).float()

    def _quantize(self, features: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        learner = self.trained["codebook"]
        assert isinstance(learner, CodebookLearner)
        chosen, flat, nearest = self._lookup(features)
        commitment = F.mse_loss(features, chosen)
        with self._full_precision():
            learner.update(gather(flat), gather(nearest), generator)
        return features + (chosen - features).detach(), commitment

    def _lookup(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nearest vectors f[N,E,h,w], the features as f[M,E], and their codes i64[M]."""
        flat = features.detach().permute(0, 2, 3, 1).flatten(0, 2)
        with self._full_precision():
            nearest = self.vqgan.quantize.nearest(flat)
        vectors = self.vqgan.quantize.embedding(nearest)
        vectors = vectors.view(features.shape[0], *features.shape[2:], features.shape[1])
        return vectors.permute(0, 3, 1, 2), flat, nearest

    @torch.no_grad()
    def _start_codebook(self, index: int, generator: torch.Generator) -> None:
        learner = self.trained["codebook"]
        assert isinstance(learner, CodebookLearner)
        parts = []
        for offset in range(self.loss_config.kmeans_batches):
            features = self._encode(self._images(index + offset))
            parts.append(gather(features.permute(0, 2, 3, 1).flatten(0, 2)))
        with self._full_precision():
            learner.start(torch.cat(parts), generator)

    def _full_precision(self) -> torch.autocast:
        """Distances to codes need more digits than autocast leaves them."""
        return torch.autocast(self.device.type, enabled=False)

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

    def _idle_weights(self) -> Tensor:
        """Sum the discriminator's weights, so that it takes part in every loss, if only as zero."""
        weights = self.trained["discriminator"].parameters()
        return torch.stack([weight.sum() for weight in weights]).sum()

    def _looked_at(
        self, images: Tensor, drawn: Tensor, generator: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of both f[N,3,H,W]: of the whole, shrunk, or of the same part."""
        height, width = images.shape[2:]
        size = self.loss_config.perceptual_size
        if size is not None and size < max(height, width):
            share = self.loss_config.detail_share
            if share and _below(1000, generator) < 1000 * share:
                rows, columns = min(size, height), min(size, width)
                top = _below(height - rows + 1, generator)
                left = _below(width - columns + 1, generator)
                images, drawn = (
                    both[:, :, top : top + rows, left : left + columns] for both in (images, drawn)
                )
            else:
                scale = size / max(height, width)
                sides = [max(1, round(side * scale)) for side in (height, width)]
                images, drawn = (
                    F.interpolate(both, size=sides, mode="bilinear", antialias=True)
                    for both in (images, drawn)
                )
        return self.eye[0](images), self.eye[0](drawn)

    def _sum(self, losses: dict[str, Tensor]) -> Tensor:
        weights = {
            "perceptual": self.loss_config.perceptual_weight,
            "commitment": self.loss_config.commitment_weight,
            "generator": self.loss_config.adversarial_weight,
        }
        total = torch.zeros((), device=self.device, dtype=torch.float32)
        for name, value in losses.items():
            if name == "discriminator":  # its gradient, without its value
                value = value - value.detach()
            total = total + weights.get(name, 1.0) * value
        return total


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator, dtype=torch.int64, device="cpu"))
