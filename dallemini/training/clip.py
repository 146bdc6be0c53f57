"""Training CLIP: the symmetric contrastive loss of pictures and captions.

Source: "Learning Transferable Visual Models From Natural Language Supervision" (Radford et al.
2021, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..models.clip import CLIP
from .distributed import gather, gather_with_gradient, world_size
from .memory import send
from .task import Task

MAX_LOGIT_SCALE = math.log(100.0)


@dataclass(frozen=True)
class CLIPBatch:
    """Pictures and their captions.

    Attributes:
        pixel_values: f[N,3,S,S], normalised as the model expects.
        input_ids: i64[N,T].
        same: bool[N,N], True where picture i also fits caption j (the diagonal always does); None
            when pictures fit the captions that read like their own.
    """

    pixel_values: Tensor
    input_ids: Tensor
    same: Tensor | None = None


class CLIPTask(Task):
    """Loss of CLIP on batches of pictures and captions.

    Args:
        clip: trained in place.
        batches: batch number to this process's batch.
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

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The layers of both towers."""
        return [*self.clip.vision.layers, *self.clip.text.layers]

    def losses(self, index: int) -> dict[str, Tensor]:
        """Compute the losses of a batch; pictures are told from those of every process."""
        batch = self.batches(index)
        logits = self._logits(batch)
        # a picture may fit several captions of the batch: share the target among them
        target = self._same(batch).to(logits)
        by_caption = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
        by_picture = F.cross_entropy(logits.T, target.T / target.T.sum(1, keepdim=True))
        return {"loss": (by_caption + by_picture) / 2}

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure how often a caption finds its picture first, and among the first five."""
        measured = {}
        for name, batch in self.evaluation.items():
            logits = self._logits(batch, gathered=False).T
            same = _alike(batch.input_ids) if batch.same is None else batch.same
            right = logits.diagonal()[:, None]
            rank = (logits > right).masked_fill(same.T.to(logits.device), False).sum(1)
            measured[f"{name}_top1"] = float((rank < 1).float().mean())
            measured[f"{name}_top5"] = float((rank < 5).float().mean())
        return measured

    def judge(self, measured: Mapping[str, float]) -> float | None:
        """Count how many held-out captions find their picture, first or among the first five."""
        found = [measured.get(f"held_out_top{count}") for count in (1, 5)]
        return None if None in found else -sum(filter(None, found))

    def _logits(self, batch: CLIPBatch, *, gathered: bool = True) -> Tensor:
        pictures = self.clip.encode_image(send(batch.pixel_values, self.device))
        captions = self.clip.encode_text(send(batch.input_ids, self.device))
        pictures, captions = (F.normalize(f.float(), dim=-1) for f in (pictures, captions))
        if gathered:
            pictures, captions = gather_with_gradient(pictures), gather_with_gradient(captions)
        scale = self.clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        return scale * pictures @ captions.T

    def _same(self, batch: CLIPBatch) -> Tensor:
        if batch.same is None:
            length = self.clip.config.context_length - batch.input_ids.shape[1]
            padded = F.pad(batch.input_ids, (0, length), value=self.clip.config.pad_token_id)
            return _alike(gather(padded.to(self.device)))
        if world_size() > 1:
            raise InputError(
                "CLIPBatch.same is about one process's pictures only; leave it None on several."
            )
        return batch.same


def _alike(input_ids: Tensor) -> Tensor:
    """Tell which of i64[N,T] are equal, bool[N,N]."""
    return (input_ids[:, None] == input_ids[None]).all(dim=-1)
