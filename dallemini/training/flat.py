"""Pictures of one colour while a VQGAN is trained.

In a network whose biases are still zero, black pictures are zero in every layer, and the gradient
of a norm of constant inputs is 1 / sqrt(eps): a thousand times what came in, for each norm that it
passes, until float32 overflows. Such a norm tells nothing, so nothing goes back through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_NOISE = 2.5 / 255  # of a picture of one colour that was compressed


class FlatPictures:
    """Stops the gradients of flat pictures at norms of constant inputs.

    Args:
        modules: the networks that the pictures pass, in the rows of their batch.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._norms = [m for of in modules for m in of.modules() if isinstance(m, nn.GroupNorm)]
        self._handles: list[RemovableHandle] = []

    def watch(self, images: Tensor) -> None:
        """Take f[N,3,H,W] for the pictures from now on; backward passes are included."""
        self.forget()
        flat = (images.amax((2, 3)) - images.amin((2, 3)) < _NOISE).all(dim=1)
        if not bool(flat.any()):
            return

        def stop(norm: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            assert isinstance(norm, nn.GroupNorm)
            return _stop(inputs[0], flat, norm)

        self._handles = [norm.register_forward_pre_hook(stop) for norm in self._norms]

    def forget(self) -> None:
        """Leave the networks as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _stop(inputs: Tensor, flat: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Return f[N,C,h,w] whose constant groups, in the rows bool[N], take no gradient."""
    groups = inputs.detach()[flat].flatten(2).unflatten(1, (norm.num_groups, -1)).flatten(2).float()
    constant = torch.zeros(len(inputs), norm.num_groups, dtype=torch.bool, device=inputs.device)
    constant[flat] = groups.var(dim=2, correction=0) < norm.eps
    channels = constant.repeat_interleave(inputs.shape[1] // norm.num_groups, dim=1)
    return torch.where(channels[:, :, None, None], inputs.detach(), inputs)
