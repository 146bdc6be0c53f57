"""Training CLIP: the symmetric contrastive loss of pictures and captions.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al.
2021, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..models.clip import CLIP

MAX_LOGIT_SCALE = math.log(100.0)


@dataclass(frozen=True)
class CLIPBatch:
    """Pictures and their captions.

    Attributes:
        pixel_values: f[N,3,S,S], normalised as the model expects.
        input_ids: i64[N,T].
        same: bool[N,N], True where picture i also fits caption j (the diagonal always does).
    """

    pixel_values: Tensor
    input_ids: Tensor
    same: Tensor


class CLIPTask:
    """Loss of CLIP on batches of pictures and captions.

    Args:
        clip: trained in place.
        batches: step number to a batch.
        evaluation: name to a batch of M pairs, for `evaluate`.
    """

    def __init__(
        self,
        clip: CLIP,
        *,
        batches: Callable[[int], CLIPBatch],
        evaluation: dict[str, CLIPBatch],
    ) -> None:
        self.clip, self.batches, self.evaluation = clip, batches, evaluation

    @property
    def module(self) -> nn.Module:
        """The CLIP model."""
        return self.clip

    def losses(self, step: int) -> dict[str, Tensor]:
        """Compute the losses of a step."""
        batch = self.batches(step)
        logits = self._logits(batch)
        # a picture may fit several captions of the batch: share the target among them
        target = batch.same.float()
        by_caption = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
        by_picture = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
        return {"loss": (by_caption + by_picture) / 2}

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure how often a caption finds its picture first, and among the first five."""
        measured = {}
        for name, batch in self.evaluation.items():
            logits = self._logits(batch).T
            rank = (logits > logits.diagonal()[:, None]).masked_fill(batch.same.T, False).sum(1)
            measured[f"{name}_top1"] = float((rank < 1).float().mean())
            measured[f"{name}_top5"] = float((rank < 5).float().mean())
        return measured

    def _logits(self, batch: CLIPBatch) -> Tensor:
        pictures = F.normalize(self.clip.encode_image(batch.pixel_values).float(), dim=-1)
        captions = F.normalize(self.clip.encode_text(batch.input_ids).float(), dim=-1)
        scale = self.clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        return scale * pictures @ captions.T
