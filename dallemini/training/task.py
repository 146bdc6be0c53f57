"""What the loop asks of a training task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..sheets import Sheet


class Task(ABC):
    """A network and its loss.

    Batches are functions of their number, so that a resumed run sees what an uninterrupted one
    would have seen. On several processes each computes its own rows of a batch.

    Attributes:
        epoch_images: pictures of an epoch, to log how many were done; None where nobody counted.
        image_tokens: tokens that the network learns from of each picture, to log its speed.
    """

    epoch_images: int | None = None
    image_tokens: int = 0

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Everything that is trained, and its buffers: the state that a checkpoint keeps."""

    @abstractmethod
    def losses(self, index: int) -> dict[str, Tensor]:
        """Compute the losses of a batch, scalars; the one called "loss" is minimised.

        Every parameter that wants a gradient must take part in it, if only times zero.

        Args:
            index: number of the batch: the step, unless gradients are accumulated.
        """

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the averaged weights on held-out data; may be empty."""
        return {}

    def judge(self, measured: Mapping[str, float]) -> float | None:
        """Say how good what `evaluate` measured is, lower is better; None if it does not tell."""
        return measured.get("held_out_loss")

    def pictures(self, step: int) -> Mapping[str, Tensor | Sheet]:
        """Draw with the averaged weights: name to f[N,3,H,W] in [0, 1] or a sheet; may be empty."""
        return {}

    @property
    def fixed(self) -> dict[str, Any]:
        """Settings that stay for the length of a run, JSON values; a checkpoint keeps them."""
        return {}

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The parts that are compiled, and computed again under gradient checkpointing."""
        return ()

    @property
    def can_split(self) -> bool:
        """Whether the blocks may be split over processes, for networks that do not fit into one."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device
